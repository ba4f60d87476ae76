"""The command that a scheduler calls, at the times of a schedule, and what `percepts status` says of each."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import mlflow
import pytest
import time_machine

from cluster import claims
from cluster.rendering.commands import submit_command
from cluster.rendering.schedule import SCHEDULE_VARIABLE
from cluster.rendering.settings import read_settings
from cluster.run_records import (
    RUN_ID_VARIABLE,
    RUNNING,
    RunProgress,
    RunRecord,
    read_record,
    read_records,
    write_record,
)
from cluster.submission import JobServer, Submission, SubmittedJob
from pipeline.commands.table import main
from pipeline.core.addresses.model_uris import TRACKING_VARIABLE
from pipeline.core.errors import PerceptsError, RunError, UsageError
from pipeline.engine.provenance import COMMIT_VARIABLE
from pipeline.engine.store import Store
from pipeline.options.command_line import run_command
from pipeline.recipes.recipe import RECIPES

MONDAY = datetime(2026, 11, 23, 0, 0, tzinfo=UTC)
"""Monday, 01:00 in Berlin."""
WEEK = timedelta(weeks=1)


@dataclass
class Head:
    """A head that runs a job in this process, when its log is followed, and answers as Ray's job API does."""

    address: str = "http://head:8265"
    submitted: dict[str, SubmittedJob] = field(default_factory=dict)
    submissions: dict[str, Submission] = field(default_factory=dict)
    during: Callable[[], object] = lambda: None
    """What else happens while a job runs."""

    def jobs(self) -> list[SubmittedJob]:
        return list(self.submitted.values())

    def job(self, job_id: str) -> SubmittedJob | None:
        return self.submitted.get(job_id)

    def submit(self, submission: Submission) -> SubmittedJob:
        assert submission.id not in self.submitted
        self.submissions[submission.id] = submission
        self.submitted[submission.id] = SubmittedJob(
            id=submission.id, status="PENDING", metadata=dict(submission.metadata)
        )
        return self.submitted[submission.id]

    def follow(self, job_id: str, write: Callable[[str], object], *, through_losses: bool) -> SubmittedJob:
        job, during, self.during = self.submitted[job_id], self.during, lambda: None
        self.submitted[job_id] = replace(job, status="RUNNING")
        during()
        python, _, module, *arguments = shlex.split(self.submissions[job_id].entrypoint)
        assert (python, module) == ("python", "pipeline.run")
        status = "SUCCEEDED"
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv(SCHEDULE_VARIABLE, raising=False)
            patch.setenv(RUN_ID_VARIABLE, self.submissions[job_id].environment[RUN_ID_VARIABLE])
            try:
                main(["run", *arguments])
            except PerceptsError:
                status = "FAILED"
        self.submitted[job_id] = replace(job, status=status, message="see the log" if status == "FAILED" else "")
        return self.submitted[job_id]

    def attach(self, job_id: str) -> str:
        return f"attach {job_id}"

    def stop(self, job_id: str) -> str:
        return f"stop {job_id}"


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Head:
    head = Head()

    def connect(address: str | None) -> Head:
        if address not in (None, head.address):
            raise UsageError(f"no head takes jobs at {address}")
        return head

    monkeypatch.setenv(COMMIT_VARIABLE, "0123abc")
    monkeypatch.setattr("pipeline.commands.submit.SOURCE_ROOT", str(tmp_path))  # no code travels
    monkeypatch.setattr(JobServer, "connect", connect)
    monkeypatch.setitem(RECIPES, "toy", ("tests.pipeline.commands.toy_recipe", "a toy"))
    return head


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(MONDAY, tick=False) as traveller:
        yield traveller


