"""MLflow that is locked, full, killed or gone stops no run; what it did not take reaches it later, whole."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from pipeline.commands.track import main as track
from pipeline.core.addresses import mlflow_addresses
from pipeline.core.errors import UsageError
from pipeline.core.files import join, write_bytes
from pipeline.core.outbox import Call, unsent
from pipeline.core.stage import Artifact, Context, Model, stage
from pipeline.engine.plan import Plan
from pipeline.engine.store import Store
from pipeline.engine.tracking.client import perform
from pipeline.engine.tracking.tracker import Tracker
from tests.pipeline.engine.measured_stages import MeasureConfig, judge
from tests.pipeline.engine.mlflow_server import Server
from tests.pipeline.engine.toy_stages import CountConfig, Numbers, count
from tests.pipeline.engine.tracked_runs import Tracked, run

HOOK: list[Callable[[], None]] = []
"""What happens while the last stage is made."""


@dataclass(frozen=True)
class Thing(Artifact):
    model: ClassVar[Model | None] = Model(__name__, ("thing.bin",))


def example(uri: str) -> tuple[Any, Any]:
    """An input of the model and its output."""
    return np.zeros((1, 2), np.float32), np.zeros(1, np.float32)


@stage(version=1)
def thing(config: MeasureConfig, context: Context, *, numbers: Numbers) -> Thing:
    context.metrics(1, loss=2.0)
    for happening in HOOK:
        happening()
    context.metrics(2, loss=1.0)
    write_bytes(join(context.uri, "thing.bin"), b"weights")
    return Thing(context.uri, context.key)


def plan_of() -> Plan:
    plan = Plan("toy")
    numbers = plan.add(count, CountConfig(num=4))
    plan.add(thing, MeasureConfig(), numbers=numbers)
    plan.add(judge, MeasureConfig(), numbers=numbers)
    return plan


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new file of MLflow, which takes seconds to make."""
    path = tmp_path_factory.mktemp("blank") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def server(tmp_path: Path, blank: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    shutil.copy(blank, tmp_path)
    server = Server(tmp_path)
    server.start()
    yield server
    while server.pids:
        server.kill()


@pytest.fixture(autouse=True)
def nothing_happens() -> Iterator[None]:
    HOOK.clear()
    yield
    HOOK.clear()


def new_store(path: Path) -> Store:
    return Store.open(str(path), create=True)


def seen(uri: str) -> list[dict[str, Any]]:
    """What MLflow has of every run, without what tells times, places and ids."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("percepts/toy")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
    names = {run.info.run_id: run.info.run_name for run in runs}
    return sorted((described(client, run, names) for run in runs), key=lambda one: str(one["name"]))


def described(client: MlflowClient, run: Run, names: dict[str, str]) -> dict[str, Any]:
    metrics = {
        k: v for k, v in run.data.metrics.items() if not k.startswith(("system/", "cost/")) and "second" not in k
    }
    models = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    assert run.inputs is not None
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "parent": names.get(run.data.tags.get("mlflow.parentRunId", "")),
        "params": run.data.params,
        "metrics": {k: v for k, v in metrics.items() if "memory" not in k},
        "curve": [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")],
        "inputs": sorted(i.dataset.name for i in run.inputs.dataset_inputs),
        "files": sorted(f.path for f in client.list_artifacts(run.info.run_id)),
        "note": run.data.tags.get("mlflow.note.content"),
        "models": [model.name for model in models],
        "lasts": run.info.end_time is not None and run.info.end_time >= run.info.start_time,
    }


@pytest.fixture(scope="module")
def undisturbed(blank: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    HOOK.clear()
    store = new_store(tmp_path_factory.mktemp("undisturbed") / "store")
    shutil.copy(blank, store.root)
    assert run(plan_of(), store).missing == ""
    return seen(store.default_tracking_uri)


def one_line(tracked: Tracked, store: Store) -> str:
    """The line at the end of a run that MLflow did not take whole."""
    assert "\n" not in tracked.missing
    assert "entries" in tracked.missing
    assert f"kept in {store.root}/tracking/unsent/" in tracked.missing
    assert "percepts track --resend" in tracked.missing
    assert "SQL" not in tracked.missing.replace("SQLITE", "")
    return tracked.missing


def test_a_server_that_is_killed_half_way_gets_the_rest_from_the_next_run(
    server: Server, tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    store = new_store(tmp_path / "store")
    HOOK.append(server.kill)
    tracked = run(plan_of(), store, server.uri)
    assert "refused" in one_line(tracked, store)
    HOOK.clear()

    gone_before = run(plan_of(), store, server.uri)
    assert gone_before.tracker.page == ""
    one_line(gone_before, store)
    assert len(unsent(store.root)) == 2

    server.start()
    assert run(plan_of(), store, server.uri).missing == ""
    assert unsent(store.root) == {}
    runs = seen(server.uri)
    assert [r for r in runs if r["parent"] is None and r["status"] == "FINISHED"] == [
        r for r in runs if r["parent"] is None
    ]
    assert len(runs) == 3 * len(undisturbed)
    made = [r for r in runs if not (r["note"] or "").startswith("Reused")]
    first = [r for r in made if r["name"] != "toy MeasureConfig(skill=0.1)"] + [made[-1]]
    assert first == undisturbed


def test_what_a_locked_file_does_not_take_is_sent_on_demand(
    tmp_path: Path,
    blank: Path,
    undisturbed: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(mlflow_addresses, "LOCK_WAIT_S", 0.1)
    store = new_store(tmp_path / "store")
    shutil.copy(blank, store.root)
    holder = sqlite3.connect(tmp_path / "store" / "mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    tracked = run(plan_of(), store)
    assert "database is locked" in one_line(tracked, store)
    assert track(["--store", store.root]) == 0
    assert "percepts/toy: the store's own MLflow lacks" in capsys.readouterr().out
    assert track(["--store", store.root, "--resend"]) == 1
    holder.execute("ROLLBACK")
    assert track(["--store", store.root, "--resend"]) == 0
    assert seen(store.default_tracking_uri) == undisturbed
    assert track(["--store", store.root]) == 0
    assert "MLflow has everything" in capsys.readouterr().out.splitlines()[-1]


def test_a_full_disk_of_mlflow_stops_nothing_and_nothing_is_sent_twice(
    tmp_path: Path, blank: Path, undisturbed: list[dict[str, Any]]
) -> None:
    store = new_store(tmp_path / "store")
    database = tmp_path / "other" / "mlflow.db"
    uri = f"sqlite:///{database}"
    database.parent.mkdir()
    shutil.copy(blank, database)

    def full() -> None:
        with sqlite3.connect(database) as connection:
            connection.execute(
                "CREATE TRIGGER full BEFORE INSERT ON metrics BEGIN SELECT RAISE(FAIL, 'disk is full'); END"
            )

    HOOK.append(full)
    tracked = run(plan_of(), store, uri)
    assert "disk is full" in one_line(tracked, store)
    with sqlite3.connect(database) as connection:
        connection.execute("DROP TRIGGER full")
    assert track(["--store", store.root, "--resend"]) == 0
    assert seen(uri) == undisturbed


def test_a_run_does_not_wait_for_what_mlflow_takes_slowly(
    tmp_path: Path, blank: Path, undisturbed: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All stages are made while MLflow's first call hangs; then everything arrives in its order."""
    store, all_made, waited = new_store(tmp_path / "store"), threading.Event(), []

    def slowly(client: MlflowClient, store: Store, call: Call) -> None:
        if not waited:
            waited.append(all_made.wait(timeout=120))
        perform(client, store, call)

    monkeypatch.setattr("pipeline.engine.tracking.client.perform", slowly)
    HOOK.append(all_made.set)  # the last stage but one
    shutil.copy(blank, store.root)
    assert run(plan_of(), store).missing == ""
    assert waited == [True]
    assert seen(store.default_tracking_uri) == undisturbed


def test_two_first_runs_begin_one_file(tmp_path: Path) -> None:
    stores = [new_store(tmp_path / name) for name in ("a", "b")]
    uri = f"sqlite:///{tmp_path}/shared/mlflow.db"
    pids = []
    for store in stores:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = int(bool(run(plan_of(), store, uri).missing))
            finally:
                os._exit(status)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
    assert len(seen(uri)) == 8


def test_an_address_where_no_mlflow_ever_was_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    store, num_before = new_store(tmp_path / "store"), threading.active_count()
    for uri in ("http://ann:hush@127.0.0.1:9", "gopher://x", "sqlite:////proc/none/mlflow.db"):
        with pytest.raises(UsageError, match=r"no MLflow answers at --tracking-uri") as caught:
            Tracker(store, uri, "toy")
        assert "\n" not in str(caught.value)
        assert "hush" not in str(caught.value)
    # Those of other tests of this process are not counted.
    assert threading.active_count() < num_before + 20
