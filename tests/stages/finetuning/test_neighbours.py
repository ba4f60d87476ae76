"""Classifiers that know no order of frames: scikit-learn's own answers, and attention that begins as a mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from pipeline.core.errors import ConfigError
from pipeline.core.stage import Context
from stages.datasets.labelled import draw, labelled
from stages.finetune import FinetuneConfig, finetune
from stages.finetuning.arm import EnsembleTrainingConfig, SelectionConfig
from stages.finetuning.logistic_regression import fit
from stages.models.classifier import AttentionClassifier, MeanFramesClassifier
from stages.models.config import ClassifierConfig
from stages.models.weights import build_model
from stages.percepts.transforms import Standardisation
from tests.stages.labelled_store import MOTIONS, make_store, turning_clips

MOTIONS_SORTED = tuple(sorted(MOTIONS))
MEAN = FinetuneConfig(
    arm="mean of frames", num_frames=12, labels_per_class=(3,), num_samplings=2,
    classifier=ClassifierConfig(model="mean", inverse_regularization=0.5),
)  # fmt: skip


def test_the_mean_of_frames_is_what_scikit_learn_fits(tmp_path: Path) -> None:
    percepts, statistics = make_store(tmp_path / "store", turning_clips("train", 5, seed=0))
    artifact = finetune(MEAN, Context.for_test(tmp_path / "arm"), percepts=percepts, statistics=statistics)
    (file,) = artifact.files()
    trained = artifact.load(file)
    standardise, store = Standardisation.of(statistics.moments()), percepts.open()
    for sampling in range(2):
        clips = draw(labelled(percepts.records(), "train"), labels_per_class=3, sampling=sampling, seed=0)
        frames = [torch.from_numpy(store.percepts(clip.sha256).astype(np.float32)) for clip in clips]
        x_ND = np.stack([standardise(frames_FD).mean(0).numpy() for frames_FD in frames])
        peer = LogisticRegression(C=0.5, max_iter=2000).fit(x_ND, [clip.label for clip in clips])
        assert tuple(peer.classes_) == trained.class_names == MOTIONS_SORTED
        new_ND = np.random.default_rng(sampling).normal(size=(20, x_ND.shape[1])).astype(np.float32)
        x_TND = torch.from_numpy(new_ND)[None].repeat(4, 1, 1)
        ours_NC = trained.probabilities(x_TND)[sampling].numpy()
        np.testing.assert_allclose(ours_NC, peer.predict_proba(new_ND), atol=2e-4)


def test_its_regularization_is_chosen_on_held_out_clips(tmp_path: Path) -> None:
    percepts, statistics = make_store(tmp_path / "store", turning_clips("train", 8, seed=0))
    grid = (1e-4, 1.0)
    config = FinetuneConfig(
        arm="mean", num_frames=12, labels_per_class=(4,), num_samplings=1, classifier=ClassifierConfig(model="mean"),
        selection=SelectionConfig(inverse_regularizations=grid, validation_fraction=0.25),
    )  # fmt: skip
    artifact = finetune(config, Context.for_test(tmp_path / "arm"), percepts=percepts, statistics=statistics)
    (choice,) = artifact.selection().choices
    best = max(choice.tried, key=lambda tried: max(tried.accuracies))
    assert choice.chosen["inverse_regularization"] == best.settings["inverse_regularization"]
    assert [tried.settings["inverse_regularization"] for tried in choice.tried] == list(grid)


def test_order_is_nothing_to_them() -> None:
    torch.manual_seed(0)
    x_GTBD = torch.randn(2, 6, 5, 7)
    order = torch.randperm(6)
    for kind, model_class in (("mean", MeanFramesClassifier), ("attention", AttentionClassifier)):
        spec = ClassifierConfig(model=kind).spec(dim=7, num_classes=3, num_members=2)  # type: ignore[arg-type]
        model = model_class(spec)
        if isinstance(model, AttentionClassifier):
            mean_G1BD = x_GTBD.mean(1, keepdim=True)
            torch.testing.assert_close(model(x_GTBD), model.output(mean_G1BD))
            torch.nn.init.normal_(model.query, std=3.0)
            assert not torch.allclose(model(x_GTBD), model.output(mean_G1BD), atol=1e-2)
        torch.testing.assert_close(model(x_GTBD), model(x_GTBD[:, order]))


@pytest.mark.parametrize("kind", ["mean", "attention"])
def test_they_are_kept_and_loaded(kind: str) -> None:
    spec = ClassifierConfig(model=kind).spec(dim=7, num_classes=3)  # type: ignore[arg-type]
    model = {"mean": MeanFramesClassifier, "attention": AttentionClassifier}[kind](spec)
    loaded = build_model(model.state_dict(), type(model).__name__, model.config.to_header(), "the model")
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_attention_learns(tmp_path: Path) -> None:
    percepts, statistics = make_store(tmp_path / "store", turning_clips("train", 5, seed=0))
    config = FinetuneConfig(
        arm="attention", num_frames=12, labels_per_class=(3,), num_samplings=1,
        classifier=ClassifierConfig(model="attention"), training=EnsembleTrainingConfig(num_steps=20),
    )  # fmt: skip
    artifact = finetune(config, Context.for_test(tmp_path / "arm"), percepts=percepts, statistics=statistics)
    losses_SG = artifact.load(artifact.files()[0]).losses_SG
    assert losses_SG[-1] < losses_SG[0]


def test_an_encoder_is_nothing_to_them() -> None:
    with pytest.raises(ConfigError, match="use model=lstm"):
        FinetuneConfig(arm="a", classifier=ClassifierConfig(model="mean"), frozen=True)
    with pytest.raises(ConfigError, match="inverse_regularization is 0"):
        ClassifierConfig(model="mean", inverse_regularization=0)


def test_a_single_class_is_the_answer_without_a_fit() -> None:
    model = MeanFramesClassifier(ClassifierConfig(model="mean").spec(dim=3, num_classes=4))
    losses = fit(model, np.ones((2, 3), np.float32), np.array([[0, 1]]), np.array([[2, 2]]))
    assert losses.tolist() == [[0.0]]
    assert model(torch.zeros(1, 5, 1, 3)).softmax(-1)[0, 0, 0].tolist() == [0.0, 0.0, 1.0, 0.0]
