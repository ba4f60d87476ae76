"""Shows the runs of a store, from anywhere: what goes on, how far it is, how the last ones ended, what comes next.

    percepts status --store s3://bucket/percepts
    percepts status --settings cluster.toml      the store of the settings, and its schedule as they are now

Reads the records that runs keep in the store, and needs neither a head nor MLflow. Only for a submission that has not
begun after some minutes it looks at the head, too: the records of one that waits and of one that is lost are alike.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final

from cluster import submission
from cluster.run_records import (
    FAILED,
    INTERRUPTED,
    LOST,
    RUNNING,
    SUBMITTED,
    SUBMITTING,
    SUCCEEDED,
    RunRecord,
    moment,
    read_records,
)
from cluster.submission import JobServer
from pipeline.core.errors import ConfigError, PerceptsError
from pipeline.core.printable import human_seconds, printable, printable_json
from pipeline.engine.store import DEFAULT_STORE, Store
from pipeline.options.command_line import parse_options
from pipeline.options.flags import Flag

if TYPE_CHECKING:  # a store that knows of no schedule needs no parser of them
    from cluster.rendering.schedule import Schedule

GOING_ON: Final = (SUBMITTING, SUBMITTED, RUNNING)
STATES: Final = {submission.SUCCEEDED: SUCCEEDED, submission.FAILED: FAILED, submission.STOPPED: INTERRUPTED}
"""The state of a job that has ended, as its head has it -> that of its run."""
LATE: Final = timedelta(minutes=10)
"""The time after which a scheduled run that has not begun counts as missed."""


@dataclass(frozen=True, kw_only=True)
class StatusOptions:
    """Show what runs in a store, what ran last with what result, and what comes next."""

    store: str | None = None
    """Directory or fsspec URL of the store; default: that of --settings, else .percepts."""
    settings: str | None = None
    """TOML file or URL with the settings of a cluster, whose schedule says what comes next; default: the schedule that
    began the newest run of the store."""
    limit: int = 5
    """Number of ended runs that are shown, the newest first."""
    as_json: Annotated[bool, Flag("json")] = False
    """Print one JSON object with the records of all runs."""

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ConfigError(f"--limit is {self.limit}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class ComingRun:
    """The next run of a schedule, and the last one if it did not begin."""

    recipe: str
    cron: str
    time_zone: str
    next: str
    """The next time, ISO 8601 in the schedule's time zone."""
    missed: str
    """The last time at which a run should have begun and none has since; empty: none was missed."""


def main(arguments: Sequence[str]) -> int:
    """Runs `percepts status`. Returns the exit status; raises UsageError where there is no store."""
    options = parse_options(StatusOptions, arguments, prog="percepts status")
    now, uri = datetime.now(UTC), options.store
    if options.settings is None:
        records = read_records(store := Store.open(uri or DEFAULT_STORE).root)
        coming = _coming_of(records, now)
    else:
        from cluster.rendering.settings import read_settings

        settings = read_settings(options.settings)
        records = read_records(store := Store.open(uri or settings.run.store).root)
        coming = _coming(settings.run.recipe, settings.schedule.times, records, now)
    records.sort(key=lambda record: (record.begun_at, record.id), reverse=True)
    states = [_state(record, now) for record in records]
    if options.as_json:
        runs = [asdict(of.record) | {"state": of.state, "head": of.head} for of in states]
        value = {"store": store, "runs": runs, "schedule": None if coming is None else asdict(coming)}
        sys.stdout.write(printable_json(value, indent=1) + "\n")
        return 0
    active = [of for of in states if of.state in GOING_ON]
    ended = [of for of in states if of.state not in GOING_ON]
    lines = [f"store  {store}", *(_active_line(of.record, of.head, now) for of in active)]
    lines += [] if active else ["now    nothing runs"]
    lines += [line for of in ended[: options.limit] for line in _ended_lines(of)]
    lines += [] if ended else ["last   nothing has run"]
    lines += _coming_lines(coming)
    sys.stdout.write("\n".join(map(printable, lines)) + "\n")
    return 0


@dataclass(frozen=True)
class RunState:
    """A run, with what became of it."""

    record: RunRecord
    state: str
    """The state by its record (`RunRecord.state`), or by its head."""
    head: str = ""
    """A clause on what its head knows of it; empty: the record says enough."""


