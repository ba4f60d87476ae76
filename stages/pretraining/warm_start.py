"""The start of a training from a model that was trained before: which may be gone on from, by the header of its file.

The model keeps the transform that its weights have learned to read through, whatever videos are added.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from pipeline.core.errors import ConfigError
from stages.models.config import CompositeConfig
from stages.percepts.transforms import Kind, TransformConfig

if TYPE_CHECKING:
    from stages.pretraining.config import TrainingConfig

OF_WEIGHTS: Final = (
    *("num_units", "num_layers", "decoders", "reconstruct_conditional", "predict_conditional", "loss", "residual"),
    "autoregressive",
)
"""The settings of a model that its weights depend on."""


def check_warm_start(
    header: Mapping[str, Any],
    model: CompositeConfig,
    training: TrainingConfig,
    transform: TransformConfig | None,
    *,
    extractor: str | None,
) -> None:
    """Checks that a training with these settings can go on from the model of a header.

    transform: of the percepts; None: the training is on pixels. extractor: fingerprint of the percepts' extractor.

    Raises:
        ConfigError: the model has other settings, reads other percepts, or reads them in another way.
    """
    if header.get("class") != "Composite":
        raise ConfigError(f"a warm start goes on from a pretrained encoder, and this is a {header.get('class')}")
    made_by = (header.get("extractor") or {}).get("fingerprint")
    if made_by != extractor:
        remedy = (
            "another encoder" if None in (made_by, extractor) else "the settings of --extract that it was made with"
        )
        raise ConfigError(
            f"the encoder of the warm start learned from {_source(made_by)}, and this pretraining learns from "
            f"{_source(extractor)}: give {remedy}"
        )
    config = {"residual": False, "autoregressive": False, **header["config"]}
    others = [name for name in OF_WEIGHTS if config.get(name) != getattr(model, name)]
    if others:
        source = ", ".join(f"{name} {config.get(name)}" for name in others)
        wanted = ", ".join(f"{name} {getattr(model, name)}" for name in others)
        raise ConfigError(f"the encoder of the warm start has {source}, and this pretraining {wanted}: give the same")
    read = _kind(header.get("transform"))
    if transform is not None and read != (transform.kind, _squash_lambda(transform)):
        raise ConfigError(f"the encoder of the warm start reads percepts {read[0]}: set transform.kind={read[0]}")
    if training.start_at_mean:
        raise ConfigError("a warm start begins with the biases of its encoder, not at the mean: leave start_at_mean")


def _source(fingerprint: str | None) -> str:
    return "pixels" if fingerprint is None else f"percepts of extractor {fingerprint[:12]}"


def _squash_lambda(transform: TransformConfig) -> float | None:
    return transform.squash_lambda if transform.kind == "squashed" else None


def _kind(header: Mapping[str, Any] | None) -> tuple[Kind, float | None]:
    if header is not None and "squash_lambda" in header:
        return "squashed", float(header["squash_lambda"])
    is_raw = header is None or not (any(header["mean"]) or any(scale != 1 for scale in header["scale"]))
    return "raw" if is_raw else "standardised", None
