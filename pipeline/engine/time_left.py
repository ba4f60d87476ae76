"""Estimates of the time that a stage, and the whole run, still take.

A stage is timed by its own reports, from the moment at which its work began: waiting for workers is not work. What has
not begun counts with the plan's estimate, scaled by how much longer than estimated the stages before have taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

UNKNOWN_S: Final = 1.0
"""The duration of a stage for which there is no estimate."""
PRIOR_S: Final = 30.0
"""The weight of the plan's estimates against what was measured, in seconds of work."""
MIN_SHARE: Final = 0.05
"""The share of its work from which a running stage is timed by its own pace, and says how good the plan's estimates
are."""
EARLY_SHARE: Final = 0.1
"""The share of its work below which a stage of fewer than three reports is not timed by its own pace."""


@dataclass
class Pace:
    """The progress of a stage over time. Times are seconds of one clock."""

    done: int = 0
    total: int = 0
    """The number of units in all; 0 while it is unknown."""
    unit: str = ""
    share: float = 0.0
    """The share of the time that the finished units take."""
    _first_done: int = 0
    _first_share: float = 0.0
    _first_at: float | None = None
    _last_at: float = 0.0
    _num_reports: int = 0
    _first_report: tuple[int, float, float] | None = None
    """Units done, their share and the time of the first report since the clock was started; None after the third."""

    def begin(self, at: float) -> None:
        """Starts the clock: the work begins, or goes on after a wait."""
        self._first_done, self._first_share = self.done, self.share
        self._first_at, self._last_at, self._num_reports = at, at, 0

    def stop(self) -> None:
        """Forgets when the work began; the next report starts the clock."""
        self._first_at = None

    def report(self, done: int, total: int, unit: str, at: float, share: float | None = None) -> None:
        """Adds a report that `done` of `total` units are finished, which are `share` of the work, or done / total."""
        is_new = self._first_at is None or done < self._first_done or (unit != self.unit and bool(self.unit))
        self.done, self.total, self.unit = done, total, unit
        self.share = share if share is not None else done / total if total else 0.0
        if is_new:
            self.begin(at)
            return
        self._num_reports += 1
        self._last_at = at
        if self._num_reports == 1:
            self._first_report = (done, self.share, at)
        elif self._num_reports == 3 and self._first_report is not None:
            # What comes before the first of many units, as opening the data, is not at their pace.
            if self._first_report[1] - self._first_share < MIN_SHARE:
                self._first_done, self._first_share, self._first_at = self._first_report
                self._num_reports = 2
            self._first_report = None

    def rate(self, now: float) -> float:
        """Returns the units per second since the work began; 0 while there is nothing to tell it by."""
        return self._per_second(self.done - self._first_done, now)

    @property
    def is_early(self) -> bool:
        """Returns whether the pace may still be that of what comes before the work."""
        return self._first_report is not None and self.share < EARLY_SHARE

    def seconds_left(self, now: float) -> float | None:
        """Returns the time until all is done; None while it is not known."""
        speed = self._per_second(self.share - self._first_share, now)
        if not speed or not self.total:
            return None
        return max((1 - self.share) / speed - (now - self._last_at), 0.0)

    def _per_second(self, gained: float, now: float) -> float:
        """Divides a gain by the time that it took; between two reports this falls only when the next one is late."""
        if self._first_at is None or gained <= 0:
            return 0.0
        expected = gained * (1 + 1 / max(self._num_reports, 1))
        return min(gained / max(self._last_at - self._first_at, 1e-6), expected / max(now - self._first_at, 1e-6))


@dataclass(frozen=True, kw_only=True)
class StageTime:
    """A stage that this run makes, as far as it is."""

    expected_s: float | None
    """The plan's estimate."""
    worked_s: float = 0.0
    """The time since it began, without waits."""
    left_s: float | None = None
    """The time until its end by its own pace; 0 once it has ended; None while there is nothing to tell it by."""
    share: float = 0.0
    """The share of its work that is done."""
    is_running: bool = False


def run_seconds_left(stages: Iterable[StageTime]) -> float | None:
    """Returns the time until the end of a run; None while a running stage gives nothing to tell it by.

    Stages share the machines, so what has not begun adds up. Stages that run beside each other were timed beside each
    other, and the longest of them counts.
    """
    stages = list(stages)
    known = [s for s in stages if s.expected_s is not None and s.left_s is not None and s.share >= MIN_SHARE]
    actual_s = sum(s.worked_s + (s.left_s or 0.0) for s in known)
    scale = (actual_s + PRIOR_S) / (sum(s.expected_s or 0.0 for s in known) + PRIOR_S)
    longest_s = total_s = 0.0
    for stage in stages:
        if stage.left_s is not None and (stage.share >= MIN_SHARE or stage.expected_s is None):
            longest_s = max(longest_s, stage.left_s)
        elif stage.expected_s is None and stage.is_running:
            return None
        else:
            expected_s = UNKNOWN_S if stage.expected_s is None else stage.expected_s
            total_s += max(expected_s * scale - stage.worked_s, 0.0)
    return longest_s + total_s


def seconds_added(spans: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Returns how much each stage adds to the time of all: where several run at once, each has an equal part.

    spans: name -> beginning and end, seconds of one clock.
    """
    added = dict.fromkeys(spans, 0.0)
    ends = [(at, name) for name, (begin, end) in spans.items() if begin < end for at in (begin, end)]
    running: set[str] = set()
    for (at, name), (until, _) in pairwise(sorted(ends)):
        running ^= {name}
        for one in running:
            added[one] += (until - at) / len(running)
    return added
