"""Cron expressions in a time zone: checked, listed, and translated for systemd.

Only what cron, Kubernetes and systemd read alike is accepted: five fields of numbers, names, `*`, lists, ranges, steps.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, available_timezones

from pipeline.core.error_words import did_you_mean
from pipeline.core.errors import ConfigError

if TYPE_CHECKING:  # a run that no schedule began needs no parser of them
    from cronsim import CronSim

SCHEDULE_VARIABLE = "PERCEPTS_SCHEDULE"
"""Environment variable with the schedule by which a run begins, as rendered files set it: see `Schedule.line`."""
EXAMPLE = "'0 1 * * 1' is Mondays at 01:00"
WEEKDAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
FIELD = re.compile(r"[0-9A-Za-z*,/-]+")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A cron expression and the time zone in which it is read."""

    cron: str
    """The expression: minute, hour, day of the month, month, day of the week (0 is Sunday)."""
    time_zone: str = "UTC"
    """The name of the time zone, such as Europe/Berlin."""

    def __post_init__(self) -> None:
        if self.time_zone not in available_timezones():
            hint = did_you_mean(self.time_zone, available_timezones())
            raise ConfigError(f"there is no time zone {self.time_zone!r}; {hint}give a name such as Europe/Berlin")
        parts = self.cron.split()
        if len(parts) != 5 or not all(FIELD.fullmatch(part) for part in parts):
            raise ConfigError(
                f"schedule {self.cron!r} is no cron expression: it takes five fields of numbers, names, '*', ',', '-' "
                f"and '/', minute hour day month weekday; {EXAMPLE}"
            )
        parsed = self._parsed(datetime.now(UTC))
        terms = [term.partition("/") for part in parts for term in part.split(",")]
        is_sunday_7 = any("7" in re.findall(r"\d+", term.partition("/")[0]) for term in parts[4].split(","))
        is_last_or_nth = any(isinstance(day, tuple) or day < 0 for day in (*parsed.days, *parsed.weekdays))
        if is_sunday_7 or is_last_or_nth or any(step and start.isalnum() for start, step, _ in terms):
            raise ConfigError(
                f"schedule {self.cron!r} uses what cron and Kubernetes read differently (7 for Sunday, L, a step that "
                f"does not follow '*' or a range); Sunday is 0; {EXAMPLE}"
            )
        if parts[2] != "*" and parts[4] != "*" and "*" in parts[2] + parts[4]:
            raise ConfigError(
                f"schedule {self.cron!r} combines a step over days with weekdays, which cron and Kubernetes read "
                f"differently; list the days, or leave one of the two fields '*'; {EXAMPLE}"
            )

    @classmethod
    def of_line(cls, line: str) -> Schedule:
        """Parses what `line` made. Raises ConfigError."""
        cron, _, time_zone = line.rpartition(" ")
        return cls(cron=cron, time_zone=time_zone)

    @property
    def line(self) -> str:
        """The expression and the time zone, as records of runs keep them."""
        return f"{' '.join(self.cron.split())} {self.time_zone}"

    def next_times(self, count: int, after: datetime | None = None) -> list[datetime]:
        """Returns the next `count` times after `after` (default: now; aware of its zone), in the schedule's time zone.

        Raises:
            ConfigError: no such day comes (30 February).
        """
        start = (after or datetime.now(UTC)).astimezone(ZoneInfo(self.time_zone))
        times = list(islice(self._parsed(start), count))
        if len(times) < count:
            raise ConfigError(f"schedule {self.cron!r} never comes: check day and month; {EXAMPLE}")
        return times

    def last_time(self, before: datetime) -> datetime:
        """Returns the last time that is not after `before` (aware of its zone), in the schedule's time zone."""
        from cronsim import CronSim

        # The parser's own reverse begins before its start; a minute later it returns the start itself, too.
        start = before.astimezone(ZoneInfo(self.time_zone)).replace(second=0, microsecond=0) + timedelta(minutes=1)
        return next(CronSim(self.cron, start, reverse=True))

    def on_calendar(self) -> list[str]:
        """Returns systemd's calendar events for the schedule, every number written out.

        Where both a day of the month and a weekday are named, cron fires on either, systemd on days that are both: two
        events then say the same as the one expression.
        """
        parsed = self._parsed(datetime.now(UTC))
        time = f"{_numbers(parsed.hours, 24)}:{_numbers(parsed.minutes, 60)}:00 {self.time_zone}"
        months, days = _numbers(parsed.months, 12), _numbers(parsed.days, 31)
        weekdays = {int(day) % 7 for day in parsed.weekdays if not isinstance(day, tuple)}
        names = "" if len(weekdays) == 7 else ",".join(WEEKDAYS[day] for day in sorted(weekdays)) + " "
        if days != "*" and names:
            return [f"*-{months}-{days} {time}", f"{names}*-{months}-* {time}"]
        return [f"{names}*-{months}-{days} {time}"]

    def _parsed(self, start: datetime) -> CronSim:
        from cronsim import CronSim, CronSimError

        try:
            return CronSim(self.cron, start)
        except CronSimError as error:
            raise ConfigError(f"schedule {self.cron!r} is no cron expression: {error}; {EXAMPLE}") from error


def schedule_line() -> str:
    """Returns the schedule by which this process was begun, of PERCEPTS_SCHEDULE; empty: by none.

    Raises:
        ConfigError: the variable holds no schedule.
    """
    line = os.environ.get(SCHEDULE_VARIABLE, "")
    return Schedule.of_line(line).line if line else ""


def _numbers(numbers: Iterable[int], full: int) -> str:
    listed = sorted(numbers)
    return "*" if len(listed) == full else ",".join(f"{number:02}" for number in listed)
