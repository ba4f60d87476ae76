"""What a running stage says while it runs: plain data that crosses processes, read by the display and by MLflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Progress:
    """`done` of `total` `unit`s are finished; `total` is 0 while it is unknown."""

    source: str
    done: int
    total: int
    unit: str
    note: str = ""
    part: str = ""
    """Where a stage's workers report each for itself: the part of the work that `done` is about. They add up."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Values of curves at a step."""

    source: str
    step: int
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Log:
    """A line that a person should read: a retry, a resume, a wait."""

    source: str
    line: str


Event = Progress | Metrics | Log
Emit = Callable[[Event], None]


def discard(event: Event) -> None:
    """The listener of a stage that nobody watches, as in a unit test."""
