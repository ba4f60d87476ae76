"""Percepts: activations of a convnet on each frame; where they are kept, and how they are read."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stages.percepts.reader import PerceptStore, open_store
    from stages.percepts.windows import WindowOrder, Windows

__all__ = ["PerceptStore", "WindowOrder", "Windows", "open_store"]

_HOMES = {"PerceptStore": "reader", "open_store": "reader", "WindowOrder": "windows", "Windows": "windows"}


def __getattr__(name: str) -> Any:
    # On first use: torch, which these need, would be nine tenths of the start of a process that only decodes.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
