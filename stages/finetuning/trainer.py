"""Work of an arm: jobs, the samplings of a label count trained as one batched model, and trials of settings.

A sampling's clips, first weights, batches and dropout come from seeds of its own, so that it becomes the same
classifier whichever samplings train beside it. Clips and batches do not depend on the model: arms of one seed can be
compared sampling by sampling.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pipeline.core.errors import ConfigError, TrainingDiverged
from pipeline.core.files import join
from stages.datasets.arrow_of_time import clip_identity, with_reversals, with_reversed_names
from stages.datasets.labelled import ClipFinder, count_text, draw, load_windows
from stages.datasets.split_subsets import MANIFEST_SPLIT, SplitSubsets, clips_of, split_subsets_of
from stages.datasets.splits import Splits
from stages.evaluation.clip_inference import infer_clips
from stages.finetuning.arm import ArmConfig, Candidate
from stages.finetuning.ensemble_training import ClipBatches, clip_batches, train_ensemble
from stages.finetuning.logistic_regression import fit, mean_frames
from stages.finetuning.selection import TrialResult
from stages.finetuning.trained_classifiers import TrainedClassifiers
from stages.models.artifacts import Encoder
from stages.models.classifier import (
    Classifier,
    LSTMClassifier,
    MeanFramesClassifier,
    build_classifier,
    clip_probabilities,
    derived_seed,
    seed_dropout,
    seed_weights,
)
from stages.models.composite import Composite
from stages.models.pretrained import Pretrained
from stages.percepts.artifacts import Percepts, Statistics
from stages.percepts.transforms import Standardisation, Transform
from stages.pretraining.published import draw_published_weights_
from stages.video.ledger import VideoRecord


class _Item:
    @property
    def file(self) -> str:
        """Name of the file that is written when it is done."""
        return f"{self}.safetensors"


@dataclass(frozen=True)
class Job(_Item):
    """Samplings of one label count of one split that train side by side."""

    labels_per_class: int
    samplings: tuple[int, ...]
    split: int = MANIFEST_SPLIT
    candidate: Candidate = field(default_factory=dict)
    """Settings that were selected."""
    stop: float = 1.0
    """Share of the training steps after which training ends; selected, too."""
    search_clips: tuple[tuple[str, str | None], ...] = ()
    """(sha256, group) of the clips of the search for settings."""

    def __str__(self) -> str:
        split = "" if self.split == MANIFEST_SPLIT else f"split-{self.split}-"
        count = count_text(self.labels_per_class)
        return f"{split}labels-{count}-samplings-{self.samplings[0]:03d}-{self.samplings[-1]:03d}"


@dataclass(frozen=True)
class Trial(_Item):
    """A candidate, trained on clips that are not held out and evaluated on those that are."""

    labels_per_class: int
    split: int
    number: int
    """Number of the candidate, among `ArmConfig.selection.candidates()`."""
    sampling: int | None = None
    """The sampling within whose labels it is cross-validated; None: the split's held-out clips decide."""

    def __str__(self) -> str:
        within = "" if self.sampling is None else f"-sampling-{self.sampling:03d}"
        return f"trial-split-{self.split}-labels-{count_text(self.labels_per_class)}{within}-{self.number:02d}"


class Fold(NamedTuple):
    """The clips that one classifier of a trial learns from, and those that it is judged by."""

    fit: list[VideoRecord]
    held_out: list[VideoRecord]


@dataclass(frozen=True)
class Trainer:
    """The inputs of a worker: called there, it reads them once and returns the function that does an item."""

    config: ArmConfig
    uri: str
    percepts: Percepts
    statistics: Statistics
    encoder: Encoder | None
    splits: Splits | None
    device: str

    def __call__(self) -> Callable[[Job | Trial], float]:
        return _Bench(self).work


