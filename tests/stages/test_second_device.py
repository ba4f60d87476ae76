"""What runs on a GPU when there is one: no tensor that was left on the CPU meets one there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.core.stage import Context, Resources
from stages.embed import EmbedConfig, embed
from stages.evaluate import EvaluateConfig, evaluate
from stages.extraction.single_video import VideoPercepts
from stages.finetune import FinetuneConfig, finetune
from stages.finetuning.arm import EnsembleTrainingConfig, SelectionConfig
from stages.finetuning.artifacts import Classifiers
from stages.finetuning.ensemble_training import ClipBatches
from stages.finetuning.trained_classifiers import TrainedClassifiers
from stages.models.config import ClassifierConfig
from stages.percepts.artifacts import Percepts, Statistics
from stages.serving.video_classifier import answer_of
from tests.second_device import second_device
from tests.stages.labelled_store import make_store, turning_clips
from tests.stages.made_percepts import make_percepts
from tests.stages.test_embed import make_encoder

ON_GPU = Resources(num_workers=1, gpus_per_worker=1.0)
LSTM = FinetuneConfig(
    arm="lstm",
    classifier=ClassifierConfig(num_units=10, num_layers=2, dropout=0.2),
    training=EnsembleTrainingConfig(num_steps=4),
    labels_per_class=(1, 3),
    num_samplings=2,
    num_frames=8,
)
ARMS = (
    LSTM,
    replace(LSTM, arm="frame", classifier=replace(LSTM.classifier, model="frame", num_layers=1)),
    replace(LSTM, arm="mean", classifier=replace(LSTM.classifier, model="mean", num_layers=1)),
    replace(LSTM, arm="selected", selection=SelectionConfig(learning_rates=(1e-2, 1e-3), validation_fraction=0.3)),
    replace(LSTM, arm="half", training=replace(LSTM.training, precision="bfloat16")),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Percepts, Statistics]:
    clips = [*turning_clips("train", 6, seed=0), *turning_clips("test", 4, seed=100)]
    return make_store(tmp_path_factory.mktemp("store"), clips)


def trained(
    config: FinetuneConfig, directory: Path, store: tuple[Percepts, Statistics], where: Resources
) -> Classifiers:
    context = Context.for_test(directory / config.arm, resources=where)
    return finetune(config, context, percepts=store[0], statistics=store[1])


def test_classifiers_are_trained_and_judged_there(
    tmp_path: Path, store: tuple[Percepts, Statistics], monkeypatch: pytest.MonkeyPatch
) -> None:
    with second_device(monkeypatch):
        arms = tuple(trained(config, tmp_path, store, ON_GPU) for config in ARMS)
        evaluate(
            EvaluateConfig(), Context.for_test(tmp_path / "e", resources=ON_GPU), classifiers=arms, percepts=store[0]
        )
        classifier = TrainedClassifiers.load(arms[0].path("model.safetensors"), device="cuda")
        still_ND, frame_N = np.zeros((20, 6), np.float16), np.arange(20)
        answer = answer_of(classifier, VideoPercepts(still_ND, frame_N.astype(np.int32), frame_N, frame_N * 0))
    assert answer.overall.sum() == pytest.approx(1)
    # Of the same arithmetic, the same weights: what is played changes nothing but where tensors lie.
    on_cpu = trained(ARMS[1], tmp_path / "cpu", store, Resources(num_workers=1))
    for name in on_cpu.files():
        assert Path(on_cpu.path(name)).read_bytes() == Path(arms[1].path(name)).read_bytes()


def test_windows_are_embedded_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    percepts, _ = make_percepts(tmp_path, {"unlabelled": 3}, num_frames=24)
    inputs: dict[str, Any] = {"percepts": percepts, "encoder": make_encoder(tmp_path / "encoder")}
    on_cpu = embed(EmbedConfig(), Context.for_test(tmp_path / "cpu"), **inputs)
    with second_device(monkeypatch):
        there = embed(EmbedConfig(), Context.for_test(tmp_path / "gpu", resources=ON_GPU), **inputs)
    assert there.table().equals(on_cpu.table())


def test_a_tensor_that_was_left_behind_is_found(
    tmp_path: Path, store: tuple[Percepts, Statistics], monkeypatch: pytest.MonkeyPatch
) -> None:
    def labels_left_behind(batches: ClipBatches, number: int) -> tuple[Tensor, Tensor]:
        return batches.windows.gather(batches.starts_SGB[number]), torch.from_numpy(batches.labels_SGB[number])

    monkeypatch.setattr(ClipBatches, "step", labels_left_behind)
    with second_device(monkeypatch), pytest.raises(AssertionError, match=r"cross_entropy.* on the CPU and on the GPU"):
        trained(LSTM, tmp_path, store, ON_GPU)
    with second_device(monkeypatch), pytest.raises(AssertionError, match="call cpu"):
        torch.zeros(3, device="cuda").numpy()
