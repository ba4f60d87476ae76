"""Configs of the paper's models: the part that a user sets, and specs, which add the part that the data decide.

Nothing here needs PyTorch, so that options can be listed without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self

from pipeline.core.errors import ConfigError
from pipeline.core.numbers import check_at_least, check_numbers
from pipeline.core.stage import CAME_LATER

MODEL_FILE = "model.safetensors"
"""Name of the file, in an artifact, that holds weights and config."""


@dataclass(frozen=True, kw_only=True)
class CompositeConfig:
    """One of the six models {autoencoder, future, composite} x {unconditional, conditional}, and its size."""

    num_units: int = 2048
    """The number of units of every layer, in encoder and decoders."""
    num_layers: int = 1
    """The number of layers of the encoder and of each decoder."""
    decoders: Literal["autoencoder", "future", "composite"] = "composite"
    """The decoders reconstruct the input in reverse order (autoencoder), predict the frames after it (future), or do
    both (composite)."""
    reconstruct_conditional: bool = False
    """The reconstruction decoder reads the previous frame: the true one in training, its own output otherwise."""
    predict_conditional: bool = False
    """The future decoder reads the previous frame: the true one in training, its own output otherwise."""
    num_frames_in: int = 16
    """The number of frames that the encoder reads, and that are reconstructed."""
    num_frames_out: int = 13
    """The number of frames to predict."""
    loss: Literal["bernoulli", "gaussian"] = "gaussian"
    """The loss of a frame. gaussian: linear output and squared error, for percepts and patches; bernoulli: logistic
    output and cross-entropy, for targets in [0, 1], such as pixels and squashed percepts."""
    dropout: float = 0.0
    """Probability of dropping a unit between layers, and below the output; never on recurrent connections."""
    forget_bias: float = 0.0
    """The forget gates' biases start at this value; the paper's is 0."""
    residual: bool = False
    """The outputs are added to the last frame read, so that no decoder need carry through its state what a video looks
    like; an untrained model copies that frame. Gaussian loss only; the paper's models are not residual."""
    autoregressive: bool = field(default=False, metadata=CAME_LATER)
    """The future decoder's outputs are added to a linear autoregression of the frames read, with weights that all
    dimensions share (LSTNet's), instead of to the last frame alone. It starts as the least squares of the training
    sequences. Needs residual; the paper's models have none."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "num_units", "num_layers", "num_frames_in", "num_frames_out")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout is {self.dropout}; it is a probability: give 0 <= dropout < 1")
        if self.reconstruct_conditional and not self.reconstructs:
            raise ConfigError("reconstruct_conditional needs a reconstruction: use decoders=autoencoder or composite")
        if self.predict_conditional and not self.predicts:
            raise ConfigError("predict_conditional needs a future decoder: use decoders=future or composite")
        if self.residual and self.loss != "gaussian":
            raise ConfigError("residual adds to the last frame, which logits cannot: use loss=gaussian")
        if self.autoregressive and not self.residual:
            raise ConfigError("autoregressive adds to what residual adds to: set residual, too, or neither")
        check_numbers(self)

    @property
    def reconstructs(self) -> bool:
        """True where the model has a reconstruction decoder."""
        return self.decoders != "future"

    @property
    def predicts(self) -> bool:
        """True where the model has a future decoder."""
        return self.decoders != "autoencoder"

    @property
    def num_frames(self) -> int:
        """Frames of a training sequence: those to read, and those to predict where there is a future decoder."""
        return self.num_frames_in + (self.num_frames_out if self.predicts else 0)

    def spec(self, dim: int) -> CompositeSpec:
        """Returns the model for frames of `dim` dimensions."""
        return CompositeSpec(**_settings(self, CompositeConfig), dim=dim)


@dataclass(frozen=True, kw_only=True)
class CompositeSpec(CompositeConfig):
    """A composite's config and the size of its frames, which the data decide: all that it takes to build one."""

    dim: int
    """Dimensions of a frame: pixels or percept activations."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "dim")


def common_lengths(configs: Sequence[CompositeConfig]) -> tuple[int, int]:
    """Returns the frames in and out that all models share; an autoencoder has no frames out. Raises ConfigError."""
    if not configs:
        raise ConfigError("there is no encoder to score: connect at least one")
    ins = {config.num_frames_in for config in configs}
    outs = {config.num_frames_out for config in configs if config.predicts} or {configs[0].num_frames_out}
    if len(ins) != 1 or len(outs) != 1:
        raise ConfigError(
            f"models of {sorted(ins)} frames in and {sorted(outs)} out cannot be compared on the same sequences: "
            "pretrain them with the same num_frames_in and num_frames_out"
        )
    return ins.pop(), outs.pop()


def model_names(configs: Sequence[CompositeConfig]) -> list[str]:
    """Returns the paper's names of the models; with their sizes where two have the same."""
    names = [paper_name(config) for config in configs]
    if len(set(names)) < len(names):
        names = [f"{name}, {c.num_layers} x {c.num_units}" for name, c in zip(names, configs, strict=True)]
    return [name if names.count(name) == 1 else f"{name} ({n + 1})" for n, name in enumerate(names)]