@dataclass
class Weekly:
    """A team's weekly run: its command, its settings and the ways to look at it."""

    store: str
    settings: Path
    capsys: pytest.CaptureFixture[str]

    def call(self, *more: str) -> int:
        """What the scheduler calls: the command that is rendered into its files."""
        return main([*submit_command(read_settings(str(self.settings)))[1:], *more])

    def status(self) -> dict[str, Any]:
        """What the settings and the store say, and the store alone, which knows the schedule once a run was begun."""
        said: list[dict[str, Any]] = []
        for where in (["--settings", str(self.settings)], ["--store", self.store]):
            self.capsys.readouterr()
            assert main(["status", *where, "--json"]) == 0
            said.append(json.loads(self.capsys.readouterr().out))
        if any(run["schedule"] for run in said[0]["runs"]):
            assert said[0] == said[1]
        return said[0]

    def states(self) -> list[str]:
        """The states of all runs, the newest first."""
        return [run["state"] for run in self.status()["runs"]]

    def text(self) -> str:
        self.capsys.readouterr()
        assert main(["status", "--settings", str(self.settings)]) == 0
        return self.capsys.readouterr().out


@pytest.fixture
def weekly(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Weekly:
    monkeypatch.setenv(SCHEDULE_VARIABLE, "0 1 * * 1 Europe/Berlin")  # as the rendered files do
    settings, store = tmp_path / "cluster.toml", str(tmp_path / "store")
    schedule = '[schedule]\ncron = "0 1 * * 1"\ntime_zone = "Europe/Berlin"\n'
    run = f'[run]\nrecipe = "toy"\noptions = ["--in-process", "--no-tracking"]\nstore = "{store}"\ntracking_uri = ""\n'
    settings.write_text(run + schedule)
    return Weekly(store, settings, capsys)


def test_weeks_of_a_schedule(weekly: Weekly, head: Head, clock: time_machine.Traveller, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no percepts store"):
        weekly.status()

    # Three runs, a week apart.
    for week in range(3):
        clock.move_to(MONDAY + week * WEEK)
        assert weekly.call() == 0
        status = weekly.status()
        assert [run["state"] for run in status["runs"]] == ["succeeded"] * (week + 1)
        newest = status["runs"][0]
        assert newest["id"].startswith(f"toy-{MONDAY + week * WEEK:%Y%m%d}-")
        assert newest["report"].endswith("report.html")
        assert status["schedule"] == {
            "recipe": "toy", "cron": "0 1 * * 1", "time_zone": "Europe/Berlin", "missed": "",
            "next": (MONDAY + (week + 1) * WEEK).strftime("%Y-%m-%dT01:00+01:00"),
        }  # fmt: skip
    assert len({run["plan"] for run in status["runs"]}) == 1

    assert {run["schedule"] for run in status["runs"]} == {"0 1 * * 1 Europe/Berlin"}

    # An overlap: the third week's run still goes on when another machine calls with other settings.
    clock.move_to(MONDAY + 3 * WEEK)

    def overlap() -> None:
        (job_id,) = [job.id for job in head.jobs() if not job.has_ended]
        clock.shift(120)
        assert weekly.states()[0] == "submitted"
        assert f"now    {job_id}" in weekly.text()
        assert weekly.call("--num", "7") == 0
        assert f"skipped: {job_id} goes on" in weekly.capsys.readouterr().err

    head.during = overlap
    assert weekly.call() == 0
    assert weekly.states() == ["succeeded"] * 4

    # A call twice: the second finds nothing to do, and is a run of its own.
    assert weekly.call() == 0
    assert weekly.states() == ["succeeded"] * 5
    assert weekly.status()["runs"][0]["id"].endswith("-2")

    # A missed run: nobody called in the fourth week. The next call makes up for it, at whatever time.
    clock.move_to(MONDAY + 4 * WEEK + timedelta(minutes=9))
    assert weekly.status()["schedule"]["missed"] == ""
    clock.move_to(MONDAY + 4 * WEEK + timedelta(days=2))
    assert weekly.status()["schedule"]["missed"] == "2026-12-21T01:00+01:00"
    assert "missed toy at 2026-12-21T01:00+01:00" in weekly.text()
    assert weekly.call() == 0
    assert weekly.status()["schedule"]["missed"] == ""

    # A failed run: it is told, by status and by the command; once the store is mended the same call succeeds.
    clock.move_to(MONDAY + 5 * WEEK)
    (manifest,) = Store.open(weekly.store).manifests("count")
    damaged = Path(weekly.store, "count", manifest.key, "numbers.json")
    damaged.write_bytes(damaged.read_bytes().replace(b"0", b"9"))
    report = tmp_path / "failed"
    tell = ["--on-failure", f'echo "$PERCEPTS_RUN_ID $PERCEPTS_STATUS" > {report}']
    with pytest.raises(RunError, match="failed"):
        weekly.call(*tell)
    newest = weekly.status()["runs"][0]
    assert newest["state"] == "failed"
    assert "numbers.json is damaged" in newest["message"]
    assert report.read_text() == f"{newest['id']} FAILED\n"
    assert "numbers.json is damaged" in weekly.text()
    with pytest.raises(RunError, match="failed"):  # one that did not ask to wait, and saw the end
        main([word for word in submit_command(read_settings(str(weekly.settings)))[1:] if word != "--wait"])
    main(["verify", "--repair", "--store", weekly.store])
    assert weekly.call() == 0
    assert weekly.states()[:2] == ["succeeded", "failed"]


def test_a_machine_that_stopped_is_known_by_its_heartbeat(
    weekly: Weekly, head: Head, clock: time_machine.Traveller
) -> None:
    Store.open(weekly.store, create=True)
    times = {"submitted_at": now(), "started_at": now(), "heartbeat_at": now()}
    progress = RunProgress(num_made=1, num_stages=3, doing="count 1/2 steps", seconds_left=180.0)
    record = RunRecord(
        id="toy-of-box", name="toy", dashboard=head.address, host="box", status=RUNNING, progress=progress, **times
    )
    write_record(weekly.store, record)  # and the head, which stopped with it, knows nothing of it

    clock.shift(170)
    assert weekly.states() == ["running"]
    assert "on box; 1 of 3 stages made; count 1/2 steps; about 3 min 0 s left; seen" in weekly.text()
    assert weekly.call() == 0
    assert len(read_records(weekly.store)) == 1, "a run that may go on was not left alone"
    clock.shift(20)
    assert weekly.states() == ["lost"]
    assert "no sign of life since 2026-11-23 00:00:00 UTC" in weekly.text()
    assert weekly.call() == 0
    assert weekly.states() == ["succeeded", "lost"]


def test_a_submission_that_does_not_begin_is_asked_after(
    weekly: Weekly, head: Head, clock: time_machine.Traveller
) -> None:
    """Its record is the same whether its turn has not come, its head was started anew, or no head answers."""
    Store.open(weekly.store, create=True)
    waiting, forgotten, unreachable = (
        RunRecord(id=f"toy-{name}", name="toy", dashboard=address, submitted_at=now())
        for name, address in (("waiting", head.address), ("forgotten", head.address), ("out-of-reach", "http://gone"))
    )
    for record in (waiting, forgotten, unreachable):
        write_record(weekly.store, record)
    head.submitted[waiting.id] = SubmittedJob(id=waiting.id, status="PENDING")

    def states() -> dict[str, str]:
        return {run["id"]: run["state"] for run in weekly.status()["runs"]}

    assert set(states().values()) == {"submitted"}
    assert "head" not in weekly.text().replace(head.address, "")  # not asked in the first minutes
    clock.shift(600)
    assert states() == {waiting.id: "submitted", forgotten.id: "lost", unreachable.id: "submitted"}
    (line_waiting, line_unreachable, line_forgotten, said) = (
        next(line for line in lines if words in line)
        for lines in [weekly.text().splitlines()]
        for words in (waiting.id, unreachable.id, forgotten.id, "does not know it")
    )
    assert line_waiting.endswith("has not begun: its head has it as PENDING")
    assert line_unreachable.endswith("has not begun: no head takes jobs at http://gone")
    assert "lost" in line_forgotten
    assert said
    head.submitted[waiting.id] = SubmittedJob(id=waiting.id, status="FAILED")
    assert states()[waiting.id] == "failed"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def test_a_run_that_was_not_submitted_blocks_none_and_counts_as_run(
    weekly: Weekly, head: Head, clock: time_machine.Traveller
) -> None:
    run = ["run", "toy", "--store", weekly.store, "--in-process", "--no-tracking"]
    assert main(run) == 0
    (record,) = read_records(weekly.store)
    assert record.id == f"toy-20261123-{record.plan}"
    assert (record.progress.num_made, record.progress.num_stages) == (2, 2)
    assert {name.split("/")[0] for name in record.artifacts} == {"count", "add"}
    assert weekly.call() == 0
    assert [run["id"] for run in weekly.status()["runs"]] == [f"{record.id}-2", record.id]
    assert main(["verify", "--store", weekly.store]) == 0


def test_of_two_submitters_at_a_time_one_begins(weekly: Weekly, head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    Store.open(weekly.store, create=True)

    def record(run_id: str) -> RunRecord:
        return RunRecord(id=run_id, name="toy", dashboard=head.address, submitted_at=now())

    def everything(run: RunRecord) -> bool:
        return True

    # The lower id was written while the higher one looked: it waits until that has withdrawn.
    pauses = []

    def withdraw(seconds: float) -> None:
        pauses.append(seconds)
        assert claims.claim(head, weekly.store, record("b"), everything) == read_record(weekly.store, "a")  # type: ignore[arg-type]

    monkeypatch.setattr(claims.time, "sleep", withdraw)
    write_record(weekly.store, replace(record("b"), status="submitting"))
    assert claims.claim(head, weekly.store, record("a"), everything) is None  # type: ignore[arg-type]
    assert pauses
    assert [record.id for record in read_records(weekly.store)] == ["a"]


def test_a_password_of_an_address_is_shown_nowhere(
    weekly: Weekly, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(RECIPES, "toy", ("tests.pipeline.commands.toy_recipe", "a toy"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv(TRACKING_VARIABLE, "")  # MLflow sets it, for this process and those that it starts
    monkeypatch.setenv(RUN_ID_VARIABLE, "submitted")
    Store.open(weekly.store, create=True)
    write_record(weekly.store, RunRecord(id="submitted", name="toy", submitted_at="2026-01-01T00:00:00+00:00"))
    run = ["run", "toy", "--store", weekly.store, "--in-process", "--tracking-uri", "http://me:secret@127.0.0.1:9"]
    try:
        with pytest.raises(SystemExit, match="2"):
            run_command(lambda: main(run))
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    (record,) = read_records(weekly.store)
    assert record.status == "failed"
    said = capsys.readouterr()
    for text in (record.message, said.err):
        assert "no MLflow answers at --tracking-uri 'http://127.0.0.1:9'" in text
    files = [path.read_bytes() for path in Path(weekly.store).rglob("*") if path.is_file()]
    assert not [text for text in (said.out.encode(), said.err.encode(), *files) if b"secret" in text]


def test_json_lines_tell_every_event_of_a_run(
    weekly: Weekly, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(RECIPES, "toy", ("tests.pipeline.commands.toy_recipe", "a toy"))
    run = ["run", "toy", "--store", weekly.store, "--in-process", "--no-tracking", "--log", "json"]
    told = []
    for _ in range(2):
        capsys.readouterr()
        assert main(run) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        told.append([(line["event"], line.get("stage")) for line in lines if line["event"] != "status"])
        assert all(line["recipe"] == "toy" and datetime.fromisoformat(line["time"]) for line in lines)
    first, second = told
    started = [("started", "count"), ("progress", "count"), ("made", "count"), ("started", "add"), ("made", "add")]
    assert first == [*started, ("report", None)]
    assert second == [("reused", "count"), ("reused", "add"), ("report", None)]
