"""Records of runs in the store: which runs go on, on any machine, and how the others ended.

`<store>/runs/<id>.json` is written by the submitter, then by the run itself: when it starts, every `HEARTBEAT_S` while
it goes on, and when it ends. A run whose process was killed stops to write; its record is then stale.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Final

from pipeline.core.errors import CorruptArtifact
from pipeline.core.files import absolute, join, list_files, read_json, write_json

RUNS: Final = "runs"
RUN_ID_VARIABLE: Final = "PERCEPTS_RUN_ID"
"""Environment variable that names the record of a run; without it, a run keeps no record."""
HEARTBEAT_S: Final = 30.0
STALE_S: Final = 180.0
"""Age of the last heartbeat after which a run is taken for dead, seconds: more than the clocks of machines differ."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run of a store. Times are UTC in ISO 8601, empty where they have not come."""

    id: str
    """The submission id."""
    name: str
    """The name that two runs at a time must not share."""
    plan: str = ""
    """The digest of the plan's keys; empty for a run that was not submitted."""
    dashboard: str = ""
    """The address of the head that the run was submitted to."""
    submitted_at: str = ""
    """The time of the submission."""
    started_at: str = ""
    """The time at which the run began."""
    heartbeat_at: str = ""
    """The time of the last sign of life."""
    ended_at: str = ""
    """The time of the end."""
    status: str = "submitted"
    """One of submitted, running, succeeded, failed, interrupted."""

    def has_heartbeat(self, now: datetime) -> bool:
        """Returns whether the run has written within the last `STALE_S` seconds and has not ended."""
        if self.ended_at or not self.heartbeat_at:
            return False
        return (now - datetime.fromisoformat(self.heartbeat_at)).total_seconds() < STALE_S


def write_record(store: str, record: RunRecord) -> None:
    """Writes the record into the store."""
    write_json(_uri(store, record.id), asdict(record))


def read_record(store: str, run_id: str) -> RunRecord | None:
    """Returns the record of a run, or None where there is none.

    Raises:
        CorruptArtifact: the file is not a record.
    """
    uri = _uri(store, run_id)
    try:
        values = read_json(uri)
        known = {field.name for field in fields(RunRecord)}
        return RunRecord(**{name: value for name, value in values.items() if name in known})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError) as error:
        raise CorruptArtifact(f"{uri} is not the record of a run ({error}); remove it") from error


def read_records(store: str) -> list[RunRecord]:
    """Returns the records of all runs of a store, the oldest first."""
    names = list_files(join(absolute(store), RUNS))
    records = [read_record(store, name.removesuffix(".json")) for name in names if name.endswith(".json")]
    present = [record for record in records if record is not None]
    return sorted(present, key=lambda record: (record.submitted_at or record.started_at, record.id))


@contextmanager
def recorded(store: str, name: str) -> Iterator[None]:
    """Keeps the record of this process's run while the body runs, if `PERCEPTS_RUN_ID` names one.

    A heartbeat that cannot be written is reported on stderr and does not end the run.
    """
    run_id = os.environ.get(RUN_ID_VARIABLE)
    if not run_id:
        yield
        return
    earlier = read_record(store, run_id) or RunRecord(id=run_id, name=name)
    running = replace(earlier, status="running", started_at=_now(), heartbeat_at=_now(), ended_at="")
    write_record(store, running)
    stop = threading.Event()
    thread = threading.Thread(target=_beat, args=(store, running, stop), daemon=True)
    thread.start()
    status = "failed"
    try:
        yield
        status = "succeeded"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        stop.set()
        thread.join()
        write_record(store, replace(running, status=status, heartbeat_at=_now(), ended_at=_now()))


def _beat(store: str, running: RunRecord, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        try:
            write_record(store, replace(running, heartbeat_at=_now()))
        except Exception as error:  # noqa: BLE001  # a store raises what its client library raises, and may come back
            sys.stderr.write(f"the run's heartbeat could not be written to {store}: {error}\n")


def _uri(store: str, run_id: str) -> str:
    return join(absolute(store), RUNS, f"{run_id}.json")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
