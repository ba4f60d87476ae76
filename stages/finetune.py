"""finetune: action classifiers from a few labelled clips a class, many at once (section 4.2, the label curve).

    classifiers = finetune(FinetuneConfig(arm="LSTM pretrained"), context,
                           percepts=percepts, statistics=statistics, encoder=encoder)

One stage is one row of the tables: every split, label count and sampling of an arm. The samplings of a label count are
groups of one batched model, and models go to worker processes that have mapped the percepts once. A sampling's clips,
first weights, batches and dropout come from seeds of its own, so that it becomes the same classifier whichever
samplings train beside it; its clips and batches are the same in every arm of the same seed, so that their comparison
is a paired one.

With `selection`, settings are chosen first, for each split and label count apart: candidates learn from training clips
that are not held out and are judged by those that are; then the best of them learns from all training clips, on the
same workers. Choosing
once for all splits would use the test clips of one of them, which are training clips of another.

Writes `[split-<n>-]labels-<k>-samplings-<first>-<last>.safetensors` for every job, `trial-*.safetensors` for every
candidate, `selection.json`, and `model.safetensors`: the classifier of the most labels and sampling 0, by itself.

Shapes: S training steps, G samplings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.files import join
from pipeline.core.numbers import check_at_least, check_numbers
from pipeline.core.rates import FINETUNING_FLOP_PER_S, WORKER_START_S, lstm_flop, lstm_weights
from pipeline.core.stage import Context, Estimate, stage
from stages.datasets.labelled import ALL_CLIPS, count_text, draw
from stages.datasets.split_subsets import SplitSubsets, clips_of, split_numbers
from stages.datasets.splits import Splits
from stages.finetuning.arm import ArmConfig, check_encoder
from stages.finetuning.artifacts import Classifiers
from stages.models.artifacts import Encoder
from stages.models.config import MODEL_FILE
from stages.percepts.artifacts import Percepts, Statistics
from stages.video.ledger import VideoRecord, amounts_of

if TYPE_CHECKING:  # torch takes seconds to import
    from stages.finetuning.schedule import TrainingSchedule
    from stages.finetuning.trainer import Job, Trainer, Trial

METRIC_POINTS = 20
"""Points of each loss curve that go to MLflow."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(ArmConfig):
    """An arm, and the splits, label counts and samplings that it is measured at."""

    splits: tuple[int, ...] = ()
    """Official splits to learn in; empty: all of them, or the parts of the videos' manifest where there are none."""
    labels_per_class: tuple[int, ...] = (1, 2, 5, 10)
    """Labelled clips of each class to learn from: one row of the table each; 0: all there are."""
    num_samplings: int = 10
    """Independent draws of those clips, for the interval."""
    num_full_samplings: int = 1
    """Classifiers that learn from all clips: these differ by first weights, batches and dropout alone."""
    samplings_per_job: int = 5
    """Samplings that train as one batched model; jobs go to workers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "num_samplings", "num_full_samplings", "samplings_per_job")
        counts = self.labels_per_class
        if not counts or min(counts) < 0 or len(set(counts)) < len(counts):
            raise ConfigError(
                f"labels_per_class is {counts}; give one or more counts, each at least 1 (or 0: all) and named once"
            )
        check_numbers(self)

    def samplings(self, labels_per_class: int) -> range:
        """Returns the numbers of the samplings at a label count."""
        return range(self.num_full_samplings if labels_per_class == ALL_CLIPS else self.num_samplings)

    def chunks(self) -> dict[int, list[tuple[int, ...]]]:
        """Returns the samplings that train side by side, by label count, rising."""

        def size(count: int) -> int:
            return 1 if self.selection.num_folds(count) else self.samplings_per_job  # each has settings of its own

        return {
            count: [tuple(self.samplings(count)[first : first + size(count)]) for first in range(0, num, size(count))]
            for count in self.rising_counts
            if (num := len(self.samplings(count)))
        }

    @property
    def rising_counts(self) -> list[int]:
        """Label counts, all clips last."""
        return sorted(self.labels_per_class, key=lambda count: (count == ALL_CLIPS, count))


def _estimate(config: FinetuneConfig, inputs: Mapping[str, Estimate]) -> Estimate:
    """Estimates the frames that are read, the weights, and the time of the matrix products."""
    percepts = inputs["percepts"]
    if not (percepts.num_frames and percepts.num_bytes):
        return Estimate()
    dim = percepts.num_bytes // percepts.num_frames // 2
    num = sum(len(config.samplings(count)) for count in config.labels_per_class)
    num_splits = max(1, len(config.splits))
    windows = num * num_splits * config.training.num_steps * config.training.batch_clips
    num_units = config.classifier.num_units if config.classifier.model == "lstm" else 1
    num_layers = config.classifier.num_layers
    flop = lstm_flop(
        num_sequences=windows,
        num_steps=config.num_frames,
        num_inputs=dim,
        num_units=num_units,
        num_layers=num_layers,
    )
    num_bytes = 4 * num * num_splits * lstm_weights(dim, num_units, num_layers)
    seconds = WORKER_START_S + flop / FINETUNING_FLOP_PER_S
    return Estimate(num_frames=windows * config.num_frames, num_bytes=num_bytes, seconds=seconds)


@stage(version=4, estimate=_estimate)
def finetune(
    config: FinetuneConfig,
    context: Context,
    *,
    percepts: Percepts,
    statistics: Statistics,
    encoder: Encoder | None = None,
    splits: Splits | None = None,
) -> Classifiers:
    """Trains every sampling of every label count and split.

    With `encoder`, LSTMs start from its weights, and read percepts through its transform instead of standardised by
    `statistics`.

    Raises:
        ConfigError: a class has fewer clips than labels_per_class, nothing is held out to choose settings by, or
          `encoder` does not fit (`check_encoder`).
        SourceError: no labelled clips, or a group of labelled videos on more than one side of a split.
        TrainingDiverged: a loss is not finite.
    """
    from stages.finetuning.schedule import TrainingSchedule
    from stages.finetuning.trainer import Trainer

    if encoder is not None:
        check_encoder(config, encoder)
    records = clips_of(percepts, splits)
    subsets = _subsets(config, context, records, splits)
    for subset in subsets:
        if config.selection.is_on and not subset.validation:
            context.log(f"{config.arm}, split {subset.number}: nothing is held out; settings are the configured ones")
        clips = subset.fit if config.selection.is_on else subset.learn
        most = max(config.labels_per_class)
        draw(clips, labels_per_class=most, sampling=0, seed=config.seed, allow_fewer=config.allow_fewer)

    device = "cuda" if context.resources.gpus_per_worker else "cpu"
    trainer = Trainer(config, context.uri, percepts, statistics, encoder, splits, device)
    schedule = TrainingSchedule(config, context.uri, config.chunks(), subsets, context.log)
    _work(context, trainer, schedule)
    schedule.write_choices()
    _conclude(config, context, schedule)
    context.record(
        num_classifiers=schedule.num_classifiers(),
        num_trials=schedule.num_trials(),
        num_labelled_clips=len({clip.sha256 for subset in subsets for clip in subset.learn}),
        **_amounts(config, records, subsets),
        **{f"seconds_at_{count_text(count)}": round(value, 3) for count, value in schedule.seconds_of_all().items()},
    )
    return Classifiers(context.uri, context.key)


def _amounts(
    config: FinetuneConfig, records: Sequence[VideoRecord], subsets: Sequence[SplitSubsets]
) -> dict[str, int | float | str]:
    """Returns how much video may be learned from in any split, and how much settings are chosen on."""
    training = {clip.sha256 for subset in subsets for clip in subset.learn}
    validation = {clip.sha256 for subset in subsets for clip in subset.validation if config.selection.is_on}
    return amounts_of(records, training=training, **({"validation": validation} if validation else {}))


def _subsets(
    config: FinetuneConfig, context: Context, records: Sequence[VideoRecord], splits: Splits | None
) -> list[SplitSubsets]:
    """Returns the splits to learn in; with `allow_fewer`, those of which some training clip is there."""
    from stages.finetuning.trainer import arm_subsets

    numbers = split_numbers(splits, config.splits)
    if splits is not None and config.allow_fewer:
        trainable = [number for number in numbers if splits.coverage(number, records).num_train]
        for number in sorted(set(numbers) - set(trainable)):
            context.log(f"{config.arm}, split {number}: none of its training clips is there; left out")
        if not trainable:
            raise SourceError(f"of {splits.name}'s splits {', '.join(map(str, numbers))} no training clip is there")
        numbers = tuple(trainable)
    return [arm_subsets(config, records, splits, number) for number in numbers]


def _work(context: Context, trainer: Trainer, schedule: TrainingSchedule) -> None:
    """Does what is missing, on the stage's workers."""
    from stages.finetuning.schedule import ScheduleProgress

    resources, items = context.resources, schedule.begin()
    for _ in context.workers.map(
        trainer,
        items,
        num_workers=resources.num_workers,
        cpus_per_worker=resources.cpus_per_worker,
        gpus_per_worker=resources.gpus_per_worker,
        describe=partial(_describe, trainer.config.arm),
        continuation=ScheduleProgress(schedule, context),
    ):
        pass


def _describe(arm: str, item: Job | Trial) -> str:
    return f"{arm}, {item}"


def _conclude(config: FinetuneConfig, context: Context, schedule: TrainingSchedule) -> None:
    """Loss curves, mean over splits and samplings; and the classifier that is served."""
    from stages.finetuning.trained_classifiers import TrainedClassifiers

    counts = config.rising_counts
    for labels_per_class in counts:
        trained = [TrainedClassifiers.load(uri) for uri in schedule.files(labels_per_class)]
        num_steps = min(len(classifiers.losses_SG) for classifiers in trained)
        loss_S = np.concatenate([classifiers.losses_SG[:num_steps] for classifiers in trained], axis=1).mean(1)
        for step in np.linspace(0, len(loss_S) - 1, min(METRIC_POINTS, len(loss_S))).astype(int).tolist():
            context.metrics(step, **{f"loss_{labels_per_class or 'all'}_labels": float(loss_S[step])})
        if labels_per_class == counts[-1]:
            trained[0].select(0).save(join(context.uri, MODEL_FILE))
