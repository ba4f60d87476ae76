"""Settings chosen within the labels themselves: scikit-learn's cross-validation, and no other clip."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from pipeline.core.stage import Context
from stages.datasets.labelled import draw, labelled
from stages.finetune import FinetuneConfig, finetune
from stages.finetuning.arm import EnsembleTrainingConfig, SelectionConfig
from stages.finetuning.artifacts import Classifiers
from stages.finetuning.selection import TrialResult
from stages.models.config import ClassifierConfig
from stages.percepts.transforms import Standardisation
from tests.stages.labelled_store import make_store, turning_clips

GRID = (1e-3, 1.0)
MEAN = FinetuneConfig(
    arm="mean", num_frames=12, labels_per_class=(1, 4), num_samplings=2, classifier=ClassifierConfig(model="mean"),
    selection=SelectionConfig(inverse_regularizations=GRID, labels_only=True, validation_fraction=0.2),
)  # fmt: skip


def test_trials_are_scikit_learns_cross_validation(tmp_path: Path) -> None:
    clips = turning_clips("train", 10, seed=0, noise=1.5)
    percepts, statistics = make_store(tmp_path / "store", clips)
    artifact: Classifiers = finetune(MEAN, Context.for_test(tmp_path / "arm"), percepts=percepts, statistics=statistics)
    choices = artifact.selection().choices
    assert [(choice.labels_per_class, choice.sampling) for choice in choices] == [(4, 0), (4, 1)]
    standardise, store = Standardisation.of(statistics.moments()), percepts.open()
    for choice in choices:
        assert choice.sampling is not None
        drawn = draw(labelled(percepts.records(), "train"), labels_per_class=4, sampling=choice.sampling, seed=0)
        frames = [torch.from_numpy(store.percepts(clip.sha256).astype(np.float32)) for clip in drawn]
        x_ND = np.stack([standardise(frames_FD).mean(0).numpy() for frames_FD in frames])
        labels = np.array([clip.label for clip in drawn])
        folds = PredefinedSplit(np.tile(np.arange(4), 4))
        for number, c in enumerate(GRID):
            trial = TrialResult.load(
                artifact.path(f"trial-split-0-labels-004-sampling-00{choice.sampling}-0{number}.safetensors")
            )
            assert sorted(trial.videos) == sorted(clip.sha256 for clip in drawn)
            assert {sha256 for sha256, _ in trial.search_clips} == {clip.sha256 for clip in drawn}
            expected = cross_val_predict(
                LogisticRegression(C=c, max_iter=2000), x_ND, labels, cv=folds, method="predict_proba"
            )
            place = {clip.sha256: row for row, clip in enumerate(drawn)}
            order = [place[video] for video in trial.videos]
            np.testing.assert_allclose(trial.probabilities_NC, expected[order], atol=2e-3)
        best = max(choice.tried, key=lambda tried: max(tried.accuracies))
        assert choice.chosen["inverse_regularization"] == best.settings["inverse_regularization"]
    # The classifier of a sampling has looked at its own clips and at no others.
    for name in artifact.files():
        trained = artifact.load(name)
        assert set(trained.search_clips) <= set(itertools.chain(*trained.clips))


def test_an_lstm_is_cross_validated_with_folds_side_by_side(tmp_path: Path) -> None:
    percepts, statistics = make_store(tmp_path / "store", turning_clips("train", 6, seed=0))
    config = FinetuneConfig(
        arm="LSTM", num_frames=8, labels_per_class=(2, 0), num_samplings=2,
        classifier=ClassifierConfig(num_units=6), training=EnsembleTrainingConfig(num_steps=4),
        selection=SelectionConfig(num_checks=2, labels_only=True, validation_fraction=0.2),
    )  # fmt: skip
    artifact = finetune(config, Context.for_test(tmp_path / "arm"), percepts=percepts, statistics=statistics)
    choices = {(choice.labels_per_class, choice.sampling): choice for choice in artifact.selection().choices}
    assert list(choices) == [(0, None), (2, 0), (2, 1)]
    assert choices[2, 0].num_validation_clips == 8
    assert all(len(tried.accuracies) == 2 for choice in choices.values() for tried in choice.tried)


@pytest.mark.parametrize(("labels", "folds"), [(1, 0), (2, 2), (4, 4), (5, 5), (7, 7), (10, 5), (50, 5), (0, 0)])
def test_folds_are_of_one_size(labels: int, folds: int) -> None:
    assert SelectionConfig(labels_only=True).num_folds(labels) == folds
    assert SelectionConfig().num_folds(labels) == 0
