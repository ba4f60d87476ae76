"""fuse: two streams of which each sees half of what there is, and weights that no test clip has a part in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import ConfigError
from pipeline.core.files import read_json
from pipeline.core.stage import Context
from stages.datasets.labelled import ALL_CLIPS
from stages.datasets.splits import Splits
from stages.evaluate import EvaluateConfig, evaluate
from stages.evaluation.artifacts import Scores
from stages.evaluation.predictions import read_probabilities
from stages.finetune import FinetuneConfig, finetune
from stages.finetuning.arm import EnsembleTrainingConfig, SelectionConfig
from stages.finetuning.artifacts import Classifiers
from stages.fuse import FuseConfig, fuse
from stages.models.config import ClassifierConfig
from stages.percepts.artifacts import Percepts
from stages.pretraining.config import OptimizerConfig
from stages.video.ledger import VideoRecord
from tests.stages.labelled_store import MOTIONS, Clip, make_store, turning_clips
from tests.stages.test_splits_protocol import PER_CLASS, ThreeSplits

CONFIG = FinetuneConfig(
    arm="composite",
    classifier=ClassifierConfig(model="frame"),
    training=EnsembleTrainingConfig(optimizer=OptimizerConfig(learning_rate=0.05, num_warmup_steps=0), num_steps=60),
    labels_per_class=(ALL_CLIPS,),
    num_frames=8,
    selection=SelectionConfig(num_checks=2, stride=4),
)
Stream = tuple[Scores, Classifiers, Percepts]


def stream(
    root: Path, sees: int, *, noise: float, config: FinetuneConfig = CONFIG, splits: Splits | None = None
) -> Stream:
    """Clips of four classes of which the stream shows a half: bit `sees` of the class's number. Clips have the same
    content in both streams, as one video has whatever is extracted from it."""
    clips = []
    for clip in turning_clips("all", PER_CLASS, seed=0):
        bit = MOTIONS.index(str(clip.label)) >> sees & 1
        rng = np.random.default_rng([sees, int(clip.sha256[:8], 16)])
        frames = np.where(bit, 1.0, -1.0) + noise * rng.standard_normal((12, 6))
        clips.append(SameContent(clip.part, clip.label, frames.astype(np.float16), clip.group, content=clip.sha256))
    percepts, statistics = make_store(root, clips)
    splits = splits or ThreeSplits("")
    arm = finetune(config, Context.for_test(root / "arm"), percepts=percepts, statistics=statistics, splits=splits)
    scores = evaluate(
        EvaluateConfig(stride=4),
        Context.for_test(root / "scores"),
        classifiers=(arm,),
        percepts=percepts,
        splits=splits,
    )
    return scores, arm, percepts


class SameContent(Clip):
    """A clip whose digest is given."""

    def __init__(self, *args: Any, content: str) -> None:
        super().__init__(*args)
        object.__setattr__(self, "content", content)

    @property
    def sha256(self) -> str:
        return str(self.content)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def rgb(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    return stream(tmp_path_factory.mktemp("rgb"), 0, noise=0.5)


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    return stream(tmp_path_factory.mktemp("flow"), 1, noise=6.0)


def run(directory: Path, first: Stream, second: Stream, config: FuseConfig = FuseConfig()) -> dict[str, Any]:  # noqa: B008
    context = Context.for_test(directory)
    scores = fuse(config, context, scores=(first[0], second[0]), classifiers=(first[1], second[1]))
    found: dict[str, Any] = read_json(scores.path("scores.json"))
    return found


def test_both_streams_together_see_what_each_lacks(tmp_path: Path, rgb: Stream, flow: Stream) -> None:
    table = run(tmp_path, rgb, flow)
    mean = {row["model"]: row["mean"] for row in table["summary"]}
    mean_rule, chosen_rule = FuseConfig().mean_rule, FuseConfig().chosen_rule
    assert list(mean) == ["RGB", "flow", mean_rule, chosen_rule]
    assert mean["RGB"] <= 0.7
    assert mean["flow"] <= 0.7
    assert mean[mean_rule] > max(mean["RGB"], mean["flow"]) + 0.1
    assert mean[chosen_rule] > max(mean["RGB"], mean["flow"]) + 0.1
    assert mean["RGB"] == pytest.approx(read_json(rgb[0].path("scores.json"))["summary"][0]["mean"])
    assert len(table["weights"][chosen_rule]) == 3
    assert {(pair["worse"], pair["better"]) for pair in table["paired"]} >= {("RGB", chosen_rule), ("flow", mean_rule)}
    assert table["dataset"] == "made"


def test_the_mean_of_logarithms_is_written_out_in_numpy(tmp_path: Path, rgb: Stream, flow: Stream) -> None:
    table = run(tmp_path, rgb, flow)
    one, two = (read_probabilities(found[0].path("probabilities.parquet")) for found in (rgb, flow))
    for row in table["rows"]:
        if row["model"] != FuseConfig().mean_rule:
            continue
        key = ("composite", 0, row["split"], row["sampling"], "")
        p, q = one[key], two[key]
        order = [q.videos.index(video) for video in p.videos]
        best = (np.log(p.probabilities_NC) + np.log(q.probabilities_NC[order])).argmax(1)
        named = np.array([p.class_names[number] for number in best])
        assert row["accuracy"] == pytest.approx(np.mean(named == np.array(p.labels)))


def test_weights_are_the_best_on_validation_and_equal_without_test_clips(
    tmp_path: Path, rgb: Stream, flow: Stream
) -> None:
    """Whatever the test clips' probabilities are, the weights are the same."""
    table = run(tmp_path / "one", rgb, flow)
    again = run(tmp_path / "two", (flow[0], *rgb[1:]), (rgb[0], *flow[1:]))
    assert again["weights"] == table["weights"]