class _Bench:
    """The state of a worker: percepts mapped once, the subsets of each split computed once."""

    def __init__(self, trainer: Trainer) -> None:
        self.config, self.uri, self.device = trainer.config, trainer.uri, trainer.device
        self.finder = ClipFinder(trainer.percepts.open())
        self.dim = self.finder.store.dim
        self.transform: Transform = Standardisation.of(trainer.statistics.moments())
        self.encoder: Composite | None = None
        self.encoder_key = "" if trainer.encoder is None else trainer.encoder.key
        if trainer.encoder is not None:
            pretrained = Pretrained.load(trainer.encoder.uri)
            assert pretrained.transform is not None, "check_encoder was not called"
            self.encoder, self.transform = pretrained.composite, pretrained.transform
        records = clips_of(trainer.percepts, trainer.splits)

        def subsets(number: int) -> SplitSubsets:
            return arm_subsets(trainer.config, records, trainer.splits, number)

        self.subsets = cache(subsets)

    def work(self, item: Job | Trial) -> float:
        """Does the item, writes its file, and returns the seconds that it took."""
        started = time.monotonic()
        try:
            if isinstance(item, Job):
                self._train(item)
            else:
                self._try(item)
        except TrainingDiverged as error:
            raise TrainingDiverged(f"{self.config.arm}, {item}: {error}") from None
        return time.monotonic() - started

    def _train(self, job: Job) -> None:
        """Trains the job's samplings as one model, on clips of all training clips of the split."""
        config, subsets = self.config.chosen(job.candidate), self.subsets(job.split)
        drawn = [self._draw(subsets.learn, job.labels_per_class, sampling) for sampling in job.samplings]
        batches, classifier = self._prepare(config, job, drawn, subsets)
        if isinstance(classifier, MeanFramesClassifier):
            losses_SG = fit(classifier, mean_frames(batches.windows), batches.members_GN, batches.labels_GN)
        else:
            num_steps = max(1, round(job.stop * len(batches)))
            losses_SG = train_ensemble(classifier, batches, config.training, num_steps=num_steps)
        seen = {(clip.sha256, clip.group) for sampling in drawn for clip in sampling} | set(job.search_clips)
        TrainedClassifiers(
            classifier,
            self.transform,
            class_names=subsets.class_names,
            arm=config.arm,
            num_frames=config.num_frames,
            labels_per_class=job.labels_per_class,
            split=job.split,
            samplings=job.samplings,
            clips=tuple(tuple(clip.sha256 for clip in sampling) for sampling in drawn),
            search_clips=tuple(sorted(sha256 for sha256, _ in job.search_clips)),
            groups=tuple(sorted({group for _, group in seen if group is not None})),
            losses_SG=losses_SG,
            encoder=self.encoder_key,
            extractor=self.finder.store.extractor,
        ).save(join(self.uri, job.file))

    def _try(self, trial: Trial) -> None:
        """Tries a candidate: accuracy on the held-out clips at every check, probabilities at the best of them.

        The folds of a cross-validation train side by side, and each clip is judged by the one that has not seen it.
        """
        selection, subsets = self.config.selection, self.subsets(trial.split)
        config = self.config.chosen(selection.candidates()[trial.number])
        folds = self._folds(trial, subsets)
        job = Job(trial.labels_per_class, tuple(range(len(folds))), trial.split)
        drawn = [fold.fit for fold in folds]
        judged = [clip for fold in folds for clip in fold.held_out]
        fold_N = np.repeat(range(len(folds)), [len(fold.held_out) for fold in folds])
        batches, classifier = self._prepare(config, job, drawn, subsets)
        truth_N = np.array([subsets.class_names.index(str(clip.label)) for clip in judged])
        accuracies: list[float] = []
        best_NC: list[npt.NDArray[np.float32]] = []

        def check() -> None:
            probabilities_GNC, _ = infer_clips(
                lambda x_TND: clip_probabilities(classifier(x_TND[None])),
                judged,
                self.finder,
                self.transform,
                num_frames=config.num_frames,
                stride=selection.stride,
                device=self.device,
            )
            probabilities_NC = probabilities_GNC[fold_N, np.arange(len(judged))]
            accuracy = float((probabilities_NC.argmax(1) == truth_N).mean())
            if accuracy > max(accuracies, default=-1.0):
                best_NC[:] = [probabilities_NC]
            accuracies.append(accuracy)

        if isinstance(classifier, MeanFramesClassifier):
            fit(classifier, mean_frames(batches.windows), batches.members_GN, batches.labels_GN)
            with torch.no_grad():
                check()
        else:
            ends = [max(1, round(len(batches) * (n + 1) / selection.num_checks)) for n in range(selection.num_checks)]
            train_ensemble(classifier, batches, config.training, checks=ends, on_check=check)
        search_clips = {clip.sha256: clip.group for clip in (*(c for fit in drawn for c in fit), *judged)}
        TrialResult(
            accuracies=tuple(accuracies),
            search_clips=tuple(sorted(search_clips.items())),
            videos=tuple(clip.sha256 for clip in judged),
            labels=tuple(str(clip.label) for clip in judged),
            class_names=subsets.class_names,
            probabilities_NC=best_NC[0],
        ).save(join(self.uri, trial.file))

    def _folds(self, trial: Trial, subsets: SplitSubsets) -> list[Fold]:
        """Returns what a trial learns from and is judged by: the held-out clips, or folds within a sampling's labels.

        The clips of a class come in the order of their ranks, so that every fold has as many of each class.
        """
        count = trial.labels_per_class
        if trial.sampling is None:
            return [Fold(self._draw(subsets.fit, count, 0), subsets.validation)]
        drawn = self._draw(subsets.learn, count, trial.sampling)
        num_folds = self.config.selection.num_folds(count)
        place = {name: itertools.count() for name in subsets.class_names}
        fold_of = [next(place[str(clip.label)]) % num_folds for clip in drawn]
        parts = [
            [
                [clip for clip, fold in zip(drawn, fold_of, strict=True) if (fold == n) == is_out]
                for is_out in (False, True)
            ]
            for n in range(num_folds)
        ]
        # Of classes with fewer clips, some folds would have more: they train side by side, on as many.
        size = min(len(fit) for fit, _ in parts)
        return [Fold(fit[:size], held_out) for fit, held_out in parts]

    def _draw(self, clips: Sequence[VideoRecord], labels_per_class: int, sampling: int) -> list[VideoRecord]:
        seed, fewer = self.config.seed, self.config.allow_fewer
        return draw(clips, labels_per_class=labels_per_class, sampling=sampling, seed=seed, allow_fewer=fewer)

    def _prepare(
        self, config: ArmConfig, job: Job, drawn: Sequence[Sequence[VideoRecord]], subsets: SplitSubsets
    ) -> tuple[ClipBatches, Classifier]:
        """Maps the clips, lays out every step, and builds the job's classifiers. Raises ConfigError."""
        clips = {clip_identity(clip): clip for sampling in drawn for clip in sampling}
        windows = load_windows(
            self.finder,
            list(clips.values()),
            self.transform,
            num_frames=config.num_frames,
            stride=config.crop_stride,
            device=self.device,
        )
        # A few clips may all be short; all that there are, and the setting is wrong.
        if windows.num_padded == len(clips) and all(self._is_padded(clip, config) for clip in subsets.learn):
            raise ConfigError(f"num_frames is {config.num_frames}, longer than every clip: ask for shorter windows")
        position = {identity: number for number, identity in enumerate(clips)}
        batches = clip_batches(
            windows,
            np.array([[position[clip_identity(clip)] for clip in sampling] for sampling in drawn]),
            np.array([[subsets.class_names.index(str(clip.label)) for clip in sampling] for sampling in drawn]),
            seeds=_seeds(config, "batches", job),
            num_steps=config.training.steps(len(drawn[0])),
            batch_clips=config.training.batch_clips,
        )
        classifier = _classifier(config, job, self.dim, len(subsets.class_names), self.encoder).to(self.device)
        seed_dropout(classifier, _seeds(config, "dropout", job))
        return batches, classifier

    def _is_padded(self, clip: VideoRecord, config: ArmConfig) -> bool:
        return self.finder.find(clip, num_frames=config.num_frames, stride=config.crop_stride)[2]