def paper_name(config: CompositeConfig) -> str:
    """Returns the paper's name of one of the six models, or of the two composites beside them."""
    if config.decoders == "autoencoder":
        return "conditional autoencoder" if config.reconstruct_conditional else "autoencoder"
    if config.decoders == "future":
        return "conditional future predictor" if config.predict_conditional else "future predictor"
    conditional = {
        (False, False): "composite",
        (False, True): "composite, conditional future",
        (True, False): "composite, conditional reconstruction",
        (True, True): "composite, both conditional",
    }
    return conditional[config.reconstruct_conditional, config.predict_conditional]


@dataclass(frozen=True, kw_only=True)
class FeedbackConfig:
    """The share of frames that a conditional decoder reads from its own output in training.

    The paper's decoders always read the true frames.
    """

    probability: float = 0.0
    """Conditional decoders read their own output instead of the true frame with this probability, from step `end` on;
    0 is the paper's training."""
    begin: float = 0.0
    """The probability rises from 0 after this share of the training's steps, and linearly."""
    end: float = 0.2
    """The probability has reached its value after this share of the training's steps."""
    num_passes: int = 4
    """Outputs that are read come from so many passes without gradient before each training pass: a frame may then be
    the result of so many of the decoder's own steps."""
    noise_std: float = field(default=0.0, metadata=CAME_LATER)
    """Standard deviation of Gaussian noise that is added to the true frames which conditional decoders read in
    training, in units of what the model reads; with probability 0 it stands in for their own errors."""
    input_rate: float = field(default=1.0, metadata=CAME_LATER)
    """The learning rate of the weights through which conditional decoders read frames, as a share of that of all other
    weights. Below 1 these weights start at zero: such a decoder begins as the unconditional one, and learns slowly to
    read. On the demo's percepts, 0.1 with probability 1 has no more error in open loop than the unconditional."""

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ConfigError(f"feedback.probability is {self.probability}; it is a probability: give 0 to 1")
        if not 0 <= self.begin <= self.end <= 1:
            raise ConfigError(
                f"feedback.begin is {self.begin} and feedback.end {self.end}; they are shares of the training's "
                "steps: give 0 <= begin <= end <= 1"
            )
        check_at_least(self, 1, "num_passes")
        if not 0 < self.input_rate <= 1:
            raise ConfigError(f"feedback.input_rate is {self.input_rate}; it is a share: give 0 < input_rate <= 1")
        if self.input_rate < 1 and not self:
            raise ConfigError("feedback.input_rate is for decoders that read their own frames: set probability, too")
        check_numbers(self)

    def __bool__(self) -> bool:
        """Returns whether decoders ever read anything but the true frames in training."""
        return self.probability > 0 or self.noise_std > 0

    def probability_at(self, step: int, num_steps: int) -> float:
        """Returns the probability at a step of a training of `num_steps` steps."""
        share_done = step / num_steps
        if share_done >= self.end:
            return self.probability
        if share_done <= self.begin:
            return 0.0
        return self.probability * (share_done - self.begin) / (self.end - self.begin)


