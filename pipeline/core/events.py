"""The events of a running stage: plain data that crosses processes, for the display and for MLflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class _Reported:
    """The fields of every event."""

    source: str
    """The stage that reports; the node, where it is the use of one."""
    at: float | None = None
    """The time at which the driver's machine received it, in seconds of its monotonic clock; None: just now."""


@dataclass(frozen=True, kw_only=True)
class Progress(_Reported):
    """An amount of finished work: `done` of `total` units; `total` is 0 while it is unknown."""

    done: int
    total: int
    unit: str
    note: str = ""
    part: str = ""
    """The part of the work that `done` counts, if workers report separately; the display adds all parts up."""
    share: float | None = None
    """The share of the time that the finished units take, where units are not alike; None: they are."""


@dataclass(frozen=True, kw_only=True)
class Metrics(_Reported):
    """The values of some curves at a step."""

    step: int
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Log(_Reported):
    """A line for the log that a user should read: a retry, a resume."""

    line: str


@dataclass(frozen=True, kw_only=True)
class Waiting(_Reported):
    """A wait of a stage for its workers, said at intervals while it lasts."""

    reason: str
    """The workers that are awaited, and what is free; empty where the wait is over and the work begins."""
    seconds: float = 0.0
    """The time for which the workers have been awaited, without the start of their processes."""


@dataclass(frozen=True, kw_only=True)
class NodeUsage(_Reported):
    """The use of a machine of the cluster: name, as MLflow has it for system metrics -> value."""

    values: Mapping[str, float]


Event = Progress | Metrics | Log | Waiting | NodeUsage
Emit = Callable[[Event], None]


def discard(event: Event) -> None:
    """Drops the event: the listener of a stage in a unit test."""


class EventSource:
    """The part of a process that reports what it does: events under one name, to one place."""

    source: str
    """Name under which the events are shown."""
    emit: Emit

    def progress(self, done: int, total: int, unit: str, note: str = "", share: float | None = None) -> None:
        """Reports that `done` of `total` units are finished; a `total` of 0 is unknown. share: see `Progress`."""
        self.emit(Progress(source=self.source, done=done, total=total, unit=unit, note=note, share=share))

    def metrics(self, step: int, **values: float) -> None:
        """Adds a point to every curve in `values` (MLflow metrics)."""
        self.emit(Metrics(source=self.source, step=step, values=values))

    def log(self, line: str) -> None:
        """Reports a line for the log that a user should read."""
        self.emit(Log(source=self.source, line=line))

    def wait(self, reason: str, seconds: float) -> None:
        """Reports what has been waited for so long, and with an empty text that the work begins."""
        self.emit(Waiting(source=self.source, reason=reason, seconds=seconds))
