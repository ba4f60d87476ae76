"""Claims on a store: at most one run at a time, or one of a name, whatever machines submit, by the records alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from cluster.run_records import (
    SUBMITTED,
    SUBMITTING,
    RunRecord,
    read_records,
    record_uri,
    unused_id,
    write_record,
)
from cluster.submission import STORE, JobServer, SubmittedJob, say
from pipeline.core.errors import UsageError
from pipeline.core.files import remove

POLL_S: Final = 0.5
"""The pause between two looks at another claim."""


def active_runs(server: JobServer, store: str) -> list[RunRecord]:
    """Returns the runs of a store that go on: as their head says, or by their heartbeat where no head answers."""
    now = datetime.now(UTC)
    records = [record for record in read_records(store) if not record.ended_at]
    jobs = [_job_of(server, record) for record in records]
    return [
        record
        for record, job in zip(records, jobs, strict=True)
        if (record.has_heartbeat(now) if job is None else not job.has_ended)
    ]


def free_id(server: JobServer, store: str, name: str, plan: str) -> str:
    """Returns the id of a new run; that of a submission of the same plan to the same head which is being made now."""
    now = datetime.now(UTC)
    taken = {job.id for job in server.jobs() if job.has_ended or job.metadata.get(STORE) != store}
    for record in read_records(store):
        is_submission = record.dashboard == server.address and record.status in (SUBMITTING, SUBMITTED)
        if not (is_submission and record.has_heartbeat(now)):
            taken.add(record.id)
    return unused_id(name, plan, taken)


def claim(server: JobServer, store: str, record: RunRecord, is_rival: Callable[[RunRecord], bool]) -> RunRecord | None:
    """Writes the record of a run that is to be submitted, unless a rival goes on; returns that rival, else None.

    Two submitters at a time write before they look, so at least one sees the other. The one with the lower id waits
    until the other has withdrawn or begun; the other one withdraws.
    """
    write_record(store, replace(record, status=SUBMITTING))
    while True:
        rivals = [other for other in active_runs(server, store) if other.id != record.id and is_rival(other)]
        ahead = next((other for other in rivals if other.status != SUBMITTING or other.id < record.id), None)
        if ahead is not None:
            remove(record_uri(store, record.id))
            return ahead
        if not rivals:
            return None
        time.sleep(POLL_S)


def _job_of(server: JobServer, record: RunRecord) -> SubmittedJob | None:
    """Returns the job of a record, or None where it has no head, or its head is out of reach or does not know it."""
    if not record.dashboard:
        return None
    try:
        head = server if record.dashboard == server.address else JobServer.connect(record.dashboard)
    except UsageError as error:
        verdict = "goes on" if record.has_heartbeat(datetime.now(UTC)) else "has ended"
        say(f"the head of {record.id} is out of reach; its heartbeat decides that it {verdict} ({error})")
        return None
    return head.job(record.id)
