"""Pretraining: the composite LSTM learns, without labels, to reconstruct sequences and to predict what follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipeline.core.errors import ConfigError
from pipeline.core.files import join, read_json
from pipeline.core.rates import FLOP_PER_S, FLOP_PER_S_BFLOAT16, TRAIN_START_S, lstm_flop
from pipeline.core.stage import Context, Estimate, stage
from stages.datasets.artifacts import Digits, Patches
from stages.datasets.augmentation import VariationConfig
from stages.datasets.dataset_factories import OpenDigits, OpenPatches, OpenPercepts
from stages.models.artifacts import Encoder
from stages.models.composite import CompositeConfig
from stages.models.feedback import FeedbackConfig
from stages.percepts.artifacts import Percepts, Statistics
from stages.percepts.transforms import TransformConfig
from stages.pretraining.kept_weights import EarlyStopConfig, WeightsConfig
from stages.pretraining.loop import HISTORY_FILE, is_finished, pretraining_loop
from stages.pretraining.optimisation import OptimizerConfig
from stages.pretraining.precision import Precision
from stages.pretraining.training_plan import TrainingPlan

PIXELS = 4096
"""Dimensions of a frame of Moving MNIST, for estimates."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """The model, what it learns from, and for how long."""

    decoders: Literal["autoencoder", "future", "composite"] = "composite"
    """Reconstruct the input (in reverse order), predict the frames after it, or both."""
    reconstruct_conditional: bool = False
    """Give the reconstruction decoder the previous frame: the true one in training, its own output otherwise."""
    predict_conditional: bool = False
    """The same for the future decoder."""
    num_units: int = 2048
    """Units of every layer, in encoder and decoders."""
    num_layers: int = 1
    """Layers of the encoder and of each decoder."""
    num_frames_in: int = 16
    """Frames that the encoder reads, and that are reconstructed."""
    num_frames_out: int = 13
    """Frames to predict."""
    loss: Literal["bernoulli", "gaussian"] = "gaussian"
    """gaussian: squared error, for percepts and patches; bernoulli: cross-entropy, for pixels in [0, 1] and squashed
    percepts."""
    dropout: float = 0.0
    """Probability of dropping a unit between layers, and below the output."""
    forget_bias: float = 0.0
    """Initial bias of the forget gates (the paper's is 0)."""
    residual: bool = False
    """Outputs are what is added to the last frame read: with few videos, a decoder need not carry what each looks like.
    Untrained, the model copies that frame. The paper's models are not residual."""
    transform: TransformConfig = TransformConfig()
    variation: VariationConfig = VariationConfig()
    feedback: FeedbackConfig = FeedbackConfig()
    parts: tuple[str, ...] = ("unlabelled",)
    """Parts of the videos' split to learn from (percepts only)."""
    window_stride: int = 8
    """A window of frames begins every so many frames of a video (percepts only)."""
    validation_fraction: float = 0.05
    """Share of the videos, in whole groups, that is held out to validate on (percepts only)."""
    batch_size: int = 64
    """Sequences of a step, over all workers."""
    num_steps: int = 1000
    """Steps of training."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimiser and learning rate. Gradients, and the norm they are clipped to, are those of the loss a dimension."""
    validate_every_steps: int = 200
    """Validate after every so many steps, besides before the first and after the last."""
    max_validation_batches: int = 50
    """Validate on at most so many batches of the held-out sequences."""
    checkpoint_every_steps: int = 200
    """Write a checkpoint after every so many steps: a restart repeats at most those."""
    weights: WeightsConfig = WeightsConfig()
    early_stop: EarlyStopConfig = EarlyStopConfig()
    precision: Precision = "auto"
    """Of matrix products. auto: bfloat16 on a GPU, float32 on a CPU. bfloat16 doubles the speed of a CPU that has
    AVX512-BF16 or AMX, and is slow on any other; the rest is float32 always."""
    start_at_mean: bool = False
    """Output biases start where the model says the mean frame of training; false is the paper's zero."""
    seed: int = 0
    """Of the initial weights, the order of the sequences, dropout, and which videos are held out."""

    def __post_init__(self) -> None:
        self.composite(dim=1)
        at_least_one = ("window_stride", "batch_size", "num_steps", "validate_every_steps", "max_validation_batches")
        for name in (*at_least_one, "checkpoint_every_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 < self.validation_fraction < 1:
            raise ConfigError(f"validation_fraction is {self.validation_fraction}; it must lie between 0 and 1")
        if not self.parts:
            raise ConfigError("parts is empty; name the parts to learn from, such as unlabelled")
        if self.variation and self.loss == "bernoulli":
            raise ConfigError("variation takes frames out of [0, 1], where loss=bernoulli needs them: leave one")
        if self.residual and self.start_at_mean:
            raise ConfigError("a residual model starts at the last frame, not at the mean: leave start_at_mean")
        if self.feedback and not (self.reconstruct_conditional or self.predict_conditional):
            raise ConfigError("feedback is for conditional decoders, and none is: set feedback.probability=0")
        if self.feedback and (self.weights.keep == "best" or self.early_stop.patience):
            raise ConfigError(
                "validation is teacher-forced, and feedback gives some of that up for the open loop: "
                "use weights.keep=last and no early_stop with feedback"
            )
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}; it must be at least 0")

    def composite(self, dim: int) -> CompositeConfig:
        """The model for frames of `dim` dimensions."""
        return CompositeConfig(
            dim=dim,
            num_units=self.num_units,
            num_layers=self.num_layers,
            decoders=self.decoders,
            reconstruct_conditional=self.reconstruct_conditional,
            predict_conditional=self.predict_conditional,
            num_frames_in=self.num_frames_in,
            num_frames_out=self.num_frames_out,
            loss=self.loss,
            dropout=self.dropout,
            forget_bias=self.forget_bias,
            residual=self.residual,
        )

    @property
    def num_frames(self) -> int:
        """Frames of a sequence: those to read, and those to predict where there is a future decoder."""
        return self.num_frames_in + (self.num_frames_out if self.decoders != "autoencoder" else 0)


def _estimate(config: PretrainConfig, inputs: Mapping[str, Estimate]) -> Estimate:
    """Frames looked at; the frames' dimension is read off the bytes of the percepts, or is that of a picture."""
    percepts = inputs.get("percepts", Estimate())
    dim = PIXELS if not (percepts.num_frames and percepts.num_bytes) else percepts.num_bytes // percepts.num_frames // 2
    sequences, num_units, num_layers = config.num_steps * config.batch_size, config.num_units, config.num_layers
    flop = 0.0
    for num_steps, num_inputs in ((config.num_frames_in, dim), (config.num_frames, dim // 4)):
        flop += lstm_flop(
            num_sequences=sequences,
            num_steps=num_steps,
            num_inputs=num_inputs,
            num_units=num_units,
            num_layers=num_layers,
        )
    num_weights = 3 * 4 * num_units * (dim + num_units) * num_layers
    rate = FLOP_PER_S_BFLOAT16 if config.precision == "bfloat16" else FLOP_PER_S
    seconds = TRAIN_START_S + flop / rate
    return Estimate(num_frames=sequences * config.num_frames, num_bytes=4 * num_weights, seconds=seconds)


@stage(version=2, estimate=_estimate)
def pretrain(
    config: PretrainConfig,
    context: Context,
    *,
    percepts: Percepts | None = None,
    statistics: Statistics | None = None,
    digits: Digits | None = None,
    patches: Patches | None = None,
) -> Encoder:
    """Trains on `percepts` (with their `statistics`), on Moving MNIST of `digits`, or on `patches`; through Ray Train.

    Writes model.safetensors (weights, config, transform, extractor) and history.json. The bytes are the same after any
    number of restarts on one worker; another number of workers changes the order of sums and nothing else.

    Raises:
        ConfigError: not exactly one kind of input, or no video is as long as a window.
        SourceError: no video with frames is of `config.parts`.
        TrainingDiverged, OutOfMemory, StoreError, CorruptArtifact: see `stages.pretraining.loop.pretraining_loop`; the
          last good checkpoint stays.
        WorkerDied: workers were lost time and again.
    """
    opener = _opener(config, percepts, statistics, digits, patches)
    plan = TrainingPlan(
        uri=context.uri,
        open_source=opener,
        composite=config.composite(opener.dim()),
        optimizer=config.optimizer,
        seed=config.seed,
        batch_size=config.batch_size,
        num_steps=config.num_steps,
        validate_every_steps=config.validate_every_steps,
        max_validation_batches=config.max_validation_batches,
        checkpoint_every_steps=config.checkpoint_every_steps,
        variation=config.variation,
        feedback=config.feedback,
        transform=opener.transform(),
        extractor=opener.extractor(),
        weights=config.weights,
        early_stop=config.early_stop,
        max_sequences_per_worker=context.resources.max_sequences_per_worker,
        num_checkpoints_kept=context.resources.num_checkpoints_kept,
        precision=config.precision,
        start_at_mean=config.start_at_mean,
    )
    if not is_finished(context.uri):
        context.workers.train(
            pretraining_loop,
            plan,
            name=context.key,
            num_workers=min(context.resources.num_workers, config.batch_size),
            min_workers=min(context.resources.min_workers, config.batch_size),
            cpus_per_worker=context.resources.cpus_per_worker,
            gpus_per_worker=context.resources.gpus_per_worker,
        )
    _record(plan, context)
    return Encoder(context.uri, context.key)


def _opener(
    config: PretrainConfig,
    percepts: Percepts | None,
    statistics: Statistics | None,
    digits: Digits | None,
    patches: Patches | None,
) -> OpenPercepts | OpenDigits | OpenPatches:
    """The one kind of input that was connected."""
    if digits is not None and percepts is None and patches is None:
        return OpenDigits(digits=digits, num_frames=config.num_frames, seed=config.seed)
    if patches is not None and percepts is None and digits is None:
        return OpenPatches(patches=patches, num_frames=config.num_frames, seed=config.seed)
    if percepts is None or statistics is None or digits is not None or patches is not None:
        raise ConfigError("pretrain learns from percepts with their statistics, from digits, or from patches: give one")
    if config.loss == "bernoulli" and config.transform.kind != "squashed":
        raise ConfigError(
            f"loss=bernoulli is for frames in [0, 1], and {config.transform.kind} percepts are not: "
            "set transform.kind=squashed, or loss=gaussian"
        )
    return OpenPercepts(
        percepts=percepts,
        statistics=statistics,
        parts=config.parts,
        num_frames=config.num_frames,
        stride=config.window_stride,
        validation_fraction=config.validation_fraction,
        seed=config.seed,
        transform_config=config.transform,
    )


def _record(plan: TrainingPlan, context: Context) -> None:
    """Losses, and what they are of, as facts."""
    history = read_json(join(plan.uri, HISTORY_FILE))
    context.record(
        num_steps=history["num_steps"],
        kept_step=history["kept_step"],
        num_sequences_seen=history["num_steps"] * plan.batch_size,
        train_loss=history["train"][-1]["loss"],
        first_validation_loss=history["validation"][0]["loss"],
        validation_loss=next(point["loss"] for point in history["validation"] if point["step"] == history["kept_step"]),
    )
    if history["num_sequences"] is not None:
        context.record(num_sequences=history["num_sequences"])
