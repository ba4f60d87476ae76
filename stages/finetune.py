"""finetune: action classifiers from a few labelled clips a class, many at once (section 4.2, the label curve).

    classifiers = finetune(FinetuneConfig(arm="LSTM pretrained"), context,
                           percepts=percepts, statistics=statistics, encoder=encoder)

The samplings of a label count are groups of one batched model. A sampling's clips, first weights, batches and dropout
come from seeds of its own, so that it becomes the same classifier whichever samplings train beside it; its clips and
batches are the same in every arm of the same seed, so that their comparison is a paired one.

Writes `labels-<k>-samplings-<first>-<last>.safetensors` for every job, and `model.safetensors`: the classifier of the
most labels and sampling 0, by itself.

Shapes: S training steps, G samplings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pipeline.errors import ConfigError, CorruptArtifact
from pipeline.files import exists, join
from pipeline.stage import Context, Estimate, stage
from stages.costs import FLOP_PER_S, lstm_flop
from stages.datasets.labelled import draw, labelled, refuse_leaks
from stages.models.artifacts import Classifiers, Encoder
from stages.models.finetuning import ArmConfig, Job, Trainer, check_encoder
from stages.models.trained import TrainedClassifiers
from stages.models.weights import MODEL_FILE
from stages.percepts.artifacts import Percepts, Statistics

METRIC_POINTS = 20
"""Points of each loss curve that go to MLflow."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(ArmConfig):
    """An arm, and the label counts and samplings that it is measured at."""

    labels_per_class: tuple[int, ...] = (1, 2, 5, 10)
    """Labelled clips of each class to learn from: one row of the table each."""
    num_samplings: int = 10
    """Independent draws of those clips, for the interval."""
    samplings_per_job: int = 5
    """Samplings that train as one batched model; jobs go to workers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.num_samplings, self.samplings_per_job) < 1:
            raise ConfigError(
                f"num_samplings {self.num_samplings}, samplings_per_job {self.samplings_per_job}: give at least 1"
            )
        counts = self.labels_per_class
        if not counts or min(counts) < 1 or len(set(counts)) < len(counts):
            raise ConfigError(f"labels_per_class is {counts}; give one or more counts, each at least 1 and named once")


def _estimate(config: FinetuneConfig, inputs: Mapping[str, Estimate]) -> Estimate:
    """Frames looked at, and the time of the matrix products."""
    percepts = inputs["percepts"]
    if not (percepts.num_frames and percepts.num_bytes):
        return Estimate()
    dim = percepts.num_bytes // percepts.num_frames // 2
    windows = len(config.labels_per_class) * config.num_samplings * config.num_steps * config.batch_clips
    flop = lstm_flop(
        num_sequences=windows,
        num_steps=config.num_frames,
        num_inputs=dim,
        num_units=config.num_units if config.model == "lstm" else 1,
        num_layers=config.num_layers,
    )
    return Estimate(num_frames=windows * config.num_frames, seconds=flop / FLOP_PER_S)


@stage(version=1, estimate=_estimate)
def finetune(
    config: FinetuneConfig,
    context: Context,
    *,
    percepts: Percepts,
    statistics: Statistics,
    encoder: Encoder | None = None,
) -> Classifiers:
    """Train every sampling of every label count; with `encoder`, LSTMs start from its weights.

    Raises:
        ConfigError: a class has fewer clips than asked for, or `encoder` does not fit (`check_encoder`).
        SourceError: no labelled clips, or a group of labelled videos with members in `config.part` and outside of it.
        TrainingDiverged: a loss is not finite.
    """
    if encoder is not None:
        check_encoder(config, encoder, statistics)
    records = percepts.records()
    refuse_leaks([record for record in records if record.label is not None], config.part)
    clips = labelled(records, config.part)
    draw(clips, labels_per_class=max(config.labels_per_class), sampling=0, seed=config.seed)

    jobs = _jobs(config)
    todo = [job for job in jobs if not _is_finished(job, config, context)]
    total = len(config.labels_per_class) * config.num_samplings
    done = total - sum(len(job.samplings) for job in todo)
    context.progress(done, total, "classifiers")
    resources = context.resources
    device = "cuda" if resources.gpus_per_worker else "cpu"
    for position, _ in context.workers.map(
        Trainer(config, context.uri, percepts, statistics, encoder, device),
        todo,
        num_workers=resources.num_workers,
        cpus_per_worker=resources.cpus_per_worker,
        gpus_per_worker=resources.gpus_per_worker,
        describe=partial(_describe, config.arm),
    ):
        done += len(todo[position].samplings)
        context.progress(done, total, "classifiers", f"{todo[position].labels_per_class} labels a class")
    _conclude(config, context, jobs)
    context.record(num_classifiers=total, num_labelled_clips=len(clips))
    return Classifiers(context.uri, context.key)


def _jobs(config: FinetuneConfig) -> list[Job]:
    """The longest first, so that no worker is left alone with one at the end."""
    samplings, size = range(config.num_samplings), config.samplings_per_job
    chunks = [tuple(samplings[first : first + size]) for first in range(0, len(samplings), size)]
    return [Job(labels, chunk) for labels in sorted(config.labels_per_class, reverse=True) for chunk in chunks]


def _describe(arm: str, job: Job) -> str:
    return f"{arm}, {job}"


def _is_finished(job: Job, config: FinetuneConfig, context: Context) -> bool:
    """Whether an earlier, killed attempt has left this job's file, and it is whole."""
    if not exists(join(context.uri, job.file)):
        return False
    try:
        found = TrainedClassifiers.load(join(context.uri, job.file))
    except CorruptArtifact as error:
        context.log(f"training again: {error}")
        return False
    return (found.arm, found.labels_per_class, found.samplings) == (config.arm, job.labels_per_class, job.samplings)


def _conclude(config: FinetuneConfig, context: Context, jobs: Sequence[Job]) -> None:
    """Loss curves, mean over samplings; and the classifier that is served."""
    for labels_per_class in sorted(config.labels_per_class):
        files = [join(context.uri, job.file) for job in jobs if job.labels_per_class == labels_per_class]
        trained = [TrainedClassifiers.load(uri) for uri in files]
        loss_S = np.concatenate([found.losses_SG for found in trained], axis=1).mean(1)
        for step in np.linspace(0, len(loss_S) - 1, min(METRIC_POINTS, len(loss_S))).astype(int).tolist():
            context.metrics(step, **{f"loss_{labels_per_class}_labels": float(loss_S[step])})
        if labels_per_class == max(config.labels_per_class):
            trained[0].select(0).save(join(context.uri, MODEL_FILE))
