"""The events of a running stage: plain data that crosses processes, for the display and for MLflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Progress:
    """An amount of finished work: `done` of `total` units; `total` is 0 while it is unknown."""

    source: str
    done: int
    total: int
    unit: str
    note: str = ""
    part: str = ""
    """The part of the work that `done` counts, if workers report separately; the display adds all parts up."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """The values of some curves at a step."""

    source: str
    step: int
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Log:
    """A line for the log that a user should read: a retry, a resume, a wait."""

    source: str
    line: str


Event = Progress | Metrics | Log
Emit = Callable[[Event], None]


def discard(event: Event) -> None:
    """Drops the event: the listener of a stage in a unit test."""


class EventSource:
    """The part of a process that reports what it does: events under one name, to one place."""

    source: str
    """Name under which the events are shown."""
    emit: Emit

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        """Reports that `done` of `total` units are finished."""
        self.emit(Progress(source=self.source, done=done, total=total, unit=unit, note=note))

    def metrics(self, step: int, **values: float) -> None:
        """Reports points of curves."""
        self.emit(Metrics(source=self.source, step=step, values=values))

    def log(self, line: str) -> None:
        """Reports a line for people."""
        self.emit(Log(source=self.source, line=line))