def _state(record: RunRecord, now: datetime) -> RunState:
    """Returns the state of a run, by its head where the record does not tell whether it waits or is lost."""
    state = record.state(now)
    if state != SUBMITTED or record.has_heartbeat(now) or not record.dashboard:
        return RunState(record, state)
    try:
        job = JobServer.connect(record.dashboard).job(record.id)
    except PerceptsError as error:
        return RunState(record, state, str(error).partition(";")[0])
    if job is None:
        return RunState(record, LOST, "its head does not know it any more: submit it again")
    return RunState(record, STATES.get(job.status, state), f"its head has it as {job.status}")


def _coming_of(records: Sequence[RunRecord], now: datetime) -> ComingRun | None:
    """Returns what comes next by the schedule that the newest scheduled run was begun by; None where none was."""
    scheduled = max((r for r in records if r.schedule), key=lambda r: moment(r.begun_at), default=None)
    if scheduled is None:
        return None
    from cluster.rendering.schedule import Schedule

    return _coming(scheduled.recipe, Schedule.of_line(scheduled.schedule), records, now)


def _coming(recipe: str, schedule: Schedule, records: Sequence[RunRecord], now: datetime) -> ComingRun:
    return ComingRun(
        recipe=recipe,
        cron=schedule.cron,
        time_zone=schedule.time_zone,
        next=schedule.next_times(1, now)[0].isoformat(timespec="minutes"),
        missed=_missed(schedule.last_time(now), records, recipe, now),
    )


def _missed(due: datetime, records: Sequence[RunRecord], recipe: str, now: datetime) -> str:
    """Returns the time that was due if no run of the recipe began or went on since then; empty: one did."""
    if now - due < LATE or not any(record.recipe == recipe for record in records):
        return ""
    since = [
        record
        for record in records
        if record.recipe == recipe
        and (moment(record.begun_at) >= due or (record.ended_at and moment(record.ended_at) >= due))
    ]
    is_running = any(record.recipe == recipe and record.state(now) in GOING_ON for record in records)
    return "" if since or is_running else due.isoformat(timespec="minutes")


def _active_line(record: RunRecord, head: str, now: datetime) -> str:
    age = human_seconds((now - moment(record.begun_at)).total_seconds())
    line = f"now    {record.id}  {record.status}"
    if record.status != RUNNING:
        where = f" to {record.dashboard}" if record.dashboard else ""
        return f"{line}{where}  {_time(record.begun_at)}, {age} ago, has not begun{f': {head}' if head else ''}"
    progress = record.progress
    amount = f"{progress.num_made} of {progress.num_stages} stages made" if progress.num_stages else ""
    left = "" if progress.seconds_left is None else f"about {human_seconds(progress.seconds_left)} left"
    heartbeat = f"seen {human_seconds((now - moment(record.heartbeat_at)).total_seconds())} ago"
    parts = (f"{_time(record.begun_at)}, for {age} on {record.host}", amount, progress.doing, left, heartbeat)
    return f"{line}  {'; '.join(filter(None, parts))}"


def _ended_lines(of: RunState) -> Iterator[str]:
    record, state = of.record, of.state
    end = record.ended_at or record.heartbeat_at or record.submitted_at
    took = human_seconds((moment(end) - moment(record.begun_at)).total_seconds()) if record.begun_at else ""
    parts = [_time(record.begun_at), f"took {took}" if record.ended_at else f"no sign of life since {_time(end)}"]
    progress = record.progress
    if state != "succeeded" and progress.num_stages:
        parts.append(f"{progress.num_made} of {progress.num_stages} stages made")
    yield f"last   {record.id}  {state}  {', '.join(parts)}"
    if more := record.report or record.message or of.head:
        yield f"         {more}"


def _coming_lines(coming: ComingRun | None) -> Iterator[str]:
    if coming is not None:
        if coming.missed:
            yield f"missed {coming.recipe} at {coming.missed}: no run has begun since; submit it, which makes up for it"
        yield f"next   {coming.recipe} at {coming.next} ('{coming.cron}' in {coming.time_zone})"


def _time(time: str) -> str:
    return f"{moment(time):%Y-%m-%d %H:%M:%S} UTC"
