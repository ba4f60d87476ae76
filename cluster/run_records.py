"""Records of runs in the store: which runs go on, on any machine, how far they are, and how the others ended.

`<store>/runs/<id>.json` is written by the submitter, then by the run itself: when it starts, every `HEARTBEAT_S` while
it goes on, and when it ends. A run whose process was killed stops to write; its record is then stale.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import count
from typing import Final

from pipeline.core.errors import CorruptArtifact, PerceptsError
from pipeline.core.files import absolute, join, list_files, read_bytes, read_many, write_json
from pipeline.core.records import typed
from pipeline.core.secrets import masked

RUNS: Final = "runs"
RUN_ID_VARIABLE: Final = "PERCEPTS_RUN_ID"
"""Environment variable that names the record of a run; without it, the id is made of name, date and plan."""
HEARTBEAT_S: Final = 30.0
STALE_S: Final = 180.0
"""Age of the last heartbeat after which a run is taken for dead, seconds: more than the clocks of machines differ."""
QUEUED_S: Final = 86400.0
"""Age of a submission that has not begun after which it is taken for lost with its head, seconds."""
MAX_MESSAGE_CHARS: Final = 400
SUBMITTING, SUBMITTED, RUNNING = "submitting", "submitted", "running"
SUCCEEDED, FAILED, INTERRUPTED, LOST = "succeeded", "failed", "interrupted", "lost"


@dataclass(frozen=True, kw_only=True)
class RunProgress:
    """The progress of a run that goes on."""

    num_made: int = 0
    """Stages whose artifacts are complete, those of earlier runs among them."""
    num_stages: int = 0
    """Stages of the plan."""
    doing: str = ""
    """The running stages, each with the amount of its work that is done."""
    seconds_left: float | None = None
    """The estimated time until all stages are made; None while it is not known."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run of a store. Times are UTC in ISO 8601, empty where they have not come."""

    id: str
    """The submission id, or the name, the date and the plan."""
    name: str
    """The name that two runs at a time must not share."""
    recipe: str = ""
    """The recipe; empty for what is no run of a recipe, such as a pruning."""
    plan: str = ""
    """The digest of the plan's keys, or of the options where they identify the run."""
    artifacts: tuple[str, ...] = ()
    """The artifacts of the plan, each `stage/key`: those that the run uses or makes."""
    dashboard: str = ""
    """The address of the head that the run was submitted to."""
    host: str = ""
    """The name of the machine on which the driver runs."""
    schedule: str = ""
    """The schedule that began it, a cron expression and its time zone; empty: none is known."""
    submitted_at: str = ""
    """The time of the submission."""
    started_at: str = ""
    """The time at which the run began."""
    heartbeat_at: str = ""
    """The time of the last sign of life."""
    ended_at: str = ""
    """The time of the end."""
    status: str = SUBMITTED
    """One of submitting, submitted, running, succeeded, failed, interrupted."""
    progress: RunProgress = RunProgress()
    """The progress at the last heartbeat."""
    report: str = ""
    """The URI of the report."""
    message: str = ""
    """The cause of a failure, one line without passwords."""

    @property
    def begun_at(self) -> str:
        """The time at which it started, or was submitted where it has not."""
        return self.started_at or self.submitted_at

    def has_heartbeat(self, now: datetime) -> bool:
        """Returns whether there was a sign of life, or the submission, in the last `STALE_S` s, and no end."""
        sign = self.heartbeat_at or self.submitted_at
        return not self.ended_at and bool(sign) and (now - moment(sign)).total_seconds() < STALE_S

    def state(self, now: datetime) -> str:
        """Returns the status, or lost where a run has neither a sign of life nor an end, nor a place in a queue."""
        is_queued = self.status == SUBMITTED and (now - moment(self.submitted_at)).total_seconds() < QUEUED_S
        return self.status if self.ended_at or is_queued or self.has_heartbeat(now) else LOST


def moment(time: str) -> datetime:
    """Returns the time of a record, aware of its zone; UTC where it names none."""
    parsed = datetime.fromisoformat(time)
    return parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)


