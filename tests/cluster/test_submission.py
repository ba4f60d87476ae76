"""What a submission is made of: records of runs, the code that travels, and a log that goes on where it was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from cluster import code_package, run_records, submission
from cluster import session as session_module
from cluster.code_package import SENT
from cluster.run_records import RUN_ID_VARIABLE, RunRecord, read_record, read_records, recorded, write_record
from cluster.submission import DEFAULT_DASHBOARD, JobServer, Submission, SubmittedJob, _LogFrom, _web_address
from pipeline.core.errors import CorruptArtifact, RunError, UsageError
from tests.conftest import ROOT


def test_a_run_without_an_id_gets_one_of_name_date_and_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RUN_ID_VARIABLE, raising=False)
    for _ in range(2):
        with recorded(str(tmp_path), RunRecord(id="", name="demo", plan="0123")) as result:
            result.report = "report.html"
    today = f"{datetime.now(UTC):%Y%m%d}"
    records = read_records(str(tmp_path))
    assert [record.id for record in records] == [f"demo-{today}-0123", f"demo-{today}-0123-2"]
    assert {record.report for record in records} == {"report.html"}


def test_runs_that_begin_in_one_second_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`prune --keep 1` keeps the last of them."""
    monkeypatch.delenv(RUN_ID_VARIABLE, raising=False)
    for run_id in ("z", "y", "x"):
        with recorded(str(tmp_path), RunRecord(id=run_id, name="demo")):
            pass
    assert [record.id for record in read_records(str(tmp_path))] == ["z", "y", "x"]


@pytest.mark.parametrize(
    ("error", "status"), [(None, "succeeded"), (ValueError(), "failed"), (KeyboardInterrupt(), "interrupted")]
)
def test_a_record_says_how_a_run_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException | None, status: str
) -> None:
    store = str(tmp_path)
    submitted = RunRecord(id="rgb-1", name="rgb", plan="0123", submitted_at="2026-11-26T00:00:00+00:00")
    write_record(store, submitted)
    monkeypatch.setenv(RUN_ID_VARIABLE, "rgb-1")
    try:
        with recorded(store, RunRecord(id="", name="youtube", artifacts=("ingest/a",))):
            during = read_record(store, "rgb-1")
            if error is not None:
                raise error
    except (ValueError, KeyboardInterrupt):
        pass
    now = datetime.now(UTC)
    assert during is not None
    assert during.status == "running"
    assert during.has_heartbeat(now)
    assert not during.has_heartbeat(now + timedelta(seconds=run_records.STALE_S + 1))
    (after,) = read_records(store)
    assert after.artifacts == ("ingest/a",)
    assert (after.name, after.plan, after.submitted_at) == ("rgb", "0123", submitted.submitted_at)
    assert after.status == status
    assert not after.has_heartbeat(now)


def test_heartbeats_go_on_and_outlive_a_store_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_records, "HEARTBEAT_S", 0.01)
    monkeypatch.setenv(RUN_ID_VARIABLE, "rgb-1")
    written = []

    def flaky(store: str, record: RunRecord) -> None:
        written.append(record)
        if len(written) == 2:
            raise OSError("503 slow down")
        write_record(store, record)

    monkeypatch.setattr(run_records, "write_record", flaky)
    with recorded(str(tmp_path), RunRecord(id="", name="rgb")):
        while len(written) < 4:
            pass
    assert "503 slow down" in capsys.readouterr().err
    record = read_record(str(tmp_path), "rgb-1")
    assert record is not None
    assert record.status == "succeeded"


def test_what_is_no_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "x.json").write_text('["no record"]')
    with pytest.raises(CorruptArtifact, match=r"runs/x.json"):
        read_records(str(tmp_path))


def test_code_alone_travels_and_the_rest_is_named() -> None:
    with code_package.code_package(str(ROOT), {}) as package:
        sent = {path.name for path in Path(package.directory).iterdir()}
        assert sent == set(SENT)
        assert (Path(package.directory) / "cluster" / "rendering" / "templates").is_dir()
        assert not list(Path(package.directory).rglob("__pycache__"))
        assert {"tests", "docs", "README.md"} <= set(package.left_out)
        assert "left out: " in package.summary
        assert package.num_bytes < code_package.MAX_BYTES / 4
        directory = package.directory
    assert not Path(directory).exists()


def test_a_file_that_does_not_belong_to_the_code_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "clips.rar").write_bytes(bytes(2000))
    monkeypatch.setattr(code_package, "MAX_BYTES", 1000)
    with pytest.raises(UsageError, match=r"stages/clips.rar"), code_package.code_package(str(tmp_path), {}):
        pass


