"""A team's weeks, by commands alone: more videos, a warm start, a promotion, a look, a comparison, a pruning."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import mlflow
import pytest

from pipeline.commands.table import main
from pipeline.engine.store import Manifest, Store
from pipeline.engine.tracking.models import aliased_keys
from stages.evaluation.artifacts import Forecast
from tests.pipeline.small_store import encode_clips

METRIC = "forecast_error/composite LSTM"
SMALL = (
    *("--extract.convnet.name", "pixels", "--extract.convnet.layer", "gray", "--extract.convnet.grid", "2"),
    *("--extract.convnet.input-px", "32", "--extract.decode.crop-px", "32", "--extract.decode.short-side-px", "32"),
    *("--pretrain.num-units", "6", "--pretrain.num-frames-in", "4", "--pretrain.num-frames-out", "3"),
    *("--pretrain.batch-size", "4", "--pretrain.window-stride", "1", "--pretrain.validation-fraction", "0.3"),
    *("--workers", "1", "--pretrain.num-passes", "2", "--in-process", "--held-out", "0.3"),
)


def test_three_weeks(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it, for all tests of this process
    root, clips = str(tmp_path / "store"), encode_clips(tmp_path, 7)
    store = ["--store", root]
    made: list[Manifest] = []

    def said(*arguments: str) -> str:
        capsys.readouterr()
        assert main([*arguments, *store]) == 0
        return capsys.readouterr().out

    def week(num_clips: int, *more: str) -> str:
        """Runs on the videos that there are by then; returns what it said. The encoder is the last of `made`."""
        text = said("run", "youtube", "--videos", *clips[:num_clips], *SMALL, *more)
        made.append(max(Store.open(root).manifests("pretrain"), key=lambda manifest: manifest.finished_at))
        return text

    def best() -> str:
        (key,) = aliased_keys(Store.open(root).default_tracking_uri)
        return key

    try:
        week(5, "--register", "walks@best")
        assert best() == made[0].key
        # More videos are another test: the model of last week is measured by it, too, and only then compared.
        said_2 = week(6, "--register", "walks@best", "--if-better", METRIC)
        figures = re.findall(r" is ([\d.]+), version 1 ha[ds] ([\d.]+) on the same test", said_2)
        assert figures, said_2
        new, had = (float(figure) for figure in figures[0])
        assert best() == made[new < had].key
        assert had == errors_of(root, made[0], made[1])
        assert new == errors_of(root, made[1], made[1])
        week(6, "--register", "walks@best")
        assert best() == made[1].key
        # The encoder of last week goes on with steps that are far too large, and is refused by its own figure.
        worse = ["--warm-start", "models:/walks@best", "--pretrain.optimizer.learning-rate", "0.1"]
        refused = week(7, *worse, "--register", "walks@best", "--if-better", METRIC)
        assert best() == made[1].key
        assert made[1].key in made[-1].input_keys()
        assert "stays" in refused
        assert METRIC in refused
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]

    status = json.loads(said("status", "--json"))
    assert [run["state"] for run in status["runs"]] == ["succeeded"] * 4
    assert len({run["plan"] for run in status["runs"]}) == 3
    assert METRIC in said("compare", "latest~1", "latest")
    # The last run stays, and the encoder that it went on from, which has the alias: the first week goes.
    planned = json.loads(said("prune", "--keep", "1", "--json"))
    assert {item["key"] for item in planned["artifacts"] if item["stage"] == "pretrain"} == keys(made[:1])
    assert planned["shards"] == [], "percepts of videos that are listed"
    said("prune", "--keep", "1", "--remove")
    assert keys(Store.open(root).manifests("pretrain")) == keys(made[1:])
    assert main(["verify", *store]) == 0
    assert "nothing to prune" in said("prune", "--keep", "1")


def errors_of(root: str, encoder: Manifest, week: Manifest) -> float:
    """The forecast error of an encoder on the percepts of a week, as the store has it."""
    store = Store.open(root)
    (found,) = [
        manifest
        for manifest in store.manifests("forecast")
        if manifest.inputs["encoders"] == [encoder.key] and manifest.inputs["percepts"] == week.inputs["percepts"]
    ]
    errors = Forecast(store.directory("forecast", found.key), found.key).read()
    return float(f"{errors.means[METRIC.partition('/')[2]]:.6g}")


def keys(manifests: Iterable[Manifest]) -> set[str]:
    return {manifest.key for manifest in manifests}