def now_text() -> str:
    """Returns the present time as records have it; runs that begin in one second keep their order."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def write_record(store: str, record: RunRecord) -> None:
    """Writes the record into the store."""
    write_json(record_uri(store, record.id), asdict(record))


def read_record(store: str, run_id: str) -> RunRecord | None:
    """Returns the record of a run, or None where there is none. Raises CorruptArtifact where the file is another."""
    uri = record_uri(store, run_id)
    try:
        return parse_record(read_bytes(uri), uri)
    except FileNotFoundError:
        return None


def read_records(store: str) -> list[RunRecord]:
    """Returns the records of all runs of a store, the oldest first. Raises CorruptArtifact."""
    uris = [record_uri(store, run_id) for run_id in _ids(store)]
    records = [parse_record(data, uri) for uri, data in read_many(uris).items()]
    return sorted(records, key=lambda record: (record.submitted_at or record.started_at, record.id))


def parse_record(data: bytes, uri: str) -> RunRecord:
    """Parses the file of a record; fields that a newer version added are left out. Raises CorruptArtifact."""
    try:
        record: RunRecord = typed(RunRecord, json.loads(data))
        for time in (record.submitted_at, record.started_at, record.heartbeat_at, record.ended_at):
            _ = time and moment(time)
    except (KeyError, ValueError, TypeError) as error:
        raise CorruptArtifact(f"{uri} is not the record of a run ({error}); remove it") from error
    return record


def _ids(store: str) -> list[str]:
    names = list_files(join(absolute(store), RUNS))
    return [name.removesuffix(".json") for name in names if name.endswith(".json")]


def record_uri(store: str, run_id: str) -> str:
    """Returns the URI of the file of a record."""
    return join(absolute(store), RUNS, f"{run_id}.json")


def unused_id(name: str, plan: str, taken: Collection[str]) -> str:
    """Returns NAME-DATE-PLAN, with a number where it is taken: the same plan may run twice a day."""
    first = "-".join(filter(None, (name, f"{datetime.now(UTC):%Y%m%d}", plan)))
    candidates = (first if number == 1 else f"{first}-{number}" for number in count(1))
    return next(candidate for candidate in candidates if candidate not in taken)


def going_on(store: str) -> list[RunRecord]:
    """Returns the runs of a store that go on, by their heartbeats, the oldest first. Raises CorruptArtifact."""
    now = datetime.now(UTC)
    return [record for record in read_records(store) if record.has_heartbeat(now)]


@dataclass
class RunResult:
    """The results of a run, which its record shows once it has ended."""

    report: str = ""
    artifacts: tuple[str, ...] = ()
    """The artifacts that it made or used; empty: those of its plan."""


@contextmanager
def recorded(store: str, run: RunRecord, progress: Callable[[], RunProgress] = RunProgress) -> Iterator[RunResult]:
    """Keeps the record of this process's run while the body runs.

    The id is that of `PERCEPTS_RUN_ID`, whose record the submitter has begun, or a new one where `run` has none. A
    heartbeat that cannot be written is reported on stderr and does not end the run.
    """
    run_id = os.environ.get(RUN_ID_VARIABLE) or run.id
    if not run_id:
        run_id = unused_id(run.name, run.plan, _ids(store))
    earlier = read_record(store, run_id)
    if earlier is not None:
        run = replace(
            run,
            name=earlier.name,
            plan=earlier.plan or run.plan,
            dashboard=earlier.dashboard,
            schedule=earlier.schedule or run.schedule,
            submitted_at=earlier.submitted_at,
        )
    now = now_text()
    running = replace(
        run, id=run_id, status=RUNNING, started_at=now, heartbeat_at=now, host=socket.gethostname(), progress=progress()
    )
    write_record(store, running)
    stop = threading.Event()
    thread = threading.Thread(target=_beat, args=(store, running, progress, stop), daemon=True)
    thread.start()
    status, message, result = FAILED, "", RunResult()
    try:
        yield result
        status = SUCCEEDED
    except BaseException as error:
        status = INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
        message = "" if status == INTERRUPTED else without_passwords(error)
        raise
    finally:
        stop.set()
        thread.join()
        now = now_text()
        ended = replace(running, status=status, message=message, report=result.report, heartbeat_at=now, ended_at=now)
        ended = replace(ended, artifacts=result.artifacts or running.artifacts)
        write_record(store, replace(ended, progress=progress()))


def close_record(store: str, run_id: str, status: str, error: BaseException | str) -> None:
    """Writes the end of a run that could not write it itself: it never began, or was killed."""
    record = read_record(store, run_id)
    if record is not None and not record.ended_at:
        ended = replace(record, status=status, ended_at=now_text(), message=without_passwords(error))
        write_record(store, ended)


@contextmanager
def failures_recorded(store: str) -> Iterator[None]:
    """Writes the end of a submitted run that fails before it begins: its plan cannot be built, or looked up."""
    try:
        yield
    except BaseException as error:
        if run_id := os.environ.get(RUN_ID_VARIABLE):
            close_record(store, run_id, FAILED, error)
        raise


def without_passwords(error: BaseException | str) -> str:
    """Returns the message of an error as one line of bounded length, without the passwords of addresses."""
    text = " ".join(str(error).split())
    if not isinstance(error, PerceptsError | str):
        text = f"{type(error).__name__}: {text}"
    return masked(text)[:MAX_MESSAGE_CHARS]


def _beat(store: str, running: RunRecord, progress: Callable[[], RunProgress], stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        try:
            write_record(store, replace(running, heartbeat_at=now_text(), progress=progress()))
        except Exception as error:  # noqa: BLE001  # a store raises what its client library raises, and may come back
            sys.stderr.write(f"the run's heartbeat could not be written to {store}: {error}\n")