ClassifierKind = Literal["frame", "lstm", "mean", "attention"]


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """An action classifier: an LSTM that names the action at every step, or one that knows no order of frames."""

    model: ClassifierKind = "lstm"
    """The kind of classifier. frame: softmax on each frame by itself; lstm: the paper's LSTM, softmax at every step;
    mean: logistic regression on the mean of a window's frames, by scikit-learn; attention: softmax on a mean of frames
    that is weighted by learned attention."""
    num_units: int = 256
    """The number of units of every layer of an lstm; the encoder's, where it starts from one."""
    num_layers: int = 1
    """The number of layers of an lstm; the encoder's, where it starts from one."""
    forget_bias: float = 0.0
    """The forget gates' biases of an lstm start at this value; the paper's is 0."""
    num_hidden_units: int = 0
    """The number of rectified units between frame and softmax of a frame classifier; 0 is logistic regression."""
    dropout: float = 0.0
    """Probability of dropping a unit between layers and below the softmax; never on recurrent connections."""
    input_dropout: float = 0.0
    """Probability of dropping a dimension of a frame."""
    inverse_regularization: float = 1.0
    """The C of scikit-learn's LogisticRegression, for mean: smaller values hold the weights closer to zero."""

    def __post_init__(self) -> None:
        probabilities = (self.dropout, self.input_dropout)
        if not all(0.0 <= probability < 1.0 for probability in probabilities):
            raise ConfigError(f"dropout is {probabilities}; each is a probability: give 0 <= dropout < 1")
        check_at_least(self, 1, "num_units", "num_layers")
        if not self.inverse_regularization > 0:
            raise ConfigError(f"inverse_regularization is {self.inverse_regularization}; it must be above 0")
        check_numbers(self)

    def spec(self, *, dim: int, num_classes: int, num_members: int = 1) -> ClassifierSpec:
        """Returns `num_members` classifiers of `num_classes` classes, of frames of `dim` dimensions."""
        settings = _settings(self, ClassifierConfig)
        return ClassifierSpec(**settings, dim=dim, num_classes=num_classes, num_members=num_members)


@dataclass(frozen=True, kw_only=True)
class ClassifierSpec(ClassifierConfig):
    """A classifier's config and the sizes that the data decide: all that it takes to build one."""

    dim: int
    """Dimensions of a frame."""
    num_classes: int
    """The number of actions to distinguish."""
    num_members: int = 1
    """The number of independent classifiers that are trained side by side."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "dim", "num_members")
        check_at_least(self, 2, "num_classes")

    def single(self) -> Self:
        """Returns the same classifier without others beside it."""
        return replace(self, num_members=1)

    def to_header(self) -> dict[str, Any]:
        """Returns what a file holds of the classifier: sizes, and the settings of its kind."""
        common = ("dim", "num_classes", "dropout", "input_dropout")
        names: tuple[str, ...] = ()
        if self.model == "lstm":
            names = ("num_units", "num_layers", "forget_bias")
        elif self.model == "frame":
            names = ("num_hidden_units",)
        return {"num_groups": self.num_members, **{name: getattr(self, name) for name in (*common, *names)}}

    @classmethod
    def of_header(cls, model: ClassifierKind, header: Mapping[str, Any]) -> ClassifierSpec:
        """Builds the spec of what `to_header` wrote. Raises TypeError, ConfigError where it is something else."""
        settings = dict(header)
        return cls(model=model, num_members=settings.pop("num_groups", 1), **settings)


def _settings(config: object, kind: type[Any]) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in fields(kind)}
