"""One arm of a comparison: a kind of classifier, what it sees, how it is trained, and what is chosen on validation."""

import itertools
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipeline.core.errors import ConfigError
from stages.finetuning.ensemble_training import GroupTrainingConfig
from stages.models.artifacts import Encoder
from stages.models.classifier import LSTMClassifierConfig, SingleFrameConfig
from stages.models.pretrained import Pretrained


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """Settings that are chosen on validation clips: every combination is tried. With nothing to choose, none is."""

    learning_rates: tuple[float, ...] = ()
    """Peak learning rates to try; empty: the configured one."""
    dropouts: tuple[float, ...] = ()
    """Dropouts between layers to try; empty: the configured one."""
    input_dropouts: tuple[float, ...] = ()
    """Input dropouts to try; empty: the configured one."""
    weight_decays: tuple[float, ...] = ()
    """Weight decays to try; empty: the configured one."""
    num_checks: int = 1
    """Early stopping: validation is asked so many times in training, evenly, the last time at its end."""
    stride: int = 8
    """Frames between the windows of a validation clip; as at test."""
    validation_fraction: float = 0.0
    """Of each class's training clips, held out in whole groups where no clip is of part `validation`."""

    def __post_init__(self) -> None:
        if not 0 <= self.validation_fraction <= 0.5:
            raise ConfigError(f"validation_fraction is {self.validation_fraction}; it must be from 0 to 0.5")
        if self.num_checks < 1 or self.stride < 1:
            raise ConfigError(f"num_checks {self.num_checks}, stride {self.stride}: give at least 1 of each")

    @property
    def is_on(self) -> bool:
        """Whether there is anything to choose."""
        return self.num_checks > 1 or len(self.candidates()) > 1

    def candidates(self) -> tuple["Candidate", ...]:
        """Every combination, in the order given: the first of equals wins."""
        grids = (self.learning_rates, self.dropouts, self.input_dropouts, self.weight_decays)
        return tuple(Candidate(*values) for values in itertools.product(*(grid or (None,) for grid in grids)))


@dataclass(frozen=True)
class Candidate:
    """Settings to try; None leaves the configured one."""

    learning_rate: float | None = None
    dropout: float | None = None
    input_dropout: float | None = None
    weight_decay: float | None = None

    def settings(self) -> dict[str, float]:
        """What it sets."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class ArmConfig(GroupTrainingConfig):
    """One arm of a comparison."""

    arm: str
    """Name of this model in tables, such as "LSTM pretrained"."""
    model: Literal["frame", "lstm"] = "lstm"
    """frame: softmax on each frame by itself; lstm: the paper's LSTM, softmax at every step."""
    part: str = "train"
    """Part of the ledger that the labelled clips are drawn from."""
    num_frames: int = 16
    """Frames of a training window."""
    crop_stride: int = 1
    """A clip's training window begins at a random multiple of this many frames; 1: anywhere."""
    num_units: int = 256
    """lstm: units of every layer; the encoder's, where it starts from one."""
    num_layers: int = 1
    """lstm: layers; the encoder's, where it starts from one."""
    forget_bias: float = 0.0
    """lstm: initial bias of the forget gates; the paper's is 0."""
    num_hidden_units: int = 0
    """frame: rectified units between frame and softmax; 0: logistic regression."""
    dropout: float = 0.0
    """Probability of dropping a unit between layers and below the softmax; never on recurrent connections."""
    input_dropout: float = 0.0
    """Probability of dropping a dimension of a frame."""
    zero_output: bool = False
    """Start the softmax's weights at zero instead of drawing them."""
    frozen: bool = False
    """lstm: train the softmax alone, and leave the LSTM as it starts."""
    selection: SelectionConfig = SelectionConfig()
    """Settings that are chosen on a validation part of the training videos, for each split and label count apart."""
    allow_fewer: bool = False
    """Learn from all clips of a class that has fewer than asked for, and choose no settings in a split that holds
    nothing out, instead of refusing."""
    seed: int = 0
    """Of samplings, weights, batches and dropout. Arms that are compared need the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_frames", "crop_stride"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.arm:
            raise ConfigError("arm is empty; give the model a name for tables")
        if self.frozen and self.model == "frame":
            raise ConfigError("frozen leaves a frame classifier nothing to train; use it with model=lstm")
        _ = self.architecture(dim=1, num_classes=2, num_groups=1)
        for candidate in self.selection.candidates():
            if candidate.settings():
                self.chosen(candidate)

    def chosen(self, candidate: Candidate) -> "ArmConfig":
        """The arm with a candidate's settings. Raises ConfigError where one of them cannot be."""
        settings: dict[str, Any] = {**candidate.settings(), "selection": SelectionConfig()}
        return replace(self, **settings)

    def architecture(self, *, dim: int, num_classes: int, num_groups: int) -> LSTMClassifierConfig | SingleFrameConfig:
        """The model's own config. Raises ConfigError."""
        if self.model == "frame":
            return SingleFrameConfig(
                dim=dim,
                num_classes=num_classes,
                num_groups=num_groups,
                num_hidden_units=self.num_hidden_units,
                dropout=self.dropout,
                input_dropout=self.input_dropout,
            )
        return LSTMClassifierConfig(
            dim=dim,
            num_classes=num_classes,
            num_groups=num_groups,
            num_units=self.num_units,
            num_layers=self.num_layers,
            dropout=self.dropout,
            input_dropout=self.input_dropout,
            forget_bias=self.forget_bias,
        )


def check_encoder(config: ArmConfig, encoder: Encoder) -> None:
    """Check that the arm's LSTM can start from the encoder.

    Raises:
        ConfigError: the model is "frame", or the encoder has another size or reads no percepts.
    """
    if config.model == "frame":
        raise ConfigError(f"arm {config.arm!r}: a frame classifier cannot start from an encoder; leave the encoder out")
    pretrained = Pretrained.load(encoder.uri)
    theirs = pretrained.composite.config
    if (theirs.num_units, theirs.num_layers) != (config.num_units, config.num_layers):
        raise ConfigError(
            f"arm {config.arm!r}: the encoder has {theirs.num_units} units in {theirs.num_layers} layers, the "
            f"classifier {config.num_units} in {config.num_layers}; set num_units and num_layers to the encoder's"
        )
    if pretrained.transform is None:
        raise ConfigError(
            f"arm {config.arm!r}: the encoder learned from pixels, and clips come as percepts; give another"
        )
