"""One arm of a comparison: a classifier, its input, its training, and the settings selected on validation clips."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from pipeline.core.errors import ConfigError
from pipeline.core.flags import Inline
from pipeline.core.numbers import check_at_least, check_numbers
from stages.models.artifacts import Encoder
from stages.models.config import ClassifierConfig
from stages.pretraining.config import InitialWeights, OptimizerConfig

MAX_FOLDS: Final = 5
Candidate = Mapping[str, float]
"""Settings to try, by name: those that differ from the configured ones."""


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """Settings that are selected on validation clips: every combination is tried. With one candidate, none is."""

    learning_rates: tuple[float, ...] = ()
    """Peak learning rates to try; an empty list keeps the configured one."""
    dropouts: tuple[float, ...] = ()
    """Dropouts between layers to try; an empty list keeps the configured one."""
    input_dropouts: tuple[float, ...] = ()
    """Input dropouts to try; an empty list keeps the configured one."""
    weight_decays: tuple[float, ...] = ()
    """Weight decays to try; an empty list keeps the configured one."""
    inverse_regularizations: tuple[float, ...] = ()
    """Values of C to try, for model=mean; an empty list keeps the configured one."""
    num_checks: int = 1
    """Early stopping: the number of validations in a training, evenly spaced, the last one at its end."""
    stride: int = 8
    """Frames between the starts of the windows of a validation clip; give that of the evaluation."""
    labels_only: bool = False
    """With k labels a class each sampling chooses within its own k, by cross-validation in up to five folds, and not on
    further labelled clips; with 1 label the configured settings stay. With all labels the held-out clips decide."""
    validation_fraction: float = 0.0
    """Share of each class's training clips, held out in whole groups where no clip is of part `validation`."""

    def __post_init__(self) -> None:
        if not 0 <= self.validation_fraction <= 0.5:
            raise ConfigError(f"validation_fraction is {self.validation_fraction}; it must be from 0 to 0.5")
        check_at_least(self, 1, "num_checks", "stride")
        check_numbers(self)

    def num_folds(self, labels_per_class: int) -> int:
        """Returns the folds of a cross-validation within so many labels a class: a divisor of it; 0 if there is none.

        The folds are of one size, so that they train side by side. A prime number of labels above 5 has as many folds.
        """
        if not self.labels_only or labels_per_class < 2:
            return 0
        return max((n for n in range(2, MAX_FOLDS + 1) if labels_per_class % n == 0), default=labels_per_class)

    @property
    def is_on(self) -> bool:
        """True if there is anything to select."""
        return self.num_checks > 1 or len(self.candidates()) > 1

    def candidates(self) -> tuple[Candidate, ...]:
        """Returns every combination, in the order given: the first of equals wins."""
        grids = {
            "learning_rate": self.learning_rates,
            "dropout": self.dropouts,
            "input_dropout": self.input_dropouts,
            "weight_decay": self.weight_decays,
            "inverse_regularization": self.inverse_regularizations,
        }
        names = [name for name, grid in grids.items() if grid]
        values = itertools.product(*(grids[name] for name in names))
        return tuple(dict(zip(names, combination, strict=True)) for combination in values)


