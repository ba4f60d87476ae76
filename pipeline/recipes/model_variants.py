"""The paper's six models, by their names on the command line, and what each changes in a pretraining config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from pipeline.core.errors import ConfigError
from pipeline.core.stage import Resources
from pipeline.engine.plan import Node, Plan
from stages.pretrain import PretrainConfig, pretrain

Model = Literal[
    "autoencoder",
    "future",
    "composite",
    "conditional autoencoder",
    "conditional future",
    "composite, conditional future",
]
MODELS: dict[Model, dict[str, Any]] = {
    "autoencoder": {"decoders": "autoencoder"},
    "future": {"decoders": "future"},
    "composite": {"decoders": "composite"},
    "conditional autoencoder": {"decoders": "autoencoder", "reconstruct_conditional": True},
    "conditional future": {"decoders": "future", "predict_conditional": True},
    "composite, conditional future": {"decoders": "composite", "predict_conditional": True},
}
"""The six models: {autoencoder, future predictor, composite} x {unconditional, conditional}."""


def pretrain_models(
    plan: Plan, models: Sequence[Model], config: PretrainConfig, resources: Resources, **source: Node
) -> list[Node]:
    """One pretrained model for each name."""
    if not models:
        raise ConfigError(f"models is empty; name any of {', '.join(MODELS)}")
    return [
        plan.add(pretrain, variant(config, model), name=f"pretrain {model}", resources=resources, **source)
        for model in models
    ]


def variant(config: PretrainConfig, model: Model) -> PretrainConfig:
    """Returns a pretraining with the decoders of one of the six models."""
    return replace(config, model=replace(config.model, **MODELS[model]))
