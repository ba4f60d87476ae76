"""What MLflow shows of runs: their results, names, data sets and states, read through MLflow's own client."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from cluster.session import FinishedTask
from pipeline.core.addresses.mlflow_addresses import follow_store
from pipeline.core.addresses.model_uris import store_tracking_uri
from pipeline.core.events import NodeUsage
from pipeline.engine.in_process import InProcessSession
from pipeline.engine.plan import Plan
from pipeline.engine.store import Manifest, Store
from pipeline.engine.tracking.datasets import dataset_inputs, is_for_parent
from pipeline.engine.tracking.models import code_of_models
from pipeline.engine.tracking.tracker import Tracker
from pipeline.engine.tracking.values import RunDescription
from stages.models.artifacts import Encoder
from tests.conftest import ROOT
from tests.pipeline.engine.measured_stages import COUNTS, FRAME, LSTM
from tests.pipeline.engine.toy_stages import CountConfig, SumConfig, add, count
from tests.pipeline.engine.tracked_runs import Tracked, plan_of, run

ARM = LSTM.replace(",", "")
"""The name of the arm as MLflow allows it."""
LABELS = tuple(f"{n} labels" if n else "all labels" for n in COUNTS)
HEADLINES = {
    *(f"accuracy{end}/{model}/{n}" for end in ("", "_low", "_high") for model in (FRAME, ARM) for n in LABELS),
    *(f"difference{end}/{ARM} over {FRAME}/{n}" for end in ("", "_low", "_high") for n in LABELS),
    *(f"forecast_error/{model}" for model in (ARM, "copy last frame")),
    *(f"forecast_error_over_copying/{ARM}", f"reconstruction_error/{ARM}"),
    *(f"{name}/{ARM}" for name in ("nats", "nats_low", "nats_high", "mse", "ssim")),
    *("cost/seconds", "cost/stage_seconds", "cost/gpu_seconds", "cost/bytes_made", "cost/stages_made"),
}
DIFFER = {name for name in HEADLINES if ARM in name and name.split("/")[0] not in ("mse", "ssim")} - {
    f"reconstruction_error/{ARM}"
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(str(tmp_path_factory.mktemp("tracked") / "store"), create=True)


@pytest.fixture(scope="module")
def pair(store: Store) -> tuple[Tracked, Tracked]:
    return run(plan_of(0.1), store), run(plan_of(0.2), store)


def test_every_headline_is_on_both_parents_and_those_of_the_test_differ(pair: tuple[Tracked, Tracked]) -> None:
    first, second = (tracked.parent.data.metrics for tracked in pair)
    for metrics, tracked in zip((first, second), pair, strict=True):
        assert metrics.keys() >= HEADLINES
        assert {name: metrics[name] for name in tracked.metrics} == pytest.approx(tracked.metrics)
    assert {name for name in DIFFER if first[name] != second[name]} == DIFFER
    assert first[f"accuracy/{ARM}/5 labels"] == pytest.approx(0.35)
    assert first[f"accuracy_low/{ARM}/5 labels"] == pytest.approx(0.30)
    assert second[f"forecast_error_over_copying/{ARM}"] == pytest.approx(9.8 / 20)
    assert second["cost/stages_made"] == 3
    assert second["cost/stages_reused"] == 1


def test_curves_are_stepped_on_the_parent_and_on_the_stage(pair: tuple[Tracked, Tracked]) -> None:
    client, tracker = pair[1].client, pair[1].tracker
    for run_id in (tracker.parent_id, pair[1].children()["judge"].info.run_id):
        points = client.get_metric_history(run_id, f"accuracy_by_labels/{ARM}")
        assert {point.step: point.value for point in points} == pytest.approx({1: 0.41, 5: 0.45})
    points = client.get_metric_history(tracker.parent_id, f"forecast_error_by_frames_ahead/{ARM}")
    assert {point.step: point.value for point in points} == pytest.approx({1: 9.8, 2: 10.8})


def test_stages_carry_their_own_results_and_a_table(pair: tuple[Tracked, Tracked]) -> None:
    children = pair[0].children()
    assert children["foresee"].data.metrics[f"forecast_error/{ARM}"] == pytest.approx(9.9)
    assert f"nats/{ARM}" not in children["foresee"].data.metrics
    path = pair[0].client.download_artifacts(children["judge"].info.run_id, "results.json")
    table = json.loads(Path(path).read_text())
    assert table["columns"] == ["model", "over", "labels", "mean", "low", "high"]
    assert len(table["data"]) == 9


def test_a_reused_stage_carries_what_the_run_that_made_it_carries(pair: tuple[Tracked, Tracked], store: Store) -> None:
    threads = set(threading.enumerate())
    again = run(plan_of(0.1), store)
    assert not [one for one in threading.enumerate() if one not in threads and one.name.startswith("mlflow")]
    made, reused = pair[0].children(), again.children()
    assert made.keys() == reused.keys()
    for name, maker in made.items():
        assert reused[name].data.metrics == maker.data.metrics
        assert reused[name].data.params == maker.data.params
        assert reused[name].data.tags["made_by_run"] == maker.info.run_id
        assert reused[name].data.tags["artifact_uri"] == maker.data.tags["artifact_uri"]
        assert maker.info.run_id in reused[name].data.tags["mlflow.note.content"]
        names = [[i.dataset.name for i in one.inputs.dataset_inputs] for one in (maker, reused[name])]
        assert names[0] == names[1]
    parents = [tracked.parent.data.metrics for tracked in (pair[0], again)]
    same = {name for name in HEADLINES if not name.startswith("cost/")}
    assert {name: parents[0][name] for name in same} == {name: parents[1][name] for name in same}


def test_the_parent_says_who_ran_what_and_what_was_found(pair: tuple[Tracked, Tracked]) -> None:
    parent = pair[0].parent
    assert parent.info.run_name == "toy MeasureConfig(skill=0.1)"
    assert parent.data.params == {"a": "1", "config": "MeasureConfig(skill=0.1)"}
    tags = parent.data.tags
    assert tags["mlflow.user"]
    assert (tags["mlflow.source.name"], tags["mlflow.source.git.commit"]) == ("percepts run toy", "abc")
    assert (tags["team"], tags["mlflow.note.content"]) == ("vision", "# what was found")
    data = {i.dataset.name: i for i in pair[0].children()["judge"].inputs.dataset_inputs}
    assert data.keys() == {"count"}


def test_the_parts_of_the_data_that_a_training_used_are_data_sets_of_their_own(store: Store) -> None:
    node: Any = SimpleNamespace(parents=[], stage=SimpleNamespace(produces=Encoder, name="pretrain"))
    videos = Manifest(
        stage="extract", version=1, key="extract-1", name="extract", recipe="r", config={}, inputs={}, holds="percepts",
        facts={"num_frames": 500, "num_videos_ok": 7, "num_videos_rejected": 2},
    )  # fmt: skip
    facts = {"training/num_videos": 6, "training/hours": 0.5, "training/digest": "ab", "validation/num_videos": 1}
    parts = dataset_inputs(store, node, [videos], {}, facts)
    assert [(d.dataset.name, d.dataset.digest, d.tags[0].value, json.loads(d.dataset.profile)) for d in parts] == [
        ("extract (training of pretrain)", "ab", "training", {"num_videos": 6, "hours": 0.5}),
        ("extract (validation of pretrain)", "1", "validation", {"num_videos": 1}),
    ]
    assert all(is_for_parent(one) for one in parts)
    (whole,) = dataset_inputs(store, node, [videos], {}, {})  # a stage that does not say which part it used
    assert (whole.dataset.name, whole.tags[0].value) == ("extract (training of pretrain)", "training")
    assert json.loads(whole.dataset.profile)["num_videos"] == 9
    (names,) = dataset_inputs(store, node, [replace(videos, holds="learned")], {}, {})
    assert (names.dataset.name, names.tags[0].value, is_for_parent(names)) == ("extract", "extract", False)


def test_the_machine_is_measured_while_it_works(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    tracker = Tracker(store, store.default_tracking_uri, "toy")
    tracker.start(RunDescription(command="percepts run toy"))
    deadline, client = time.monotonic() + 240, MlflowClient(tracker.uri)
    while "system/cpu_utilization_percentage" not in (metrics := client.get_run(tracker.parent_id).data.metrics):
        assert time.monotonic() < deadline, "no system metrics were logged"
        time.sleep(0.1)
    tracker.end("FINISHED")
    assert 0 < metrics["system/system_memory_usage_percentage"] <= 100
    assert metrics["system/disk_usage_percentage"] > 0


def test_other_machines_are_measured_on_the_parent(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [NodeUsage(source="node-2", values={"cpu_utilization_percentage": value}) for value in (50.0, 75.0)]
    monkeypatch.setattr(
        "pipeline.engine.in_process.InProcessSession.events", lambda self: samples[:1] and [samples.pop(0)]
    )
    tracked = run(plan_of(0.7), store)
    points = tracked.client.get_metric_history(tracked.tracker.parent_id, "system/node-2/cpu_utilization_percentage")
    assert [(point.step, point.value) for point in points] == [(1, 50.0), (2, 75.0)]


class Interrupted(InProcessSession):
    """A session in which Ctrl-C arrives while a stage runs."""

    def start(self, name: str, function: Callable[..., Any], *args: Any) -> None:
        return None

    def finished(self, timeout_seconds: float) -> list[FinishedTask]:
        raise KeyboardInterrupt


def test_a_stage_that_raises_has_failed_and_one_that_is_stopped_is_killed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan("failing")
    plan.add(add, SumConfig(fail=True), parts=[plan.add(count, CountConfig(num=2, seed=9))])
    with pytest.raises(ValueError, match="asked to fail"):
        run(plan, store)
    monkeypatch.setattr("tests.pipeline.engine.tracked_runs.InProcessSession", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(plan, store)
    client = MlflowClient(store.default_tracking_uri)
    experiment = client.get_experiment_by_name("percepts/failing")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "attributes.run_name = 'add'")
    assert [one.info.status for one in runs] == ["KILLED", "FAILED"]
    assert runs[1].data.tags["error"] == "ValueError: asked to fail"


def test_a_store_that_was_copied_shows_and_writes_its_own_files(
    pair: tuple[Tracked, Tracked], store: Store, tmp_path: Path
) -> None:
    note, parent_id = f"Report: `file://{store.root}/reports/1/report.html`", pair[1].tracker.parent_id
    pair[1].client.set_tag(parent_id, "mlflow.note.content", note)
    copy = str(tmp_path / "copy")
    shutil.copytree(store.root, copy)
    before = {path: path.stat().st_mtime_ns for path in Path(store.root).rglob("*") if path.is_file()}
    again = run(plan_of(0.3), Store.open(copy))
    assert {path: path.stat().st_mtime_ns for path in Path(store.root).rglob("*") if path.is_file()} == before
    runs = again.client.search_runs([again.tracker.experiment_id])
    assert all(one.info.artifact_uri.startswith(f"{copy}/mlartifacts/") for one in runs)
    assert {one.data.tags["store"] for one in runs if "store" in one.data.tags} == {copy}
    shown = again.client.get_run(parent_id).data.tags["mlflow.note.content"]
    assert shown == f"Report: `file://{copy}/reports/1/report.html`"
    sources = [json.loads(i.dataset.source)["uri"] for one in runs for i in one.inputs.dataset_inputs]
    assert sources
    assert all(source.startswith(copy) for source in sources)
    assert follow_store(copy) == 0
    mlflow.set_tracking_uri(store.default_tracking_uri)


def test_a_store_that_was_moved_shows_its_own_files_to_whoever_reads_it(
    pair: tuple[Tracked, Tracked], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its MLflow is found by the store, and where it is named."""
    run_id = pair[0].children()["judge"].info.run_id
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    moved, named = tmp_path / "moved 50%", tmp_path / "named"
    for place in (moved, named):
        shutil.copytree(store.root, place)
    monkeypatch.chdir(tmp_path)
    uris = [store_tracking_uri(str(moved))]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", Store.open(str(named)).default_tracking_uri)
    uris.append(store_tracking_uri("elsewhere"))
    for place, uri in zip((moved, named), uris, strict=True):
        assert MlflowClient(uri).get_run(run_id).info.artifact_uri.startswith(f"{place}/mlartifacts/")


def test_the_rest_is_found_by_whoever_loads_a_model_first(tmp_path: Path) -> None:
    """A model's own copy of the core comes first, as MLflow puts its code before everything else."""
    code_of_models(tmp_path)
    lines = "import sys; sys.path.insert(0, sys.argv[1]); import pipeline.core.errors, pipeline.engine.keys"
    command = [sys.executable, "-c", f"{lines}; print(pipeline.core.errors.__file__)", str(tmp_path)]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.startswith(str(tmp_path))
