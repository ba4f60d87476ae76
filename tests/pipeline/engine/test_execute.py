"""Running plans for real: a Ray session, an MLflow SQLite file, and toy stages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.tracking import MlflowClient
from rich.console import Console

from cluster.session import MAX_RESTARTS, Session
from pipeline.core.errors import StageFailed
from pipeline.engine.display import Display
from pipeline.engine.execute import Execution
from pipeline.engine.plan import Plan
from pipeline.engine.status import look_up
from pipeline.engine.store import Manifest, Store
from pipeline.engine.tracking.tracker import Tracker
from pipeline.engine.tracking.values import RunDescription
from tests.pipeline.engine.toy_stages import CountConfig, FolderConfig, SumConfig, add, count, double, list_names

pytestmark = pytest.mark.ray


def toy_plan(*, seed: int = 0, fail: bool = False) -> Plan:
    plan = Plan("toy")
    numbers = plan.add(count, CountConfig(num=4, seed=seed))
    doubled = plan.add(double, SumConfig(), numbers=numbers)
    plan.add(add, SumConfig(fail=fail), parts=[numbers, doubled])
    return plan


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(str(tmp_path_factory.mktemp("store")), create=True)


def run(
    plan: Plan, store: Store, ray_session: Session | None, max_in_flight: int = 4
) -> tuple[dict[str, Manifest], Tracker]:
    tracker = Tracker(store, store.default_tracking_uri, plan.recipe)
    tracker.start(RunDescription(command="python pipeline/run.py toy", params={"seed": 0}, commit="abc"))

    @contextmanager
    def open_session() -> Iterator[Session]:
        assert ray_session is not None, "Ray must not be started when nothing is missing"
        yield ray_session

    console = Console(quiet=True)
    display = Display(plan.recipe, [node.name for node in plan.nodes], console)
    execution = Execution(plan.recipe, look_up(plan, store), store, lambda: tracker, display, max_in_flight)
    try:
        complete = execution.run(open_session)
    except BaseException:
        tracker.end("FAILED")
        raise
    tracker.end("FINISHED")
    return complete, tracker


@pytest.fixture(scope="module")
def first(store: Store, ray_session: Session) -> tuple[dict[str, Manifest], Tracker]:
    return run(toy_plan(), store, ray_session)


def test_every_node_is_made_and_tracked(first: tuple[dict[str, Manifest], Tracker], store: Store) -> None:
    complete, tracker = first
    assert list(complete) == ["count", "double", "add"]
    assert (Path(store.directory("add", complete["add"].key)) / "total.json").read_text().strip() == "18.0"
    client = MlflowClient(tracker.uri)
    runs = client.search_runs([tracker.experiment_id])
    nested = {r.info.run_name: r for r in runs if r.data.tags.get("mlflow.parentRunId") == tracker.parent_id}
    assert set(nested) == {"count", "double", "add"}
    assert all(r.info.status == "FINISHED" for r in runs)
    assert nested["count"].data.params == {"num": "4", "seed": "0"}
    assert nested["count"].data.metrics["num_frames"] == 4
    assert nested["double"].data.metrics["largest"] == 6
    assert nested["double"].data.tags["key"] == complete["double"].key
    inputs = [(i.dataset.name, i.dataset.digest) for i in nested["add"].inputs.dataset_inputs]
    assert sorted(inputs) == sorted((name, complete[name].key.split("-")[-1]) for name in ("count", "double"))
    assert {f.path for f in client.list_artifacts(nested["add"].info.run_id)} >= {"manifest.json", "total.json"}


def test_stages_wait_their_turn_where_many_could_start(
    store: Store, ray_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan("toy")
    names = [plan.add(count, CountConfig(seed=seed), name=f"count {seed}").name for seed in range(20, 24)]
    started: list[tuple[str, int]] = []
    start = Session.start

    def counted(session: Session, name: str, *arguments: Any) -> None:
        start(session, name, *arguments)
        started.append((name, len(session._running)))

    monkeypatch.setattr(Session, "start", counted)
    complete, _ = run(plan, store, ray_session, max_in_flight=2)
    assert set(complete) == set(names)
    assert [name for name, _ in started] == names
    assert max(num_running for _, num_running in started) == 2


def test_a_second_run_reuses_everything_without_ray(first: tuple[dict[str, Manifest], Tracker], store: Store) -> None:
    complete, _ = first
    again, tracker = run(toy_plan(), store, None)
    assert again == complete
    children = MlflowClient(tracker.uri).search_runs(
        [tracker.experiment_id], f"tags.`mlflow.parentRunId` = '{tracker.parent_id}'"
    )
    assert {r.data.tags["made_by_run"] for r in children} == {m.mlflow_run_id for m in complete.values()}


def test_what_changed_is_made_again_and_says_why(
    first: tuple[dict[str, Manifest], Tracker], store: Store, ray_session: Session
) -> None:
    steps = {step.node.name: step for step in look_up(toy_plan(seed=1), store)}
    assert steps["count"].reason == "config changed: seed 0 -> 1"
    assert steps["double"].reason == "input changed: numbers"
    assert steps["count"].estimate.num_bytes == 32
    assert [step.have for step in look_up(toy_plan(), store)] == [True, True, True]
    assert look_up(toy_plan(), Store(store.root + "-elsewhere"))[0].reason == "never made"


def test_what_arrives_after_the_plan_is_not_read(store: Store, ray_session: Session, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    plan = Plan("toy")
    node = plan.add(list_names, FolderConfig(folder=str(tmp_path)))
    (tmp_path / "b").touch()
    assert look_up(plan, store)[0].estimate.num_frames == 10
    complete, _ = run(plan, store, ray_session)
    made = complete["list_names"]
    directory = Path(store.directory(made.stage, made.key))
    assert json.loads((directory / "numbers.json").read_text()) == ["a"]
    assert (made.snapshot, set(made.outputs)) == (node.snapshot, {"numbers.json"})
    assert {path.name for path in directory.iterdir()} == {"numbers.json", "manifest.json"}
    assert Plan("toy").add(list_names, FolderConfig(folder=str(tmp_path))).key != node.key


def test_a_failing_stage_names_itself_and_keeps_what_was_finished(store: Store, ray_session: Session) -> None:
    plan = toy_plan(seed=7, fail=True)
    with pytest.raises(StageFailed, match=r"stage 'add' \(key add-[0-9a-f]{16}\): ValueError: asked to fail"):
        run(plan, store, ray_session)
    assert [step.have for step in look_up(plan, store)] == [True, True, False]
    failed = MlflowClient(f"sqlite:///{store.root}/mlflow.db")
    experiment = mlflow.get_experiment_by_name("percepts/toy")
    assert experiment is not None
    statuses = {r.info.run_name: r.info.status for r in failed.search_runs([experiment.experiment_id], max_results=4)}
    assert statuses["add"] == "FAILED"
    assert statuses["toy"] == "FAILED"


def test_a_coordinator_lost_again_and_again_is_a_failed_stage_and_the_next_run_goes_on(
    store: Store, ray_session: Session
) -> None:
    def plan() -> Plan:
        dying = Plan("toy")
        dying.add(add, SumConfig(die_times=MAX_RESTARTS + 1), parts=[dying.add(count, CountConfig(seed=11))])
        return dying

    with pytest.raises(StageFailed, match="stage 'add'"):
        run(plan(), store, ray_session)
    complete, _ = run(plan(), store, ray_session)
    assert set(complete) == {"count", "add"}
