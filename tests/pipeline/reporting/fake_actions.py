"""A finished run of the tables of action recognition, of invented answers that go through the real scoring."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.recipes.arms import COMPARED
from pipeline.reporting.action_tables import ALL, PRETRAINED, SCRATCH, SINGLE_FRAME
from stages.datasets.splits import Coverage
from stages.evaluation.artifacts import DuplicateReport, SuspectedClip
from stages.evaluation.score_table import ScoreTable
from stages.evaluation.scores import Predictions, scores_of
from stages.finetuning.selection import SelectedSettings, Selection
from tests.pipeline.reporting.fake_run import FakeRun

NUM_CLIPS = 2000
CLASSES = tuple(f"action {number:02d}" for number in range(101))
ARMS = (SINGLE_FRAME, SCRATCH, *PRETRAINED)
FULL = dict(zip(ARMS, (0.722, 0.745, 0.751, 0.749, 0.748, 0.749, 0.758, 0.758), strict=True))
SMALL = dict(zip(ARMS, (0.55, 0.637, 0.662, 0.649, 0.658, 0.651, 0.670, 0.671), strict=True))
CURVE = {SINGLE_FRAME: (0.25, 0.36), SCRATCH: (0.296, 0.42), "composite": (0.343, 0.46)}


def answers(arm: str, split: int, count: int, accuracies: list[float]) -> Predictions:
    """Classifiers of these accuracies, but for noise that depends on split and sampling and so is the same in all."""
    rows = []
    for sampling, accuracy in enumerate(accuracies):
        rng = np.random.default_rng([split, count, sampling])
        own = np.random.default_rng([split, count, sampling, ARMS.index(arm) if arm in ARMS else 99])
        share = accuracy + rng.normal(0, 0.012) + own.normal(0, 0.0015)
        wrong = np.arange(NUM_CLIPS) >= round(share * NUM_CLIPS)
        rows.append((np.arange(NUM_CLIPS) + wrong) % len(CLASSES))
    predicted = np.array(rows, np.int16)
    clips = tuple(str(number) for number in range(count * 101 or 9537))
    samplings = tuple(range(len(accuracies)))
    one = np.ones_like(predicted, np.float32)
    return Predictions(arm, CLASSES, count, split, samplings, (clips,) * len(accuracies), predicted, one, None, 0)


def action_scores(full: dict[str, float] = FULL, small: dict[str, float] = SMALL) -> ScoreTable:
    """Makes a table of UCF-101 with 120 training clips of split 2 missing."""
    found = []
    for arm in full:
        for split in (1, 2, 3):
            for count, accuracy in zip((1, 2), CURVE.get(arm, ()), strict=False):
                found.append(answers(arm, split, count, [accuracy] * 10))
            found.append(answers(arm, split, 10, [small[arm]] * 10))
            found.append(answers(arm, split, ALL, [full[arm]]))
    labels = [CLASSES[number % len(CLASSES)] for number in range(NUM_CLIPS)]
    pairs = [pair for pair in COMPARED if set(pair) <= set(full)]
    table = scores_of(found, dict.fromkeys((1, 2, 3), labels), pairs=pairs)
    coverage = tuple(
        Coverage(
            name="UCF-101",
            number=number,
            num_train=train - (120 if number == 2 else 0),
            num_official_train=train,
            num_test=test,
            num_official_test=test,
        )
        for number, (train, test) in enumerate(((9537, 3783), (9586, 3734), (9624, 3696)), start=1)
    )
    return replace(table, dataset="UCF-101", num_clips=13200, num_official_clips=13320, coverage=coverage)


def actions(root: Path, scores: ScoreTable | None = None) -> FakeRun:
    """A run of `ucf101`."""
    run = FakeRun(root)
    choice = SelectedSettings(
        split=1,
        labels_per_class=0,
        num_validation_clips=950,
        chosen={"learning_rate": 3e-4, "stop": 0.75},
        accuracy=0.741,
    )
    names = []
    for arm in ARMS:
        names.append(f"finetune {arm}")
        facts: dict[str, int | float | str] = {"seconds_at_all": 312.0, "seconds_at_010": 47.5}
        selection = Selection(arm=arm, choices=(choice,))
        run.add(names[-1], selection, stage="finetune", facts=facts, config={"arm": arm})
    suspect = SuspectedClip(test="v_Archery_g01_c01.avi", pretraining="yt_1.mp4", similarity=0.987)
    sentence = "1 of 3,783 test clips looks like a video that was pretrained on."
    run.add("near duplicates", DuplicateReport(sentence=sentence, suspects=(suspect,)), stage="near_duplicates")
    run.add("evaluate", scores or action_scores(), parents=tuple(names))
    return run