def test_streams_that_do_not_belong_together_are_refused(tmp_path: Path, rgb: Stream, flow: Stream) -> None:
    with pytest.raises(ConfigError, match="no probabilities of arm 'LSTM'; it has those of: composite"):
        run(tmp_path / "arm", rgb, flow, FuseConfig(arm="LSTM"))
    other = stream(tmp_path / "other", 1, noise=1.0, config=replace(CONFIG, splits=(1,)))
    with pytest.raises(ConfigError, match="other label counts, splits or samplings"):
        run(tmp_path / "splits", rgb, other)
    with pytest.raises(ConfigError, match="two different names"):
        FuseConfig(streams=("RGB", "RGB"))


def test_streams_that_no_split_could_judge_are_cells_without_figures(tmp_path: Path) -> None:
    """As of a few clips of a data set: what is missing is no error, and no figure either."""

    class NoTests(ThreeSplits):
        def assign(self, records: Sequence[VideoRecord], number: int) -> list[VideoRecord]:
            return [record for record in super().assign(records, number) if record.part != "test"]

    few = replace(
        CONFIG,
        training=replace(CONFIG.training, num_steps=2),
        splits=(1,),
    )
    streams = [stream(tmp_path / str(sees), sees, noise=1.0, config=few, splits=NoTests("")) for sees in (0, 1)]
    table = run(tmp_path / "fused", *streams)
    assert (table["rows"], table["summary"], table["dataset"]) == ([], [], "made")
    rules = ["RGB", "flow", FuseConfig().mean_rule, FuseConfig().chosen_rule]
    assert table["cells"] == [{"model": model, "labels_per_class": 0} for model in rules]


def test_without_a_choice_only_the_mean_is_taken(tmp_path: Path) -> None:
    plain = replace(
        CONFIG,
        training=replace(CONFIG.training, num_steps=5),
        selection=SelectionConfig(),
    )
    streams = [stream(tmp_path / str(sees), sees, noise=1.0, config=plain) for sees in (0, 1)]
    table = run(tmp_path / "fused", *streams)
    assert table["weights"] == {}
    assert [row["model"] for row in table["summary"]] == ["RGB", "flow", FuseConfig().mean_rule]