def test_installed_code_is_not_sent_but_the_options_file_is(tmp_path: Path) -> None:
    with code_package.code_package(str(tmp_path), {}) as package:
        assert package.directory == ""
        assert "the cluster's own" in package.summary
    config = tmp_path / "mine.toml"
    config.write_text("workers = '2'")
    with code_package.code_package(str(tmp_path), {"run.toml": str(config)}) as package:
        assert [path.name for path in Path(package.directory).iterdir()] == ["run.toml"]


@pytest.mark.parametrize("cut", [0, 3, 7, 12])
def test_a_log_that_begins_again_goes_on_where_it_was(cut: int) -> None:
    log = "one\ntwo\nthree\n"
    written: list[str] = []
    first = _LogFrom(written.append, 0)
    first.add(log[:cut])
    second = _LogFrom(written.append, first.num_written)
    for start in range(0, len(log), 5):
        second.add(log[start : start + 5])
    assert "".join(written) == log


def test_a_job_has_ended_in_rays_three_ways() -> None:
    from ray.job_submission import JobStatus

    ended = {status.value for status in JobStatus if SubmittedJob(id="x", status=status.value).has_ended}
    assert ended == {status.value for status in JobStatus if status.is_terminal()}


@pytest.mark.parametrize("address", [None, "", "10.0.0.7:6379", "ray://10.0.0.7:10001"])
def test_an_address_for_drivers_takes_no_jobs(address: str | None) -> None:
    assert _web_address(address) == DEFAULT_DASHBOARD
    assert _web_address("http://10.0.0.7:8265") == "http://10.0.0.7:8265"


def test_a_cluster_that_is_joined_gets_the_code_of_a_job_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("pyproject.toml", "stages/a.py", "clips.tar", "store/percepts.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    with session_module._upload(str(tmp_path)) as sent:
        directory = Path(sent["working_dir"])
        assert sorted(str(path.relative_to(directory)) for path in directory.rglob("*.*")) == [
            "pyproject.toml",
            "stages/a.py",
        ]
    assert "left out: clips.tar, store" in capsys.readouterr().err
    (tmp_path / "stages" / "big.bin").write_bytes(bytes(2000))
    monkeypatch.setattr(code_package, "MAX_BYTES", 1000)
    with pytest.raises(UsageError, match=r"stages/big.bin"), session_module._upload(str(tmp_path)):
        pass


@dataclass
class FlakyClient:
    """The client of a head that is out of reach at times: what each following of the log says, then a loss or None."""

    answers: list[tuple[str, Exception | None]]
    clock: SimpleNamespace
    follows_s: float
    """How long each connection holds, seconds."""

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        text, self.loss = self.answers.pop(0)
        if text:
            self.clock.now += self.follows_s
            yield text
        if self.loss is not None:
            raise self.loss

    def list_jobs(self) -> list[SimpleNamespace]:
        status = SimpleNamespace(value="SUCCEEDED" if not self.answers else "RUNNING")
        return [SimpleNamespace(submission_id="demo-1", status=status, metadata={}, message="")]


def followed(
    monkeypatch: pytest.MonkeyPatch, answers: list[tuple[str, Exception | None]], *, through_losses: bool
) -> tuple[str, list[str]]:
    """Status of a job that is followed for an hour a connection, and the log that was written."""
    clock = SimpleNamespace(now=1000.0)
    patched = SimpleNamespace(
        monotonic=lambda: clock.now, sleep=lambda seconds: setattr(clock, "now", clock.now + seconds)
    )
    monkeypatch.setattr(submission, "time", patched)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    client: Any = FlakyClient(answers, clock, 3600.0)
    server = JobServer(client, "http://head:8265")
    written: list[str] = []
    return server.follow("demo-1", written.append, through_losses=through_losses).status, written


def test_a_run_of_hours_is_waited_for_through_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = ConnectionError("gone")
    answers = [("one\n", lost), ("", lost), ("one\ntwo\n", None)]
    assert followed(monkeypatch, list(answers), through_losses=True) == ("SUCCEEDED", ["one\n", "two\n"])
    with pytest.raises(RunError, match=r"head:8265 does not answer \(gone\); the run may go on: .*ray job logs"):
        followed(monkeypatch, list(answers), through_losses=False)
    with pytest.raises(RunError, match="does not answer"):
        followed(monkeypatch, [("one\n", lost), *[("", lost)] * 1000], through_losses=True)


def test_a_head_that_is_gone_when_it_is_asked_is_one_line() -> None:
    class Gone:
        def list_jobs(self) -> None:
            raise requests.exceptions.ConnectionError("refused")

        def submit_job(self, **given: object) -> None:
            raise requests.exceptions.ConnectionError("refused")

    client: Any = Gone()
    server = JobServer(client, "http://head:8265")
    job = Submission(id="demo-1", entrypoint="true", working_dir="", environment={}, metadata={})
    for ask in (server.jobs, lambda: server.job("demo-1"), lambda: server.submit(job)):
        with pytest.raises(RunError, match=r"head:8265 does not answer any more \(refused\); the same command again"):
            ask()
