"""One arm of a comparison: classifiers of one kind, trained on the samplings of a label count as one batched model.

A sampling's clips, first weights, batches and dropout come from seeds of its own, so that it becomes the same
classifier whichever samplings train beside it. Clips and batches do not depend on the model: arms of one seed can be
compared sampling by sampling.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from torch import nn

from pipeline.errors import ConfigError, TrainingDiverged
from pipeline.files import join
from stages.datasets.clip_batches import ClipBatches, clip_batches
from stages.datasets.labelled import draw, labelled, load_windows
from stages.models.artifacts import Encoder
from stages.models.classifier import Classifier, LSTMClassifier, LSTMClassifierConfig, SingleFrameConfig
from stages.models.composite import Composite
from stages.models.group_training import GroupTrainingConfig, train_groups
from stages.models.groups import build_classifier, derived_seed, seed_dropout, seed_weights
from stages.models.pretrained import Pretrained
from stages.models.trained import TrainedClassifiers
from stages.percepts.artifacts import Percepts, Statistics
from stages.percepts.ledger import VideoRecord
from stages.percepts.reader import PerceptStore
from stages.percepts.standardisation import Standardisation


@dataclass(frozen=True, kw_only=True)
class ArmConfig(GroupTrainingConfig):
    """One arm of a comparison: a kind of classifier, what it sees, and how it is trained."""

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


def check_encoder(config: ArmConfig, encoder: Encoder, statistics: Statistics) -> None:
    """Check that the arm's LSTM can start from the encoder.

    Raises:
        ConfigError: the model is "frame", the encoder has another size, or it reads percepts standardised otherwise.
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
    if pretrained.standardisation not in (None, Standardisation.of(statistics.moments())):
        raise ConfigError(
            f"arm {config.arm!r}: the encoder was pretrained on percepts standardised by other statistics than these; "
            "connect the statistics that it was pretrained with"
        )


@dataclass(frozen=True)
class Job:
    """Samplings of one label count that train side by side."""

    labels_per_class: int
    samplings: tuple[int, ...]

    def __str__(self) -> str:
        return f"labels-{self.labels_per_class:03d}-samplings-{self.samplings[0]:03d}-{self.samplings[-1]:03d}"

    @property
    def file(self) -> str:
        """Name of the file that it makes."""
        return f"{self}.safetensors"


@dataclass(frozen=True)
class Trainer:
    """What a worker process starts from: reads ledger, statistics and encoder once, and gives what does a job."""

    config: ArmConfig
    uri: str
    percepts: Percepts
    statistics: Statistics
    encoder: Encoder | None
    device: str

    def __call__(self) -> Callable[[Job], None]:
        clips = labelled(self.percepts.records(), self.config.part)
        store = self.percepts.open(parts=(self.config.part,))
        standardise = Standardisation.of(self.statistics.moments())
        encoder = None if self.encoder is None else self.encoder.load()
        return partial(_train, self, clips, store, standardise, encoder)


def _train(
    trainer: Trainer,
    clips: Sequence[VideoRecord],
    store: PerceptStore,
    standardise: Standardisation,
    encoder: Composite | None,
    job: Job,
) -> None:
    """Trains the job's samplings as one model, and writes its file."""
    config = trainer.config
    class_names = sorted({str(clip.label) for clip in clips})
    drawn = [
        draw(clips, labels_per_class=job.labels_per_class, sampling=sampling, seed=config.seed)
        for sampling in job.samplings
    ]
    batches = _batches(config, job, drawn, class_names, store, standardise, trainer.device)
    classifier = _classifier(config, job, store.dim, len(class_names), encoder).to(trainer.device)
    seed_dropout(classifier, _seeds(config, "dropout", job))
    try:
        losses_SG = train_groups(classifier, batches, config)
    except TrainingDiverged as error:
        raise TrainingDiverged(f"{config.arm}, {job}: {error}") from None
    TrainedClassifiers(
        classifier,
        standardise,
        class_names=tuple(class_names),
        arm=config.arm,
        num_frames=config.num_frames,
        labels_per_class=job.labels_per_class,
        samplings=job.samplings,
        clips=tuple(tuple(clip.sha256 for clip in sampling) for sampling in drawn),
        groups=tuple(sorted({clip.group for sampling in drawn for clip in sampling if clip.group is not None})),
        losses_SG=losses_SG,
    ).save(join(trainer.uri, job.file))


def _seeds(config: ArmConfig, purpose: str, job: Job) -> list[int]:
    return [derived_seed(config.seed, purpose, job.labels_per_class, sampling) for sampling in job.samplings]


def _batches(
    config: ArmConfig,
    job: Job,
    drawn: Sequence[Sequence[VideoRecord]],
    class_names: Sequence[str],
    store: PerceptStore,
    standardise: Standardisation,
    device: str,
) -> ClipBatches:
    """Reads the clips that any of the samplings has, once, and lays out every step."""
    clips = list({clip.sha256: clip for sampling in drawn for clip in sampling}.values())
    windows = load_windows(store, clips, standardise, num_frames=config.num_frames, stride=config.crop_stride)
    if windows.num_padded == len(clips):
        raise ConfigError(f"num_frames is {config.num_frames}, longer than every clip: ask for shorter windows")
    position = {clip.sha256: number for number, clip in enumerate(clips)}
    return clip_batches(
        windows.to(device),
        np.array([[position[clip.sha256] for clip in sampling] for sampling in drawn]),
        np.array([[class_names.index(str(clip.label)) for clip in sampling] for sampling in drawn]),
        seeds=_seeds(config, "batches", job),
        num_steps=config.steps(len(drawn[0])),
        batch_clips=config.batch_clips,
    )


def _classifier(config: ArmConfig, job: Job, dim: int, num_classes: int, encoder: Composite | None) -> Classifier:
    """The job's classifiers as they start."""
    architecture = config.architecture(dim=dim, num_classes=num_classes, num_groups=len(job.samplings))
    classifier = build_classifier(architecture)
    seed_weights(classifier, _seeds(config, "weights", job))
    if config.zero_output:
        nn.init.zeros_(classifier.output.weight)
    if isinstance(classifier, LSTMClassifier):
        if encoder is not None:
            classifier.start_from(encoder)
        classifier.lstm.requires_grad_(not config.frozen)
    return classifier
