"""Pretraining: the composite LSTM learns, without labels, to reconstruct sequences and to predict what follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from pipeline.core.errors import ConfigError
from pipeline.core.flags import Inline
from pipeline.core.numbers import check_at_least
from pipeline.core.rates import FLOP_PER_S, FLOP_PER_S_BFLOAT16, H100_FLOP_PER_S, REFERENCE_CORES, WORKER_START_S
from pipeline.core.stage import CAME_LATER, Context, Estimate, Work, stage
from stages.datasets.artifacts import Digits, Patches
from stages.datasets.augmentation import AugmentationConfig
from stages.models.artifacts import Encoder, passes_text
from stages.models.config import MODEL_FILE, CompositeConfig
from stages.models.header import read_header
from stages.percepts.artifacts import Percepts, Statistics
from stages.percepts.transforms import TransformConfig
from stages.pretraining.config import TrainingConfig
from stages.pretraining.warm_start import check_warm_start

if TYPE_CHECKING:  # torch takes seconds to import
    from stages.datasets.dataset_factories import DigitsFactory, PatchesFactory, PerceptsFactory
    from stages.pretraining.training_plan import TrainingPlan

OF_FEW_VIDEOS: Final = AugmentationConfig(flip_signs=True)
"""The augmentation where videos are few."""
PIXELS = 4096
"""Dimensions of a frame of Moving MNIST, for estimates."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """The model, what it learns from, and for how long."""

    model: Inline[CompositeConfig] = CompositeConfig()
    training: Inline[TrainingConfig] = TrainingConfig()
    transform: TransformConfig = TransformConfig()
    parts: tuple[str, ...] = ("unlabelled",)
    """Parts of the videos' split to learn from (percepts only)."""
    window_stride: int = 8
    """A window of frames begins every so many frames of a video (percepts only)."""
    validation_fraction: float = 0.05
    """Share of the videos, in whole groups, that is held out to validate on (percepts only)."""
    few_videos: int = field(default=0, metadata=CAME_LATER)
    """The number of videos to learn from below which a model is residual and autoregressive, and reads sequences with
    turned signs, unless one of these is set: it learns how percepts change, and not by heart what the videos show. The
    log says so; 0: never (percepts only)."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "window_stride")
        check_at_least(self, 0, "few_videos")
        if not 0 < self.validation_fraction < 1:
            raise ConfigError(f"validation_fraction is {self.validation_fraction}; it must lie between 0 and 1")
        if not self.parts:
            raise ConfigError("parts is empty; name the parts to learn from, such as unlabelled")
        if self.training.augmentation and self.model.loss == "bernoulli":
            raise ConfigError("augmentation takes frames out of [0, 1], where loss=bernoulli needs them: leave one")
        if self.model.residual and self.training.start_at_mean:
            raise ConfigError("a residual model starts at the last frame, not at the mean: leave start_at_mean")

    def for_videos(self, num_videos: int, start: Mapping[str, Any] | None = None) -> PretrainConfig:
        """Returns the settings of a training on so many videos, as `few_videos` decides them.

        start: header of the model that is gone on from; whether it is residual and autoregressive stays as it is.
        """
        model, training = self.model, self.training
        is_set = model.residual or model.autoregressive or training.augmentation or training.start_at_mean
        if not self.few_videos or is_set or model.loss == "bernoulli":
            return self
        is_few = num_videos < self.few_videos
        settings = {"residual": is_few, "autoregressive": is_few} if start is None else start["config"]
        residual, autoregressive = (bool(settings.get(name)) for name in ("residual", "autoregressive"))
        augmentation = OF_FEW_VIDEOS if is_few and residual else training.augmentation
        return replace(
            self,
            model=replace(model, residual=residual, autoregressive=autoregressive),
            training=replace(training, augmentation=augmentation),
        )

    def check_feedback(self) -> None:
        """Raises ConfigError if feedback is on and no decoder is conditional.

        A recipe that trains several models sets their decoders after its options are read, and checks then.
        """
        if self.training.feedback and not (self.model.reconstruct_conditional or self.model.predict_conditional):
            raise ConfigError(
                "--pretrain.feedback is for conditional decoders, and none is: set feedback.probability=0 and "
                "feedback.noise_std=0"
            )


def _estimate(config: PretrainConfig, inputs: Mapping[str, Estimate]) -> Estimate:
    """Estimates frames and work; a frame's dimension follows from the percepts' bytes, or is that of a picture."""
    percepts = inputs.get("percepts", Estimate())
    dim = PIXELS if not (percepts.num_frames and percepts.num_bytes) else percepts.num_bytes // percepts.num_frames // 2
    model, training = config.model, config.training
    num_weights = 3 * 4 * model.num_units * (dim + model.num_units) * model.num_layers
    known = _num_sequences(config, inputs)
    if training.num_steps is None and known is None:
        return Estimate(num_bytes=4 * num_weights)
    num_steps = training.steps(known)
    num_seen = num_steps * training.batch_size
    passes = "" if known is None else f"about {passes_text(num_seen, known)} in {num_steps:,} steps"
    rate = FLOP_PER_S_BFLOAT16 if training.precision == "bfloat16" else FLOP_PER_S
    return Estimate(
        num_frames=num_seen * model.num_frames,
        num_bytes=4 * num_weights,
        seconds=WORKER_START_S,
        work=Work(
            amount=num_seen * sequence_flop(model, dim),
            per_core_s=rate / REFERENCE_CORES,
            per_gpu_s=H100_FLOP_PER_S,
        ),
        note="; ".join(filter(None, (passes, _decided_later(config)))),
    )


def _decided_later(config: PretrainConfig) -> str:
    """Returns a clause on what the number of videos decides; empty where it decides nothing."""
    few = config.for_videos(0)
    changed = [name for name in ("residual", "autoregressive") if getattr(few.model, name)] if few != config else []
    return f"{' and '.join(changed)} with fewer than {config.few_videos} videos (few_videos)" if changed else ""


def _num_sequences(config: PretrainConfig, inputs: Mapping[str, Estimate]) -> int | None:
    """Estimates the number of training sequences of percepts, as if frames were spread evenly over videos."""
    frames_of = inputs.get("statistics", Estimate())  # once measured, of the right parts alone
    if not frames_of.num_frames:
        return None
    stride = config.window_stride
    lost = (frames_of.num_videos or 0) * max(0.0, config.model.num_frames - (stride + 1) / 2)
    num_windows = max(1.0, (frames_of.num_frames - lost) / stride)
    return max(1, round(num_windows * (1 - config.validation_fraction)))


def sequence_flop(model: CompositeConfig, dim: int) -> float:
    """Returns the FLOP of the matrix products of one training sequence of frames of `dim` dimensions.

    A multiply-add is two. Backward takes twice as many as forward, but for the frames, which need no gradient.
    """
    units, upper = model.num_units, (model.num_layers - 1) * 8 * model.num_units**2
    read = 4 * units * dim
    total = model.num_frames_in * (6 * (4 * units**2 + upper) + 4 * read)
    for is_there, is_conditional, num_frames in (
        (model.reconstructs, model.reconstruct_conditional, model.num_frames_in),
        (model.predicts, model.predict_conditional, model.num_frames_out),
    ):
        if is_there:
            total += num_frames * (6 * (4 * units**2 + upper + units * dim) + 4 * read * is_conditional)
    return float(total)


@stage(version=2, estimate=_estimate, late_edges=frozenset({"warm_start"}))
def pretrain(
    config: PretrainConfig,
    context: Context,
    *,
    percepts: Percepts | None = None,
    statistics: Statistics | None = None,
    digits: Digits | None = None,
    patches: Patches | None = None,
    warm_start: Encoder | None = None,
) -> Encoder:
    """Trains on `percepts` (with their `statistics`), on Moving MNIST of `digits`, or on `patches`; through Ray Train.

    It goes on from the weights of `warm_start` where that is given, and keeps the transform that they read through.

    Writes model.safetensors (weights, config, transform, extractor) and history.json. The bytes are the same after any
    number of restarts on one worker; another number of workers changes the order of sums and nothing else.

    Raises:
        ConfigError: not exactly one kind of input, no video is as long as a window, or `warm_start` is another model.
        SourceError: no video with frames is of `config.parts`.
        TrainingDiverged, OutOfMemory, StoreError, CorruptArtifact: see `stages.pretraining.loop.pretraining_loop`; the
          last good checkpoint stays.
        WorkerDied: workers were lost time and again.
    """
    config.check_feedback()
    from stages.datasets.dataset_factories import PerceptsFactory
    from stages.models.pretrained import Pretrained
    from stages.pretraining.loop import is_finished, pretraining_loop
    from stages.pretraining.training_plan import TrainingPlan

    factory = _factory(config, percepts, statistics, digits, patches)
    start = None if warm_start is None else warm_start.path(MODEL_FILE)
    header = None if start is None else read_header(start)
    if percepts is not None:
        config = _for_videos(config, percepts, header, context)
    if start is not None and header is not None:
        extractor = factory.extractor()
        check_warm_start(
            header,
            config.model,
            config.training,
            config.transform if percepts is not None else None,
            extractor=None if extractor is None else extractor.fingerprint,
        )
        if isinstance(factory, PerceptsFactory):
            factory = replace(factory, learned_transform=Pretrained.load(start).transform)
    plan = TrainingPlan(
        uri=context.uri,
        open_source=factory,
        model=config.model.spec(factory.dim()),
        training=config.training,
        transform=factory.transform(),
        extractor=factory.extractor(),
        warm_start=start,
        max_sequences_per_worker=context.resources.max_sequences_per_worker,
        num_checkpoints_kept=context.resources.num_checkpoints_kept,
    )
    if not is_finished(context.uri):
        context.workers.train(
            pretraining_loop,
            plan,
            name=context.key,
            num_workers=min(context.resources.num_workers, config.training.batch_size),
            min_workers=min(context.resources.min_workers, config.training.batch_size),
            cpus_per_worker=context.resources.cpus_per_worker,
            gpus_per_worker=context.resources.gpus_per_worker,
        )
    encoder = Encoder(context.uri, context.key)
    _record(encoder, plan, context)
    return encoder


def _for_videos(
    config: PretrainConfig, percepts: Percepts, start: Mapping[str, Any] | None, context: Context
) -> PretrainConfig:
    """Returns the settings for the number of videos that there are, and says what it has decided."""
    if not config.few_videos:
        return config
    num_videos = sum(record.part in config.parts and record.verdict != "rejected" for record in percepts.iter_records())
    decided = config.for_videos(num_videos, start)
    if decided != config:
        added = [name for name in ("residual", "autoregressive") if getattr(decided.model, name)]
        if decided.training.augmentation:
            added.append("reads sequences with turned signs")
        number = f"{num_videos} videos to learn from, fewer than few_videos={config.few_videos}"
        context.log(f"{number}: the model is {', '.join(added)}")
    context.record(residual=int(decided.model.residual), autoregressive=int(decided.model.autoregressive))
    return decided


def _factory(
    config: PretrainConfig,
    percepts: Percepts | None,
    statistics: Statistics | None,
    digits: Digits | None,
    patches: Patches | None,
) -> PerceptsFactory | DigitsFactory | PatchesFactory:
    """Returns the factory of the one kind of input that was connected. Raises ConfigError."""
    from stages.datasets.dataset_factories import DigitsFactory, PatchesFactory, PerceptsFactory

    if digits is not None and percepts is None and patches is None:
        return DigitsFactory(digits=digits, num_frames=config.model.num_frames, seed=config.training.seed)
    if patches is not None and percepts is None and digits is None:
        if config.model.loss == "bernoulli":
            raise ConfigError("loss=bernoulli is for frames in [0, 1], and patches are standardised: set loss=gaussian")
        return PatchesFactory(patches=patches, num_frames=config.model.num_frames, seed=config.training.seed)
    if percepts is None or statistics is None or digits is not None or patches is not None:
        raise ConfigError("pretrain learns from percepts with their statistics, from digits, or from patches: give one")
    if config.model.loss == "bernoulli" and config.transform.kind != "squashed":
        raise ConfigError(
            f"loss=bernoulli is for frames in [0, 1], and {config.transform.kind} percepts are not: "
            "set transform.kind=squashed, or loss=gaussian"
        )
    return PerceptsFactory(
        percepts=percepts,
        statistics=statistics,
        parts=config.parts,
        num_frames=config.model.num_frames,
        stride=config.window_stride,
        validation_fraction=config.validation_fraction,
        seed=config.training.seed,
        transform_config=config.transform,
    )


def _record(encoder: Encoder, plan: TrainingPlan, context: Context) -> None:
    """Keeps losses, and the amount of training behind them, as facts."""
    history = encoder.history()
    assert history is not None, "the training wrote no history"
    losses = {
        "train_loss": history.train[-1]["loss"],
        "first_validation_loss": history.validation[0]["loss"],
        "validation_loss": history.kept_loss,
    }
    num_seen = history.num_steps * plan.training.batch_size
    resources = context.resources
    context.record(
        num_steps=history.num_steps,
        kept_step=history.kept_step,
        num_sequences_seen=num_seen,
        num_gpus=resources.num_workers * resources.gpus_per_worker,
        num_cores=resources.num_workers * resources.cpus_per_worker,
        **{name: loss for name, loss in losses.items() if loss is not None},
        **history.amounts,
    )
    if history.num_sequences is not None:
        context.record(num_sequences=history.num_sequences)
        context.log(f"saw {passes_text(num_seen, history.num_sequences)} in {history.num_steps:,} steps")