def arm_subsets(config: ArmConfig, records: Sequence[VideoRecord], splits: Splits | None, number: int) -> SplitSubsets:
    """Returns the clips of a split that the arm may learn from. Raises as `split_subsets_of`."""
    subsets = split_subsets_of(
        records,
        splits,
        number,
        part=config.part,
        with_validation=config.selection.is_on,
        validation_fraction=config.selection.validation_fraction,
        allow_none=config.allow_fewer,
    )
    if not config.arrow:
        return subsets
    fit, validation = with_reversals(subsets.fit), with_reversals(subsets.validation)
    return SplitSubsets(number, fit, validation, with_reversed_names(subsets.class_names))


def _seeds(config: ArmConfig, purpose: str, job: Job) -> list[int]:
    split = () if job.split == MANIFEST_SPLIT else (job.split,)
    return [derived_seed(config.seed, purpose, job.labels_per_class, s, *split) for s in job.samplings]


def _classifier(config: ArmConfig, job: Job, dim: int, num_classes: int, encoder: Composite | None) -> Classifier:
    """Builds the job's classifiers with their first weights."""
    spec = config.classifier.spec(dim=dim, num_classes=num_classes, num_members=len(job.samplings))
    classifier = build_classifier(spec)
    seeds = _seeds(config, "weights", job)
    if config.initial_weights == "published":
        seed_weights(classifier, seeds, draw_published_weights_)
    else:
        seed_weights(classifier, seeds)
    if config.zero_output:
        nn.init.zeros_(classifier.output.weight)
    if isinstance(classifier, LSTMClassifier):
        if encoder is not None:
            classifier.start_from(encoder)
        classifier.lstm.requires_grad_(not config.frozen)
        if config.frozen_peepholes:
            for layer in classifier.lstm.layers:
                layer.peephole.requires_grad_(False)
    return classifier
