"""The protocol of section 4.2 on official splits: choices look at held-out training clips only; leaks are caught."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.files import read_json
from pipeline.core.stage import Context
from pipeline.core.workers import Workers
from stages.datasets.labelled import ALL_CLIPS
from stages.datasets.splits import Coverage, Splits
from stages.evaluate import EvaluateConfig, evaluate
from stages.evaluation.predictions import read_probabilities
from stages.evaluation.scores import Predictions, scores_of
from stages.finetune import FinetuneConfig, finetune
from stages.finetuning.arm import EnsembleTrainingConfig, SelectionConfig
from stages.finetuning.artifacts import Classifiers
from stages.finetuning.selection import TrialResult
from stages.models.config import ClassifierConfig
from stages.percepts.artifacts import Percepts, Statistics
from stages.pretraining.config import OptimizerConfig
from stages.video.ledger import VideoRecord
from tests.stages.labelled_store import MOTIONS, make_store, turning_clips

PER_CLASS = 12
FRAME = FinetuneConfig(
    arm="frame",
    classifier=ClassifierConfig(model="frame"),
    training=EnsembleTrainingConfig(optimizer=OptimizerConfig(learning_rate=0.03, num_warmup_steps=0), num_steps=30),
    labels_per_class=(2, ALL_CLIPS),
    num_samplings=3,
    num_frames=8,
    selection=SelectionConfig(learning_rates=(0.03, 1e-6), num_checks=2, stride=2),
)


@dataclass(frozen=True)
class ThreeSplits(Splits):
    """Clip n of a class is tested in split 1 + n % 3; of the others, every fourth is held out."""

    name = "made"

    def numbers(self) -> tuple[int, ...]:
        return (1, 2, 3)

    def class_names(self) -> tuple[str, ...]:
        return (*sorted(MOTIONS), "unseen")

    def assign(self, records: Sequence[VideoRecord], number: int) -> list[VideoRecord]:
        def part(clip: int) -> str:
            return "test" if clip % 3 == number - 1 else "validation" if clip % 4 == 3 else "train"

        return [replace(record, part=part(at % PER_CLASS)) for at, record in enumerate(records)]

    def named(self, records: Iterable[VideoRecord]) -> list[VideoRecord]:
        return list(records)

    def count(self, records: Sequence[VideoRecord]) -> tuple[int, int]:
        return len(records), 50

    def coverage(self, number: int, records: Sequence[VideoRecord] | None = None) -> Coverage:
        parts = [record.part for record in self.assign(records, number)] if records else []
        num_train, num_test = sum(part in ("train", "validation") for part in parts), parts.count("test")
        official = {"num_official_train": 40, "num_official_test": 16}
        return Coverage(name="made", number=number, num_train=num_train, num_test=num_test, **official)


Made = tuple[Percepts, Statistics]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_store(tmp_path_factory.mktemp("made"), turning_clips("all", PER_CLASS, seed=0))


def run(config: FinetuneConfig, directory: Path, made: Made, splits: Splits | None = None) -> Classifiers:
    return finetune(
        config,
        Context.for_test(directory),
        percepts=made[0],
        statistics=made[1],
        splits=ThreeSplits("") if splits is None else splits,
    )


def judge(arms: Sequence[Classifiers], directory: Path, made: Made, splits: Splits, **changes: Any) -> dict[str, Any]:
    context = Context.for_test(directory)
    scores = evaluate(
        EvaluateConfig(stride=2, **changes),
        context,
        classifiers=tuple(arms),
        percepts=made[0],
        splits=splits,
    )
    found: dict[str, Any] = read_json(scores.path("scores.json"))
    return found


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory, made: Made) -> Classifiers:
    return run(FRAME, tmp_path_factory.mktemp("frame"), made)


def parts(made: Made, number: int) -> dict[str, set[str]]:
    """sha256 of the clips on each side."""
    found: dict[str, set[str]] = {}
    for record in ThreeSplits("").assign(made[0].records(), number):
        found.setdefault(str(record.part), set()).add(record.sha256)
    return found


def test_all_labels_are_all_training_videos_and_no_other(frame: Classifiers, made: Made) -> None:
    for number in (1, 2, 3):
        sides = parts(made, number)
        trained = frame.load(f"split-{number}-labels-all-samplings-000-000.safetensors")
        assert set(trained.clips[0]) == sides["train"] | sides["validation"]
        few = frame.load(f"split-{number}-labels-002-samplings-000-002.safetensors")
        assert all(len(clips) == 2 * len(MOTIONS) for clips in few.clips)
        for found in (trained, few):
            assert not ({*found.search_clips, *(c for clips in found.clips for c in clips)} & sides["test"])
            assert found.class_names == ("far, left", "far, right", "near, left", "near, right", "unseen")


def test_settings_are_those_that_held_out_clips_prefer(frame: Classifiers, made: Made) -> None:
    choices = read_json(frame.path("selection.json"))["choices"]
    assert [(row["split"], row["labels_per_class"]) for row in choices] == [
        (number, count) for number in (1, 2, 3) for count in (0, 2)
    ]
    for row in choices:
        best = max(row["tried"], key=lambda tried: max(tried["accuracies"]))
        assert row["chosen"]["learning_rate"] == best["learning_rate"]
        assert row["chosen"]["stop"] == (np.argmax(best["accuracies"]) + 1) / 2
        assert row["accuracy"] == max(best["accuracies"])
        trial = TrialResult.load(frame.path(row["trial"]))
        sides = parts(made, row["split"])
        assert set(trial.videos) == sides["validation"]
        assert {sha256 for sha256, _ in trial.search_clips} <= sides["train"] | sides["validation"]
        truth = {record.sha256: record.label for record in made[0].records()}
        named = [trial.class_names[best] for best in trial.probabilities_NC.argmax(1)]
        assert (
            np.mean([truth[video] == name for video, name in zip(trial.videos, named, strict=True)]) == row["accuracy"]
        )
    assert sum(row["chosen"]["learning_rate"] == 0.03 for row in choices) >= 5


def test_training_stops_where_validation_was_best(tmp_path: Path, made: Made) -> None:
    """Twice the same classifier: once stopped, once chosen with one check at that share of the steps."""
    config = replace(FRAME, labels_per_class=(2,), num_samplings=1, splits=(1,))
    config = replace(config, selection=SelectionConfig(num_checks=3))
    stop = read_json(run(config, tmp_path, made).path("selection.json"))["choices"][0]["chosen"]["stop"]
    (name,) = Classifiers(str(tmp_path / "out")).files()
    assert len(Classifiers(str(tmp_path / "out")).load(name).losses_SG) == round(30 * stop)


@dataclass(frozen=True)
class Counting(Workers):
    """Writes down what its workers do, pool by pool."""

    pools: list[list[str]] = field(default_factory=list)

    def map(self, factory: Callable[[], Any], items: Sequence[Any], **settings: Any) -> Iterator[tuple[int, Any]]:
        done: list[str] = []
        self.pools.append(done)
        work = factory()

        def noted(item: Any) -> Any:
            done.append(str(item))
            return work(item)

        yield from super().map(lambda: noted, items, **settings)


def test_a_killed_attempt_goes_on_where_it_ended_in_one_pool(tmp_path: Path, made: Made) -> None:
    """What is missing is done, and nothing else; what waits for a trial is done after it, by the same workers."""
    config, workers = replace(FRAME, splits=(1, 2), num_samplings=2, samplings_per_job=1), Counting()
    facts: dict[str, Any] = {}

    def once() -> dict[str, bytes]:
        context = Context.for_test(tmp_path, workers=workers)
        finetune(config, context, percepts=made[0], statistics=made[1], splits=ThreeSplits(""))
        facts.clear()
        facts.update(context.facts)
        return {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    whole = once()
    assert {"seconds_at_002", "seconds_at_all"} <= facts.keys()
    (everything,) = workers.pools
    assert len(everything) == 2 * (2 * 2 + 2 + 1)
    for name in everything:
        if not name.startswith("trial"):
            split, count = name.removeprefix("split-")[0], name.partition("labels-")[2][:3]
            waits_for = [trial for trial in everything if trial.startswith(f"trial-split-{split}-labels-{count}")]
            assert len(waits_for) == 2
            assert max(map(everything.index, waits_for)) < everything.index(name)
    gone = [
        "trial-split-2-labels-002-01",
        "split-2-labels-002-samplings-001-001",
        "split-1-labels-all-samplings-000-000",
    ]
    for name in gone:
        (tmp_path / "out" / f"{name}.safetensors").unlink()
    assert once() == whole
    assert sorted(workers.pools[1]) == sorted(gone)
    assert not [name for name in facts if name.startswith("seconds")]  # only a part of them is known
    assert once() == whole
    assert workers.pools[2] == []


def test_a_planted_leak_is_caught(frame: Classifiers, tmp_path: Path, made: Made) -> None:
    """The splits that evaluate reads test what finetune has learned from, or has chosen its settings by."""

    class Exchanged(ThreeSplits):
        """Split 1 tests what it trained on; the groups are hidden, as where no footage is known."""

        def assign(self, records: Sequence[VideoRecord], number: int) -> list[VideoRecord]:
            moved = {"train": "test", "test": "train", "validation": None}
            return [replace(r, group=None, part=moved[str(r.part)]) for r in super().assign(records, number)]

    class Validated(ThreeSplits):
        """Split 1 tests what settings were chosen by, and nothing else."""

        def assign(self, records: Sequence[VideoRecord], number: int) -> list[VideoRecord]:
            moved = {"train": "train", "test": None, "validation": "test"}
            return [replace(r, group=None, part=moved[str(r.part)]) for r in super().assign(records, number)]

    class Grouped(ThreeSplits):
        """Every test clip is of the footage of some training clip."""

        def assign(self, records: Sequence[VideoRecord], number: int) -> list[VideoRecord]:
            return [
                replace(r, group="one" if r.label == "far, left" else r.group) for r in super().assign(records, number)
            ]

    with pytest.raises(SourceError, match=r"leak: arm 'frame' has learned from test clip .*clip\d+\.mp4: from itself"):
        judge([frame], tmp_path / "exchanged", made, Exchanged(""))
    few = run(replace(FRAME, labels_per_class=(1,), num_samplings=1, splits=(1,)), tmp_path / "few", made)
    (name,) = few.files()
    trained = few.load(name)
    unlearned = replace(trained, clips=(tuple(c for c in trained.clips[0] if c not in parts(made, 1)["validation"]),))
    unlearned.save(few.path(name))
    with pytest.raises(SourceError, match=r"leak: arm 'frame' was chosen by test clip .*clip\d+\.mp4"):
        judge([few], tmp_path / "validated", made, Validated(""))
    with pytest.raises(SourceError, match="both of group 'one'"):
        run(FRAME, tmp_path / "grouped", made, Grouped(""))


def test_choosing_needs_clips_to_choose_by(tmp_path: Path, made: Made) -> None:
    class NothingHeld(ThreeSplits):
        def assign(self, records: Sequence[VideoRecord], number: int) -> list[VideoRecord]:
            return [r for r in super().assign(records, number) if r.part != "validation"]

    with pytest.raises(ConfigError, match="no clips of part 'validation' to choose settings by"):
        run(FRAME, tmp_path, made, NothingHeld(""))
    share = replace(FRAME.selection, validation_fraction=0.25)
    held = run(replace(FRAME, selection=share, labels_per_class=(2,)), tmp_path / "held", made, NothingHeld(""))
    for row in read_json(held.path("selection.json"))["choices"]:
        trial = TrialResult.load(held.path(row["trial"]))
        assert Counter(trial.labels) == dict.fromkeys(MOTIONS, 1)
        tested = {r.sha256 for r in NothingHeld("").assign(made[0].records(), row["split"]) if r.part == "test"}
        assert not tested & {sha256 for sha256, _ in trial.search_clips}
    with pytest.raises(ConfigError, match="splits holds 4; the official splits are 1, 2, 3"):
        run(replace(FRAME, splits=(1, 4)), tmp_path, made)


def test_with_clips_missing_what_is_there_is_measured(tmp_path: Path, made: Made) -> None:
    class Sparse(ThreeSplits):
        """Split 2 has nothing to learn from, split 3 nothing to judge by, and split 1 holds nothing out."""

        def assign(self, records: Sequence[VideoRecord], number: int) -> list[VideoRecord]:
            kept = {1: ("train", "test"), 2: ("test",), 3: ("train", "validation")}[number]
            return [record for record in super().assign(records, number) if record.part in kept]

    sparse = replace(FRAME, labels_per_class=(7, ALL_CLIPS), allow_fewer=True)
    arm = run(sparse, tmp_path / "arm", made, Sparse(""))
    assert {arm.load(name).split for name in arm.files()} == {1, 3}
    assert {row["split"] for row in read_json(arm.path("selection.json"))["choices"]} == {3}
    table = judge([arm], tmp_path / "scores", made, Sparse(""))
    assert [split["number"] for split in table["splits"]] == [1]
    assert [split["num_train"] for split in table["coverage"]] == [24, 0, 32]
    assert (table["num_clips"], table["num_official_clips"]) == (48, 50)
    only = run(replace(sparse, splits=(3,)), tmp_path / "only", made, Sparse(""))
    empty = judge([only], tmp_path / "none", made, Sparse(""))
    assert empty.keys() == table.keys()
    assert [empty[name] for name in ("rows", "summary", "paired", "gains", "splits")] == [[]] * 5
    assert [cell["labels_per_class"] for cell in empty["cells"]] == [7, ALL_CLIPS]
    sides = {split["number"]: (split["num_train"], split["num_test"]) for split in empty["coverage"]}
    assert (sides[2], sides[3]) == ((0, 16), (32, 0))
    assert read_probabilities(str(tmp_path / "none" / "out" / "probabilities.parquet")) == {}
    with pytest.raises(SourceError, match="splits 2 no training clip is there"):
        run(replace(sparse, splits=(2,)), tmp_path / "two", made, Sparse(""))


def test_what_was_to_be_held_out_is_learned_from_where_it_is_all_there_is(tmp_path: Path, made: Made) -> None:
    class OnlyHeld(ThreeSplits):
        def assign(self, records: Sequence[VideoRecord], number: int) -> list[VideoRecord]:
            return [record for record in super().assign(records, number) if record.part != "train"]

    arm = run(replace(FRAME, splits=(1,), allow_fewer=True), tmp_path, made, OnlyHeld(""))
    assert read_json(arm.path("selection.json"))["choices"] == []
    assert {len(clips) for name in arm.files() for clips in arm.load(name).clips} == {8}


def test_scores_are_over_splits(frame: Classifiers, tmp_path: Path, made: Made) -> None:
    other = run(
        replace(
            FRAME,
            arm="other",
            training=replace(FRAME.training, optimizer=replace(FRAME.training.optimizer, weight_decay=0.5)),
        ),
        tmp_path / "other",
        made,
    )
    table = judge([frame, other], tmp_path / "scores", made, ThreeSplits(""), pairs=(("frame", "other"),))
    assert table["splits"] == [{"number": number, "num_test_clips": 16} for number in (1, 2, 3)]
    assert (table["dataset"], table["coverage"][0]["num_official_train"]) == ("made", 40)
    rows = {(r["model"], r["labels_per_class"], r["split"], r["sampling"]): r["accuracy"] for r in table["rows"]}
    assert len(rows) == 2 * 3 * (3 + 1)
    few = [np.mean([rows["frame", 2, split, sampling] for sampling in range(3)]) for split in (1, 2, 3)]
    (cell,) = [r for r in table["summary"] if (r["model"], r["labels_per_class"]) == ("frame", 2)]
    low, high = stats.ttest_1samp(few, 0.0).confidence_interval(0.95)
    assert (cell["mean"], cell["low"], cell["high"]) == pytest.approx((np.mean(few), low, high))
    assert (cell["num_samplings"], cell["num_splits"], cell["over"]) == (3, 3, "splits")
    assert [pair["labels_per_class"] for pair in table["paired"]] == [2, 0]


def answers(
    arm: str, split: int, correct: Sequence[int], *, count: int = ALL_CLIPS, num_learned: int = 30
) -> Predictions:
    """Classifiers of which sampling s names `correct[s]` of 10 test clips of class a rightly."""
    predicted = np.array([[0] * right + [1] * (10 - right) for right in correct], np.int16)
    clips = tuple(str(number) for number in range(num_learned))
    samplings = tuple(range(len(correct)))
    one = np.ones_like(predicted, np.float32)
    return Predictions(arm, ("a", "b"), count, split, samplings, (clips,) * len(correct), predicted, one, None, 0)


def test_splits_that_share_training_clips_have_a_wider_interval() -> None:
    """Nadeau and Bengio's corrected resampled t-test, written out."""
    worse, better = [[5], [6], [4]], [[7], [7], [7]]
    found = [answers(arm, s + 1, right[s]) for arm, right in (("w", worse), ("b", better)) for s in range(3)]
    table = scores_of(found, {split: ["a"] * 10 for split in (1, 2, 3)}).to_json()
    (pair,) = table["paired"]
    d = np.array([0.2, 0.1, 0.3])
    error = np.sqrt((1 / 3 + 10 / 30) * d.var(ddof=1))
    half = stats.t.ppf(0.975, 2) * error
    assert (pair["low"], pair["high"]) == pytest.approx((d.mean() - half, d.mean() + half))
    assert pair["p"] == pytest.approx(2 * stats.t.sf(d.mean() / error, 2))


