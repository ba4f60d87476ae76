"""The arrow of time: reversed clips are read backwards, and only an LSTM can tell them from the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.stage import Context
from stages.datasets.arrow_of_time import (
    ReversedClip,
    clip_identity,
    reversal_pairs,
    with_reversals,
    with_reversed_names,
)
from stages.datasets.labelled import ClipFinder, labelled
from stages.evaluate import EvaluateConfig, evaluate
from stages.evaluation.artifacts import Scores
from stages.finetune import FinetuneConfig, finetune
from stages.finetuning.arm import EnsembleTrainingConfig
from stages.models.config import ClassifierConfig
from stages.pretraining.config import OptimizerConfig
from tests.stages.labelled_store import Clip, make_store, turning_clips


def turning_left(part: str, per_class: int) -> list[Clip]:
    """Clips of two classes, whose reversals turn right."""
    clips = turning_clips(part, per_class, seed={"train": 0, "test": 1000}[part])
    return [clip for clip in clips if str(clip.label).endswith("left")]


def test_a_reversal_is_the_same_frames_from_the_last_to_the_first(tmp_path: Path) -> None:
    percepts, _ = make_store(tmp_path, turning_left("train", 2))
    clips = with_reversals(labelled(percepts.records(), "train"))
    assert [isinstance(clip, ReversedClip) for clip in clips[:2]] == [False, True]
    assert [clip.label for clip in clips[:2]] == [clips[0].label, f"{clips[0].label}, reversed"]
    assert len({clip_identity(clip) for clip in clips}) == len(clips) == 2 * len({clip.sha256 for clip in clips})
    finder = ClipFinder(percepts.open())
    forward, backward = (finder.find(clip, num_frames=4, stride=1) for clip in clips[:2])
    np.testing.assert_array_equal(backward[0], forward[0][::-1])
    assert len(backward[1]) == len(forward[1])


def test_windows_of_a_reversal_do_not_cross_a_gap(tmp_path: Path) -> None:
    frames_FD = np.arange(20, dtype=np.float16)[:, None].repeat(3, 1)
    gap = Clip("train", "a", frames_FD, segments=np.repeat([0, 1], [8, 12]).astype(np.int32))
    percepts, _ = make_store(tmp_path, [gap])
    (_, backward) = with_reversals(labelled(percepts.records(), "train"))
    backward_FD, starts, _ = ClipFinder(percepts.open()).find(backward, num_frames=5, stride=1)
    assert backward_FD[0, 0] == 19
    windows = [set(backward_FD[start : start + 5, 0].astype(int).tolist()) for start in starts.tolist()]
    assert len(windows) == 4 + 8  # of 8 and of 12 frames
    assert all(max(window) < 8 or min(window) >= 8 for window in windows)


def test_names_and_pairs() -> None:
    names = with_reversed_names(("open", "fall"))
    assert names == ("fall", "fall, reversed", "open", "open, reversed")
    assert reversal_pairs(names) == (("fall", "fall, reversed"), ("open", "open, reversed"))


def test_an_lstm_tells_the_order_and_frames_do_not(tmp_path: Path) -> None:
    percepts, statistics = make_store(tmp_path / "store", [*turning_left("train", 12), *turning_left("test", 10)])
    arms = []
    for arm, kind in (("single frame", "frame"), ("mean of frames", "mean"), ("LSTM", "lstm")):
        config = FinetuneConfig(
            arm=arm, arrow=True, labels_per_class=(8,), num_samplings=2, num_frames=8,
            classifier=ClassifierConfig(model=kind, num_units=24),  # type: ignore[arg-type]
            training=EnsembleTrainingConfig(
                optimizer=OptimizerConfig(learning_rate=2e-2, num_warmup_steps=0), num_steps=120
            ),
        )  # fmt: skip
        context = Context.for_test(tmp_path / arm)
        arms.append(finetune(config, context, percepts=percepts, statistics=statistics))
    context = Context.for_test(tmp_path / "scores")
    scores: Scores = evaluate(EvaluateConfig(arrow=True), context, classifiers=tuple(arms), percepts=percepts)
    table = scores.read()
    assert table.arrow
    assert len(table.class_names) == 2 * len({name.removesuffix(", reversed") for name in table.class_names})
    order = {row.model: row.mean for row in table.order}
    # The share is counted again from the confusions, which hold all runs together.
    matrix = np.array(table.confusion["LSTM"])
    pairs = [(table.class_names.index(a), table.class_names.index(b)) for a, b in reversal_pairs(table.class_names)]
    right = sum(matrix[a, a] + matrix[b, b] for a, b in pairs)
    assert order["LSTM"] == pytest.approx(
        right / (right + sum(matrix[a, b] + matrix[b, a] for a, b in pairs)), abs=0.02
    )
    for pooled in ("single frame", "mean of frames"):
        assert abs(order[pooled] - 0.5) < 0.2
        assert order["LSTM"] > order[pooled] + 0.2


def test_what_cannot_be_reversed_is_refused(tmp_path: Path) -> None:
    percepts, statistics = make_store(tmp_path, turning_left("train", 4))
    both = with_reversals(labelled(percepts.records(), "train"))
    with pytest.raises(SourceError, match="marks reversals: rename it"):
        with_reversals(both)
    config = FinetuneConfig(
        arm="a", num_frames=8, labels_per_class=(1,), num_samplings=1, classifier=ClassifierConfig(model="frame")
    )
    arm = finetune(config, Context.for_test(tmp_path / "arm"), percepts=percepts, statistics=statistics)
    both_parts, _ = make_store(tmp_path / "both", [*turning_left("train", 4), *turning_left("test", 2)])
    with pytest.raises(ConfigError, match="reversals names 'left'"):
        evaluate(
            EvaluateConfig(reversals=(("left", "right"),)),
            Context.for_test(tmp_path / "scores"), classifiers=(arm,), percepts=both_parts,
        )  # fmt: skip
