"""The paper's six models, by their names on the command line, and what each changes in a pretraining config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

from pipeline.core.errors import ConfigError
from pipeline.core.stage import Resources
from pipeline.engine.plan import Node, Plan
from pipeline.reporting.paper_numbers import PAPER_CONVNET, PAPER_SETTINGS
from stages.models.config import FeedbackConfig
from stages.pretrain import PretrainConfig, pretrain
from stages.pretraining.config import TrainingConfig

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
"""The changes that make each of the six: {autoencoder, future predictor, composite} x {unconditional, conditional}."""


def pretrain_models(
    plan: Plan,
    models: Sequence[Model],
    config: PretrainConfig,
    resources: Resources,
    *,
    numbers: range,
    **source: Node,
) -> dict[Model, list[Node]]:
    """Adds the encoders of each model that have these numbers: 0 is the config's seed, 1 the next.

    Raises:
        ConfigError: no model is named, or one twice, or feedback is on and no model has a conditional decoder.
    """
    if not models:
        raise ConfigError(f"--models is empty; name any of {', '.join(MODELS)}")
    if len(set(models)) < len(models):
        raise ConfigError(f"--models names one twice: {', '.join(models)}; name each once")
    if config.training.feedback and not any(is_conditional(variant(config, model)) for model in models):
        raise ConfigError("--pretrain.feedback is for conditional decoders, and no model of --models has one")
    encoders: dict[Model, list[Node]] = {model: [] for model in models}
    for number in numbers:
        for model in models:
            name = f"pretrain {model}{encoder_suffix(number)}"
            seeded = variant(of_encoder(config, number), model)
            node = plan.add(pretrain, seeded, name=name, resources=resources, **source)
            encoders[model].append(node)
    return encoders


def of_encoder(config: PretrainConfig, number: int) -> PretrainConfig:
    """Returns the pretraining of an encoder's number: the seeds follow the config's."""
    return replace(config, training=replace(config.training, seed=config.training.seed + number))


def encoder_suffix(number: int) -> str:
    """Returns the end of a node's name that differs by encoder: nothing for the first one."""
    return f", encoder {number + 1}" if number else ""


def variant(config: PretrainConfig, model: Model) -> PretrainConfig:
    """Returns a pretraining with the decoders of one of the six models; feedback is for conditional ones alone."""
    changed = replace(config, model=replace(config.model, **MODELS[model]))
    if is_conditional(changed):
        return changed
    return replace(changed, training=replace(changed.training, feedback=FeedbackConfig()))


def is_conditional(config: PretrainConfig) -> bool:
    """Returns True if a decoder reads the previous frame."""
    return config.model.reconstruct_conditional or config.model.predict_conditional


PASSES_OVER_A_CORPUS: Final = PretrainConfig(training=TrainingConfig(num_steps=None, num_passes=8.0))
"""The settings of a pretraining on videos of one's own, few or many: the number of steps follows theirs."""
PRETRAIN_GROUP: Final = (
    "pretrain.num-units",
    "pretrain.num-layers",
    "pretrain.num-passes",
    "pretrain.num-steps",
    "pretrain.batch-size",
    "pretrain.optimizer.learning-rate",
)
"""The options of a pretraining that are in the short help of recipes."""
REFUSED: Final = {
    "pretrain.decoders": "--models decides it",
    "pretrain.reconstruct-conditional": "--models decides it",
    "pretrain.predict-conditional": "--models decides it",
}
OF_PERCEPTS: Final = dict.fromkeys(
    ("pretrain.transform.", "pretrain.parts", "pretrain.window-stride", "pretrain.validation-fraction"),
    "this recipe learns from pixels, and it is for percepts",
)
PUBLISHED: Final[dict[str, Any]] = {
    **{f"pretrain.{name.replace('_', '-')}": value for name, value in PAPER_SETTINGS.items()},
    "pretrain.batch-size": 100,
    "pretrain.optimizer.num-warmup-steps": 0,
}
"""The paper's models and optimiser, as its authors' code has them; conditional decoders read true frames."""
PUBLISHED_CLASSIFIER: Final = {
    "kind": "published",
    "learning-rate": 1e-4,
    "final-fraction": 1.0,
    "num-warmup-steps": 0,
    "momentum": 0.0,
    "velocity-clamp": 0.0,
    "weight-decay": 1e-5,
    "initial-weights": "published",
    "frozen-peepholes": True,
    "selection.learning-rates": (1e-4,),
}
"""The training of the paper's classifiers, as its authors' code has it: plain gradient descent at a constant rate."""
ON_GPUS: Final = {"gpus-per-worker": 1}
"""A GPU for each worker that uses one: refused where there is none."""
OF_CORPORA: Final[Mapping[str, Mapping[str, Any]]] = {
    "laptop": {
        "extract.decode.rate-fps": 10,
        "pretrain.num-units": 256,
        "pretrain.forget-bias": 1.0,
        "pretrain.batch-size": 32,
    },
    "gpu": ON_GPUS
    | {
        "pretrain.num-units": 2048,
        "pretrain.num-layers": 2,
        "pretrain.forget-bias": 1.0,
        "pretrain.batch-size": 512,
        "pretrain.optimizer.num-warmup-steps": 300,
    },
}
"""The sizes of recipes that learn from videos of one's own, for a kind of machine."""
PAPER_PERCEPTS: Final = {f"extract.convnet.{name}": value for name, value in PAPER_CONVNET.items()}
"""The paper's percepts. They need weights: --extract.convnet.weights."""
