"""evaluate: the whole way on clips whose label is the order of their frames; scores against pandas, SciPy, sklearn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.metrics import confusion_matrix

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.files import list_files, read_json
from pipeline.core.stage import Context
from stages.evaluate import EvaluateConfig, evaluate
from stages.evaluation.artifacts import Scores
from stages.finetune import FinetuneConfig, finetune
from stages.finetuning.arm import EnsembleTrainingConfig
from stages.finetuning.artifacts import Classifiers
from stages.models.config import ClassifierConfig
from stages.percepts.artifacts import Percepts, Statistics
from stages.percepts.transforms import Standardisation
from stages.pretraining.config import OptimizerConfig
from tests.stages.labelled_store import MOTIONS, Clip, make_store, turning, turning_clips

LSTM = FinetuneConfig(
    arm="LSTM",
    classifier=ClassifierConfig(num_units=16, forget_bias=1.0),
    training=EnsembleTrainingConfig(optimizer=OptimizerConfig(learning_rate=0.03, num_warmup_steps=0), num_steps=150),
    labels_per_class=(2, 8),
    num_samplings=4,
    samplings_per_job=3,
    num_frames=8,
)
FRAME = replace(
    LSTM,
    arm="single frame",
    classifier=replace(LSTM.classifier, model="frame"),
)
Store = tuple[Percepts, Statistics]


def arm(config: FinetuneConfig, directory: Path, store: Store) -> Classifiers:
    return finetune(config, Context.for_test(directory / config.arm), percepts=store[0], statistics=store[1])


def test_amounts_of_clips_are_those_of_the_ledger(tmp_path: Path, store: Store, arms: tuple[Classifiers, ...]) -> None:
    ledger = pd.read_parquet(store[0].path("ledger.parquet"))
    learning, testing = Context.for_test(tmp_path / "learn"), Context.for_test(tmp_path / "test")
    finetune(replace(FRAME, labels_per_class=(2,)), learning, percepts=store[0], statistics=store[1])
    evaluate(EvaluateConfig(stride=2), testing, classifiers=arms[:1], percepts=store[0])
    for facts, use, part in ((learning.facts, "training", "train"), (testing.facts, "test", "test")):
        of_part = ledger[ledger.part == part]
        assert facts[f"{use}/num_videos"] == len(of_part) > 0
        assert facts[f"{use}/num_frames"] == of_part.frames_decoded.sum()


def judge(arms: tuple[Classifiers, ...], directory: Path, store: Store, **changes: Any) -> Scores:
    context = Context.for_test(directory)
    config = EvaluateConfig(**{"stride": 2, **changes})
    return evaluate(config, context, classifiers=arms, percepts=store[0])


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def store(directory: Path) -> Store:
    return make_store(directory / "store", [*turning_clips("train", 12, seed=0), *turning_clips("test", 10, seed=100)])


@pytest.fixture(scope="module")
def arms(directory: Path, store: Store) -> tuple[Classifiers, ...]:
    return arm(FRAME, directory, store), arm(LSTM, directory, store)


@pytest.fixture(scope="module")
def scores(directory: Path, store: Store, arms: tuple[Classifiers, ...]) -> Scores:
    return judge(arms, directory / "scores", store)


@pytest.fixture(scope="module")
def table(scores: Scores) -> dict[str, Any]:
    found: dict[str, Any] = read_json(scores.path("scores.json"))
    return found


@pytest.fixture(scope="module")
def predictions(scores: Scores) -> pd.DataFrame:
    return pd.read_parquet(scores.path("predictions.parquet"))


def test_the_order_of_frames_is_what_an_lstm_sees_and_a_frame_does_not(table: dict[str, Any]) -> None:
    mean = {(row["model"], row["labels_per_class"]): row["mean"] for row in table["summary"]}
    assert mean["single frame", 8] < 0.65  # near or far it tells, left or right it cannot: at most a half, and luck
    assert mean["LSTM", 8] > 0.9
    (pair,) = [pair for pair in table["paired"] if pair["labels_per_class"] == 8]
    assert pair["low"] > 0.2


def test_scores_have_the_form_that_the_report_reads(table: dict[str, Any]) -> None:
    assert table["class_names"] == sorted(MOTIONS)
    assert (table["num_classes"], table["num_test_clips"], table["chance"]) == (4, 40, 0.25)
    cells = [(row["model"], row["labels_per_class"]) for row in table["summary"]]
    assert cells == [("single frame", 2), ("single frame", 8), ("LSTM", 2), ("LSTM", 8)]
    assert len(table["rows"]) == 16
    assert set(table["rows"][0]) == {"model", "labels_per_class", "split", "sampling", "encoder", "accuracy"}
    figures = {"low", "high", "num_samplings", "num_splits", "num_encoders", "over"}
    assert set(table["summary"][0]) == {"model", "labels_per_class", "mean", *figures}
    paired = {"worse", "better", "labels_per_class", "difference", "p", "p_holm", *figures}
    paired |= {"groups_low", "groups_high", "num_groups"}
    assert [set(pair) for pair in table["paired"]] == [paired, paired]
    assert set(table["confusion"]) == {"single frame", "LSTM"}


def test_rows_are_what_pandas_counts_in_the_predictions(table: dict[str, Any], predictions: pd.DataFrame) -> None:
    assert len(predictions) == 16 * 40
    correct = (predictions["label"] == predictions["predicted"]).astype(float)
    keys = [predictions["model"].astype(str), predictions["labels_per_class"], predictions["sampling"]]
    counted = correct.groupby(keys).mean()
    for row in table["rows"]:
        key = row["model"], row["labels_per_class"], row["sampling"]
        assert row["accuracy"] == pytest.approx(counted[key])


def test_intervals_are_scipy_s(table: dict[str, Any]) -> None:
    rows = pd.DataFrame(table["rows"]).set_index(["model", "labels_per_class", "sampling"])["accuracy"].sort_index()
    for row in table["summary"]:
        values = rows[row["model"], row["labels_per_class"]].to_numpy()
        if values.std() > 0:
            expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
            assert [row["low"], row["high"]] == pytest.approx(list(expected))
        assert (row["mean"], row["num_samplings"]) == (pytest.approx(values.mean()), 4)
    for pair in table["paired"]:
        a, b = (rows[pair[side], pair["labels_per_class"]].to_numpy() for side in ("worse", "better"))
        expected = stats.ttest_rel(b, a).confidence_interval(0.95)
        assert [pair["low"], pair["high"]] == pytest.approx(list(expected))


def test_confusion_is_scikit_learn_s(table: dict[str, Any], predictions: pd.DataFrame) -> None:
    for model, confusion in table["confusion"].items():
        rows = predictions[(predictions["model"].astype(str) == model) & (predictions["labels_per_class"] == 8)]
        np.testing.assert_array_equal(
            confusion, confusion_matrix(rows["label"], rows["predicted"], labels=table["class_names"])
        )


def test_a_clip_s_probability_is_the_mean_over_windows_of_the_mean_over_steps(
    store: Store, arms: tuple[Classifiers, ...], predictions: pd.DataFrame
) -> None:
    trained = arms[1].load(arms[1].files()[0]).select(0)
    standardise, percepts = Standardisation.of(store[1].moments()), store[0].open(parts=("test",))
    rows = predictions[
        (predictions["model"].astype(str) == "LSTM")
        & (predictions["labels_per_class"] == trained.labels_per_class)
        & (predictions["sampling"] == trained.samplings[0])
    ].set_index("video")
    for video in percepts.videos:
        frames = standardise(torch.tensor(percepts.percepts(video)))
        windows = [frames[first : first + 8] for first in (0, 2, 4)]
        with torch.no_grad():
            steps = [trained.classifier(window[None, :, None])[0, :, 0].softmax(-1) for window in windows]
        expected = torch.stack([step.mean(0) for step in steps]).mean(0)
        assert rows.loc[video, "probability"] == pytest.approx(float(expected.max()), abs=1e-5)
        assert rows.loc[video, "predicted"] == trained.class_names[int(expected.argmax())]


def test_equal_runs_give_equal_bytes(
    directory: Path, store: Store, arms: tuple[Classifiers, ...], scores: Scores
) -> None:
    again = judge(arms, directory / "again", store)
    for name in list_files(scores.uri):
        assert Path(again.path(name)).read_bytes() == Path(scores.path(name)).read_bytes()


def test_one_sampling_has_no_interval_and_still_is_json(directory: Path, store: Store) -> None:
    single = arm(
        replace(
            FRAME,
            arm="one",
            training=replace(FRAME.training, num_steps=2),
            num_samplings=1,
            labels_per_class=(2,),
        ),
        directory,
        store,
    )
    table = read_json(judge((single,), directory / "one", store).path("scores.json"))
    assert (table["summary"][0]["low"], table["summary"][0]["high"], table["paired"]) == (None, None, [])


def test_arms_that_cannot_be_compared_are_refused(directory: Path, store: Store, arms: tuple[Classifiers, ...]) -> None:
    with pytest.raises(ConfigError, match="needs classifiers"):
        judge((), directory / "none", store)
    with pytest.raises(ConfigError, match="two arms are called 'LSTM'"):
        judge((arms[1], arms[1]), directory / "twice", store)
    other = arm(
        replace(
            LSTM,
            arm="other seed",
            training=replace(LSTM.training, num_steps=2),
            seed=5,
        ),
        directory,
        store,
    )
    with pytest.raises(ConfigError, match="'LSTM' and 'other seed' learned from different clips at 2 labels"):
        judge((arms[1], other), directory / "seeds", store)


def test_a_clip_that_was_learned_from_is_refused(directory: Path, store: Store, arms: tuple[Classifiers, ...]) -> None:
    """The ledger that is judged does not hold the training part: only the classifiers know what they have seen."""
    clips = turning_clips("test", 2, seed=300)
    group = turning_clips("train", 12, seed=0)[0].group
    planted = Clip("test", MOTIONS[0], turning(MOTIONS[0], 999), group=group)
    percepts, _ = make_store(directory / "planted", [*clips, planted])
    with pytest.raises(SourceError, match=rf"leak: arm 'single frame' .*clip8\.mp4: from its group '{group}'"):
        judge(arms, directory / "leak", (percepts, store[1]))
    strange = Clip("test", "hovering", turning(MOTIONS[0], 998))
    percepts, _ = make_store(directory / "strange", [*clips, strange])
    with pytest.raises(SourceError, match=r"clip8\.mp4 is of class 'hovering'"):
        judge(arms, directory / "class", (percepts, store[1]))