@dataclass(frozen=True, kw_only=True)
class EnsembleTrainingConfig:
    """The training of the classifiers of an arm; fixed before any clip is seen."""

    optimizer: Inline[OptimizerConfig] = OptimizerConfig(num_warmup_steps=0)
    num_steps: int = 100
    """Number of training steps."""
    num_epochs: int = 0
    """Passes over the labelled clips, where they take more steps than num_steps; with 0, num_steps is used always."""
    batch_clips: int = 40
    """Clips of a training step; all clips where a classifier has fewer to learn from."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Number format of matrix products and gates; weights, cells, losses and the optimiser stay float32. bfloat16 is
    fast on GPUs and on CPUs that multiply it (AVX512-BF16, AMX)."""
    output_learning_rate: float | None = None
    """Peak learning rate of the softmax layer with adamw; none uses that of the layers below."""
    output_weight_decay: float | None = None
    """Weight decay of the softmax layer with adamw; none uses that of the layers below."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "num_steps", "batch_clips")
        if self.output_learning_rate is not None and not self.output_learning_rate > 0:
            raise ConfigError(f"output_learning_rate is {self.output_learning_rate}; it must be above 0, or none")
        if self.optimizer.kind == "published" and (self.output_learning_rate, self.output_weight_decay) != (None, None):
            raise ConfigError("the published optimiser has one learning rate and no weight decay; use kind=adamw")
        check_numbers(self)

    def steps(self, num_clips: int) -> int:
        """Returns S, the training steps of a classifier with `num_clips` labelled clips."""
        return max(self.num_steps, self.num_epochs * math.ceil(num_clips / self.batch_clips))


@dataclass(frozen=True, kw_only=True)
class ArmConfig:
    """The settings of one arm of a comparison."""

    arm: str
    """Name of this model in tables, such as "LSTM pretrained"."""
    classifier: Inline[ClassifierConfig] = ClassifierConfig()
    training: Inline[EnsembleTrainingConfig] = EnsembleTrainingConfig()
    arrow: bool = False
    """Each class is there a second time, its clips played backwards: the task is then also the order of frames."""
    part: str = "train"
    """Part of the ledger that the labelled clips are drawn from."""
    num_frames: int = 16
    """Frames of a training window."""
    crop_stride: int = 1
    """A clip's training window begins at a random multiple of this many frames; with 1, at any frame."""
    initial_weights: InitialWeights = "fan-in"
    """The first weights that no encoder gives. fan-in: uniform within 1 / sqrt(inputs); published: uniform within 0.01,
    and within 0.001 where frames are read, as in the authors' code."""
    frozen_peepholes: bool = False
    """The peepholes of an lstm stay as they start: at zero, or at the encoder's, as in the authors' code."""
    zero_output: bool = False
    """Start the softmax's weights at zero instead of drawing them."""
    frozen: bool = False
    """Train the softmax alone, and leave the LSTM at its first weights; for model=lstm."""
    selection: SelectionConfig = SelectionConfig()
    """Settings that are selected on a validation part of the training videos, for each split and label count apart."""
    allow_fewer: bool = False
    """Learn from all clips of a class that has fewer than the label count, and select no settings in a split that
    holds nothing out, instead of refusing."""
    seed: int = 0
    """Seed of samplings, weights, batches and dropout. Arms that are compared need the same."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "num_frames", "crop_stride")
        if not self.arm:
            raise ConfigError("arm is empty; give the model a name for tables")
        if (self.frozen or self.frozen_peepholes) and self.classifier.model != "lstm":
            raise ConfigError(f"frozen weights are an lstm's, and model is {self.classifier.model}; use model=lstm")
        for candidate in self.selection.candidates():
            if candidate:
                self.chosen(candidate)
        check_numbers(self)

    def chosen(self, candidate: Candidate) -> ArmConfig:
        """Returns the arm with a candidate's settings. Raises ConfigError where one of them breaks its rule."""
        settings: dict[str, Any] = dict(candidate)
        of_optimizer = {name: settings.pop(name) for name in ("learning_rate", "weight_decay") if name in settings}
        optimizer = replace(self.training.optimizer, **of_optimizer)
        return replace(
            self,
            classifier=replace(self.classifier, **settings),
            training=replace(self.training, optimizer=optimizer),
            selection=SelectionConfig(),
        )


def check_encoder(config: ArmConfig, encoder: Encoder) -> None:
    """Checks that the arm's LSTM can start from the encoder.

    Raises:
        ConfigError: the model is "frame", or the encoder has another size or reads no percepts.
    """
    if config.classifier.model != "lstm":
        raise ConfigError(
            f"arm {config.arm!r}: a classifier of kind {config.classifier.model} cannot start from an encoder; leave "
            "the encoder out"
        )
    from stages.models.pretrained import Pretrained

    pretrained = Pretrained.load(encoder.uri)
    composite, classifier = pretrained.composite.config, config.classifier
    if (composite.num_units, composite.num_layers) != (classifier.num_units, classifier.num_layers):
        raise ConfigError(
            f"arm {config.arm!r}: the encoder has {composite.num_units} units in {composite.num_layers} layers, the "
            f"classifier {classifier.num_units} in {classifier.num_layers}; set num_units and num_layers to the "
            "encoder's"
        )
    if pretrained.transform is None:
        raise ConfigError(
            f"arm {config.arm!r}: the encoder learned from pixels, and clips come as percepts; give another"
        )
