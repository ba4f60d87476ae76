"""finetune: samplings that are comparable, jobs that survive a kill, encoders that fit, and scikit-learn's accuracy."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from pipeline.core.errors import ConfigError, SourceError, TrainingDiverged
from pipeline.core.events import Emit, Event, Progress, discard
from pipeline.core.files import read_bytes, write_bytes
from pipeline.core.stage import Context, Resources, config_dict
from stages.finetune import FinetuneConfig, finetune
from stages.finetuning.arm import EnsembleTrainingConfig
from stages.finetuning.artifacts import Classifiers
from stages.finetuning.trained_classifiers import TrainedClassifiers
from stages.models.artifacts import Encoder
from stages.models.classifier import LSTMClassifier
from stages.models.composite import Composite
from stages.models.config import ClassifierConfig, CompositeSpec
from stages.models.pretrained import Pretrained
from stages.percepts.artifacts import Percepts, Statistics
from stages.percepts.transforms import Standardisation
from stages.pretraining.config import OptimizerConfig
from tests.stages.labelled_store import MOTIONS, Clip, make_store, turning_clips
from tests.stages.made_configs import changed

SMALL = FinetuneConfig(
    arm="small",
    classifier=ClassifierConfig(num_units=10, dropout=0.2),
    training=EnsembleTrainingConfig(num_steps=6),
    labels_per_class=(1, 3),
    num_samplings=3,
    num_frames=8,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Percepts, Statistics]:
    clips = [*turning_clips("train", 6, seed=0), *turning_clips("test", 2, seed=100)]
    return make_store(tmp_path_factory.mktemp("store"), clips)


def run(
    config: FinetuneConfig,
    directory: Path,
    store: tuple[Percepts, Statistics],
    encoder: Encoder | None = None,
    emit: Emit = discard,
) -> Classifiers:
    percepts, statistics = store
    context = Context.for_test(directory, emit=emit, resources=Resources(num_workers=1))
    return finetune(config, context, percepts=percepts, statistics=statistics, encoder=encoder)


def shares(events: list[Event]) -> list[float | None]:
    return [event.share for event in events if isinstance(event, Progress)]


def trained(classifiers: Classifiers) -> dict[tuple[int, int], TrainedClassifiers]:
    """By label count and sampling."""
    files = [classifiers.load(name) for name in classifiers.files()]
    return {
        (file.labels_per_class, sampling): file.select(group)
        for file in files
        for group, sampling in enumerate(file.samplings)
    }


def weights(found: TrainedClassifiers) -> dict[str, torch.Tensor]:
    return dict(found.classifier.state_dict())


def test_a_sampling_becomes_the_same_whoever_trains_beside_it(
    tmp_path: Path, store: tuple[Percepts, Statistics]
) -> None:
    together = trained(run(SMALL, tmp_path / "together", store))
    alone = trained(run(replace(SMALL, samplings_per_job=1), tmp_path / "alone", store))
    assert set(together) == set(alone) == {(labels, sampling) for labels in (1, 3) for sampling in range(3)}
    for key, found in together.items():
        assert found.clips == alone[key].clips
        for name, tensor in weights(found).items():
            torch.testing.assert_close(tensor, weights(alone[key])[name], rtol=1e-3, atol=1e-5)
    first, second = (weights(together[3, sampling])["output.weight"] for sampling in (0, 1))
    assert not torch.allclose(first, second)


def test_arms_of_one_seed_learn_from_the_same_clips(tmp_path: Path, store: tuple[Percepts, Statistics]) -> None:
    lstm = trained(run(SMALL, tmp_path / "lstm", store))
    frame = trained(
        run(
            replace(
                SMALL,
                arm="frame",
                classifier=replace(SMALL.classifier, model="frame"),
            ),
            tmp_path / "frame",
            store,
        )
    )
    other = trained(run(replace(SMALL, seed=1), tmp_path / "other", store))
    assert {key: found.clips for key, found in lstm.items()} == {key: found.clips for key, found in frame.items()}
    assert {key: found.clips for key, found in lstm.items()} != {key: found.clips for key, found in other.items()}
    test_clips = {record.sha256 for record in store[0].records() if record.part == "test"}
    for (labels, sampling), found in lstm.items():
        assert len(set(found.clips[0])) == labels * len(MOTIONS)
        assert not test_clips & set(found.clips[0])
        assert set(lstm[1, sampling].clips[0]) <= set(found.clips[0])


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, store: tuple[Percepts, Statistics]) -> None:
    config = replace(SMALL, samplings_per_job=2)
    events: list[Event] = []
    classifiers = run(config, tmp_path, store, emit=events.append)
    assert shares(events) == pytest.approx([0, 12 / 30, 18 / 30, 26 / 30, 1])  # 3 + 3 and 3 + 1 clips a training
    names = [*classifiers.files(), "model.safetensors"]
    assert len(names) == 5
    bytes_before = {name: read_bytes(classifiers.path(name)) for name in names}
    kept, cut, lost = names[:3]
    write_bytes(classifiers.path(cut), bytes_before[cut][:-100])
    os.remove(classifiers.path(lost))
    kept_at = os.stat(classifiers.path(kept)).st_mtime_ns
    events.clear()
    run(config, tmp_path, store, emit=events.append)
    assert shares(events) == pytest.approx([14 / 30, 26 / 30, 1])
    assert os.stat(classifiers.path(kept)).st_mtime_ns == kept_at
    assert {name: read_bytes(classifiers.path(name)) for name in names} == bytes_before


def test_the_served_model_is_the_one_of_most_labels(tmp_path: Path, store: tuple[Percepts, Statistics]) -> None:
    classifiers = run(SMALL, tmp_path, store)
    served = TrainedClassifiers.load(classifiers.path("model.safetensors"))
    assert (served.labels_per_class, served.samplings, served.class_names) == (3, (0,), tuple(sorted(MOTIONS)))
    for name, tensor in weights(trained(classifiers)[3, 0]).items():
        assert torch.equal(tensor, weights(served)[name])


def make_encoder(directory: Path, statistics: Statistics, *, num_units: int = 10) -> Encoder:
    composite = Composite(CompositeSpec(dim=6, num_units=num_units, num_frames_in=4, num_frames_out=2))
    Pretrained(composite, Standardisation.of(statistics.moments())).save(str(directory / "model.safetensors"))
    return Encoder(str(directory))


def test_a_frozen_lstm_is_the_encoder(tmp_path: Path, store: tuple[Percepts, Statistics]) -> None:
    encoder = make_encoder(tmp_path / "encoder", store[1])
    frozen = trained(run(replace(SMALL, frozen=True), tmp_path / "frozen", store, encoder))
    moving = trained(run(SMALL, tmp_path / "moving", store, encoder))
    expected = dict(encoder.load().encoder.named_parameters())
    for key in frozen:
        for found, is_equal in ((frozen[key], True), (moving[key], False)):
            assert isinstance(found.classifier, LSTMClassifier)
            mine = dict(found.classifier.lstm.named_parameters())
            assert {name: torch.equal(mine[name], expected[name]) for name in mine} == dict.fromkeys(mine, is_equal)
            largest = max(float((mine[name] - expected[name]).detach().abs().max()) for name in mine)
            assert (
                largest <= SMALL.training.optimizer.learning_rate * SMALL.training.num_steps * 2
            )  # the start was the encoder


def test_an_encoder_that_does_not_fit_is_refused(tmp_path: Path, store: tuple[Percepts, Statistics]) -> None:
    with pytest.raises(ConfigError, match=r"the encoder has 12 units in 1 layers, the classifier 10 in 1"):
        run(SMALL, tmp_path, store, make_encoder(tmp_path / "a", store[1], num_units=12))
    with pytest.raises(ConfigError, match="a classifier of kind frame cannot start from an encoder"):
        run(
            replace(SMALL, classifier=replace(SMALL.classifier, model="frame")),
            tmp_path,
            store,
            make_encoder(tmp_path / "b", store[1]),
        )
    _, others = make_store(tmp_path / "others", turning_clips("train", 2, seed=50))
    theirs = run(SMALL, tmp_path / "theirs", store, make_encoder(tmp_path / "c", others))
    assert all(each.transform == Standardisation.of(others.moments()) for each in trained(theirs).values())


def test_a_group_on_both_sides_is_refused(tmp_path: Path) -> None:
    clips = turning_clips("train", 3, seed=0)
    leak = Clip("test", MOTIONS[0], clips[0].percepts, group=clips[5].group)
    with pytest.raises(SourceError, match=rf"leak: .*clip12\.mp4 .*clip5\.mp4 .*{clips[5].group}"):
        run(SMALL, tmp_path / "leak", make_store(tmp_path / "store", [*clips, leak]))
    unlabelled = replace(leak, part="unlabelled", label=None)
    run(SMALL, tmp_path / "no leak", make_store(tmp_path / "other", [*clips, unlabelled]))


def test_divergence_names_the_job(tmp_path: Path, store: tuple[Percepts, Statistics]) -> None:
    optimizer = replace(SMALL.training.optimizer, learning_rate=1e9, weight_decay=1e9, max_grad_norm=0.0)
    config = replace(SMALL, training=replace(SMALL.training, optimizer=optimizer), labels_per_class=(1,))
    with pytest.raises(TrainingDiverged, match=r"^small, labels-001-samplings-000-002: training diverged at step \d"):
        run(config, tmp_path, store)


def test_windows_longer_than_every_clip_are_refused(tmp_path: Path, store: tuple[Percepts, Statistics]) -> None:
    with pytest.raises(ConfigError, match="num_frames is 13, longer than every clip"):
        run(replace(SMALL, num_frames=13), tmp_path, store)


def test_a_sampling_of_short_clips_is_taken_where_others_are_long_enough(tmp_path: Path) -> None:
    """Which clips a sampling of one a class draws is chance: no reason to end a run."""
    long, *short = turning_clips("train", 6, seed=0)
    longer = replace(long, percepts=np.concatenate([long.percepts, long.percepts[:1]]))
    store = make_store(tmp_path / "store", [longer, *short])
    made = trained(run(replace(SMALL, num_frames=13), tmp_path / "run", store))
    assert any(longer.sha256 not in made[1, sampling].clips[0] for sampling in range(3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arm": ""}, "arm is empty"),
        ({"labels_per_class": (2, 2)}, "named once"),
        ({"labels_per_class": ()}, "give one or more counts"),
        ({"num_samplings": 0}, "num_samplings is 0"),
        ({"crop_stride": 0}, "crop_stride is 0"),
        ({"model": "frame", "frozen": True}, "frozen weights are an lstm's, and model is frame"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_a_config_that_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        changed(SMALL, **changes)


def test_the_config_can_be_part_of_a_key() -> None:
    assert config_dict(SMALL)["labels_per_class"] == [1, 3]


def blobs(part: str, per_class: int, seed: int) -> list[Clip]:
    """Three overlapping clouds of frames in 5 dimensions: no single frame is sure."""
    rng = np.random.default_rng(seed)
    centres = 2.0 * np.random.default_rng(1).standard_normal((3, 5))
    return [
        Clip(part, f"cloud {label}", (centres[label] + 2.0 * rng.standard_normal((8, 5))).astype(np.float16))
        for label in range(3)
        for _ in range(per_class)
    ]


def test_single_frames_are_named_as_by_scikit_learn(tmp_path: Path) -> None:
    train, test = blobs("train", 20, seed=2), blobs("test", 60, seed=3)
    percepts, statistics = make_store(tmp_path / "store", [*train, *test])
    config = FinetuneConfig(
        arm="frame",
        classifier=ClassifierConfig(model="frame"),
        training=EnsembleTrainingConfig(
            optimizer=OptimizerConfig(learning_rate=0.05, max_grad_norm=0.0, num_warmup_steps=0),
            num_steps=400,
            batch_clips=60,
        ),
        labels_per_class=(20,),
        num_samplings=1,
        num_frames=8,
    )
    found = trained(run(config, tmp_path, (percepts, statistics)))[20, 0]
    standardise = Standardisation.of(statistics.moments())
    x_train, x_test = (
        np.concatenate([standardise(torch.tensor(clip.percepts)).numpy() for clip in clips]) for clips in (train, test)
    )
    truth = np.repeat([clip.label for clip in train], 8)
    peer = LogisticRegression(C=1e6, max_iter=1000).fit(x_train, truth)
    expected = peer.predict_proba(x_test)
    mine = found.probabilities(torch.from_numpy(x_test)[None])[0].numpy()
    assert found.class_names == tuple(peer.classes_)
    np.testing.assert_allclose(mine, expected, atol=0.01)
    labels = np.repeat([clip.label for clip in test], 8)
    accuracies = [np.mean(np.array(found.class_names)[p.argmax(1)] == labels) for p in (mine, expected)]
    assert 0.5 < accuracies[1] < 0.95
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.005)
