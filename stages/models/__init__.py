"""The paper's models: the LSTM with peepholes, six unsupervised models, two classifiers; how they are saved."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stages.models.pretrained import Pretrained, load_encoder

__all__ = ["Pretrained", "load_encoder"]

_HOMES = {"Pretrained": "pretrained", "load_encoder": "pretrained"}


def __getattr__(name: str) -> Any:
    # On first use: a process that only lists options needs no torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
