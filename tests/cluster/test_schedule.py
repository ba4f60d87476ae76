"""Cron expressions: what is refused, when they fire, and that systemd fires at the same times."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from cluster.rendering.schedule import Schedule
from pipeline.core.errors import ConfigError

EXPRESSIONS = (
    "0 1 * * 1",
    "*/15 8-18 * * 1-5",
    "30 4 1,15 * *",
    "0 0 13 * 5",
    "5 0-23/6 * jan,jul sun",
    "59 23 29 2 *",
)


def test_the_next_times_are_in_the_zone_and_keep_the_hour_over_a_change_of_clocks() -> None:
    schedule = Schedule(cron="0 1 * * 1", time_zone="Europe/Berlin")
    times = schedule.next_times(3, datetime(2026, 10, 18, 12, 0, tzinfo=UTC))
    berlin = ZoneInfo("Europe/Berlin")
    assert times == [datetime(2026, 10, day, 1, 0, tzinfo=berlin) for day in (19, 26)] + [
        datetime(2026, 11, 2, 1, 0, tzinfo=berlin)
    ]
    assert [time.utcoffset() for time in times] != [times[0].utcoffset()] * 3


@pytest.mark.parametrize(
    ("cron", "message"),
    [
        ("", "five fields"),
        ("0 1 * *", "five fields"),
        ("0 0 1 * * 1", "five fields"),
        ("@daily", "five fields"),
        ("0 1 * * 1; rm", "five fields"),
        ("0 24 * * *", "Bad hour"),
        ("60 1 * * *", "Bad minute"),
        ("0 1 * * mon-xyz", "Bad day-of-week"),
        ("0 1 30 2 *", "Bad day-of-month"),
        ("0 1 * * 7", "7 for Sunday"),
        ("0 1 L * *", "read differently"),
        ("0 1 * * 5L", "read differently"),
        ("3/10 1 * * *", "read differently"),
        ("0 1 */2 * 1", "step over days"),
    ],
)
def test_an_expression_that_is_wrong_or_ambiguous_is_refused(cron: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Schedule(cron=cron)


def test_an_unknown_time_zone_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'Europe/Berlin'"):
        Schedule(cron="0 1 * * *", time_zone="Europe/Berln")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("cron", EXPRESSIONS)
def test_systemd_fires_at_the_same_times(cron: str) -> None:
    schedule = Schedule(cron=cron, time_zone="UTC")
    start = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
    command = ["systemd-analyze", "calendar", "--iterations=8", f"--base-time={start:%Y-%m-%d %H:%M:%S} UTC"]
    fired = set()
    for event in schedule.on_calendar():
        answer = subprocess.run([*command, event], capture_output=True, text=True, check=True, env={"TZ": "UTC"})
        times = re.findall(r"(?:Next elapse|Iteration #\d+|Iter\. #\d+): \S+ (\S+ \S+) UTC", answer.stdout)
        assert len(times) >= 8, answer.stdout
        fired |= {datetime.fromisoformat(time).replace(tzinfo=UTC) for time in times}
    assert sorted(fired)[:8] == schedule.next_times(8, start)
