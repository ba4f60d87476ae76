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
