"""Settings of a training, from any source of sequences. Nothing here needs PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from pipeline.core.errors import ConfigError
from pipeline.core.flags import InsteadOf
from pipeline.core.numbers import check_at_least, check_numbers
from pipeline.core.stage import CAME_LATER
from stages.datasets.augmentation import AugmentationConfig
from stages.models.config import FeedbackConfig

FEW_VIDEOS: Final = 100
"""Fewer videos than this are few to learn motion from."""
InitialWeights = Literal["fan-in", "published"]
"""The draw of first weights: uniform within 1 / sqrt(inputs), or as the authors' code draws them."""
Precision = Literal["auto", "float32", "bfloat16"]
"""The number format of matrix products; auto is bfloat16 on a GPU and float32 on a CPU."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimiser, and the schedule of its learning rate: linear warm-up, then half a cosine."""

    kind: Literal["adamw", "published"] = "adamw"
    """The optimiser: adamw, or the published one, momentum with a clamped velocity on gradients that are summed over
    sequences, frames and dimensions, of half the squared error."""
    learning_rate: float = 1e-3
    """The learning rate peaks at this value; the published one is 1e-4."""
    final_fraction: float = 0.05
    """The learning rate ends at this fraction of the peak; 1 keeps it constant after warm-up."""
    num_warmup_steps: int = 50
    """The number of steps of linear warm-up."""
    weight_decay: float = 0.0
    """The decoupled weight decay of adamw, on matrices only; or the L2 of the published optimiser, added to the summed
    gradient, on matrices and peepholes."""
    momentum: float = 0.9
    """The beta 1 of adamw, or the momentum of the published optimiser."""
    beta2: float = 0.99
    """The beta 2 of adamw: the decay of the squared gradient's mean."""
    velocity_clamp: float = 1e-4
    """The largest change of a weight in one step of the published optimiser; 0 sets no limit."""
    max_grad_norm: float = 1.0
    """Gradients of a larger norm are scaled down to it, with adamw, each model by itself; 0 never scales them."""

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ConfigError(f"learning_rate is {self.learning_rate}; it must be above 0")
        if not (0 <= self.momentum < 1 and 0 <= self.beta2 < 1 and 0 <= self.final_fraction <= 1):
            raise ConfigError("momentum and beta2 lie in [0, 1), final_fraction in [0, 1]")
        check_numbers(self)


@dataclass(frozen=True, kw_only=True)
class WeightsConfig:
    """The choice of the weights that are validated and become the model."""

    average_decay: float = 0.0
    """An exponential moving average of the weights is validated and kept instead of the weights themselves. This share
    of the average stays at each step, say 0.999; 0 makes no average."""
    keep: Literal["last", "best"] = "last"
    """The model is that of the last step, or of the step that validated best."""

    def __post_init__(self) -> None:
        if not 0 <= self.average_decay < 1:
            raise ConfigError(f"average_decay is {self.average_decay}; it must lie in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class EarlyStopConfig:
    """The condition that ends a training before its last step: the validation loss no longer falls."""

    patience: int = 0
    """The training ends after so many validations in a row without a better one; 0 never ends it early."""
    min_improvement: float = 0.0
    """A validation is better where its loss lies below the best one by more than this share of it."""

    def __post_init__(self) -> None:
        if self.min_improvement >= 1:
            raise ConfigError(f"min_improvement is {self.min_improvement}; it is a share: give 0 <= share < 1")
        check_numbers(self)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The length of a training, its batches, and the weights that are kept."""

    batch_size: int = 64
    """The number of sequences of a step, over all workers."""
    num_steps: Annotated[int | None, InsteadOf("num_passes")] = 1000
    """The training takes so many optimiser steps; None: num_passes decides."""
    num_passes: Annotated[float | None, InsteadOf("num_steps")] = field(default=None, metadata=CAME_LATER)
    """The training takes so many passes over its sequences, in as many steps as that needs; None: num_steps decides."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """The optimiser and its learning rate. Gradients, and the norm they are clipped to, are those of the loss per
    dimension."""
    augmentation: AugmentationConfig = AugmentationConfig()
    feedback: FeedbackConfig = FeedbackConfig()
    validate_every_steps: int = 200
    """The training validates after every so many steps, besides before the first and after the last."""
    max_validation_batches: int = 50
    """A validation reads at most so many batches of the held-out sequences. With feedback it is open loop: conditional
    decoders read their own frames, as at test."""
    checkpoint_every_steps: int = 200
    """A checkpoint is written after every so many steps: a restart repeats at most those."""
    weights: WeightsConfig = WeightsConfig()
    early_stop: EarlyStopConfig = EarlyStopConfig()
    precision: Precision = "auto"
    """The number format of matrix products. auto: bfloat16 on a GPU, float32 on a CPU. bfloat16 doubles the speed of a
    CPU that has AVX512-BF16 or AMX, and is slow on any other; the rest is always float32."""
    initial_weights: InitialWeights = field(default="fan-in", metadata=CAME_LATER)
    """The first weights. fan-in: uniform within 1 / sqrt(inputs), peepholes zero; published: uniform within 0.01, and
    peepholes within 0.1, as in the authors' code."""
    start_at_mean: bool = False
    """The output biases start where the model predicts the mean frame of training, instead of at the paper's zero."""
    seed: int = 0
    """The seed of the initial weights, the order of the sequences, dropout, and which videos are held out."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "batch_size", "num_steps", "validate_every_steps", "max_validation_batches")
        check_at_least(self, 1, "checkpoint_every_steps")
        if self.num_passes is not None and not 0 < self.num_passes < math.inf:
            raise ConfigError(f"num_passes is {self.num_passes}; it must be above 0")
        if (self.num_steps is None) == (self.num_passes is None):
            given = "neither was" if self.num_steps is None else "both were"
            raise ConfigError(f"a training lasts num_steps or num_passes, and {given} given: give one of them")
        check_numbers(self)

    def steps(self, num_sequences: int | None) -> int:
        """Returns the number of optimiser steps, with so many training sequences; None: there is no end of them.

        Raises:
            ConfigError: `num_passes` is set, and there is no end of the sequences.
        """
        if self.num_steps is not None:
            return self.num_steps
        assert self.num_passes is not None
        if num_sequences is None:
            raise ConfigError(
                "num_passes counts passes over the training sequences, and these never end: use num_steps"
            )
        return math.ceil(self.num_passes * num_sequences / self.batch_size)