def test_ten_samplings_of_three_splits_are_three_values() -> None:
    rng = np.random.default_rng(0)
    found = [answers("one", split, (split + 2 + rng.integers(0, 3, 10)).tolist(), count=2) for split in (1, 2, 3)]
    (cell,) = scores_of(found, {split: ["a"] * 10 for split in (1, 2, 3)}).to_json()["summary"]
    means = [found[split].predicted_GN.mean(1).mean() for split in range(3)]
    low, high = stats.ttest_1samp([1 - mean for mean in means], 0.0).confidence_interval(0.95)
    assert (cell["low"], cell["high"]) == pytest.approx((low, high))
    assert (cell["num_samplings"], cell["num_splits"]) == (10, 3)


def test_a_gain_that_shrinks_with_labels_is_measured() -> None:
    gains = {2: [3, 4, 5], ALL_CLIPS: [1, 1, 2]}
    found = [
        answers(arm, split + 1, [4 + (gain[split] if arm == "b" else 0)], count=count, num_learned=10 + count)
        for arm in ("w", "b")
        for count, gain in gains.items()
        for split in range(3)
    ]
    (gain,) = scores_of(found, {split: ["a"] * 10 for split in (1, 2, 3)}).to_json()["gains"]
    low, high = stats.ttest_1samp([0.2, 0.3, 0.3], 0.0).confidence_interval(0.95)
    assert (gain["fewest"], gain["most"], gain["change"]) == (2, 0, pytest.approx(0.8 / 3))
    assert (gain["low"], gain["high"]) == pytest.approx((low, high))


def test_holm_multiplies_within_a_family() -> None:
    found = [answers(arm, s, [right]) for arm, rights in {"w": (4, 5, 6), "b": (6, 7, 9), "c": (5, 7, 7)}.items()
             for s, right in zip((1, 2, 3), rights, strict=True)]  # fmt: skip
    table = scores_of(found, {split: ["a"] * 10 for split in (1, 2, 3)}, pairs=(("w", "b"), ("w", "c"))).to_json()
    small, large = sorted(table["paired"], key=lambda pair: pair["p"])
    assert small["p_holm"] == pytest.approx(min(1.0, 2 * small["p"]))
    assert large["p_holm"] == pytest.approx(max(large["p"], small["p_holm"]))


def test_candidates_are_every_combination() -> None:
    config = SelectionConfig(learning_rates=(1e-3, 1e-2), dropouts=(0.0, 0.5))
    assert config.is_on
    assert not SelectionConfig().is_on
    assert config.candidates()[1] == {"learning_rate": 1e-3, "dropout": 0.5}
    assert FRAME.chosen(config.candidates()[2]).training.optimizer.learning_rate == 1e-2
    with pytest.raises(ConfigError, match="dropout is"):
        replace(FRAME, selection=SelectionConfig(dropouts=(1.5,)))
