"""The account of requests and bytes."""

from __future__ import annotations

from itertools import pairwise

import pytest

from pipeline.core.errors import ConfigError
from pipeline.core.network import LocalLimiter, NetworkOptions


def test_time_slots_of_a_host_are_an_interval_apart_whoever_takes_them() -> None:
    now = [100.0]
    limiter = LocalLimiter(clock=lambda: now[0])
    slots = [now[0] + limiter.permit("run", "a", 5.0, 5.0).wait_s for _ in range(50)]
    gaps = [after - before for before, after in pairwise(slots)]
    assert slots[0] == 100.0
    assert min(gaps) >= 5.0
    assert max(gaps) <= 10.0
    assert 6.0 < sum(gaps) / len(gaps) < 9.0
    assert limiter.permit("run", "b", 5.0, 0.0).wait_s == 0.0
    limiter.pause("b", 60.0)
    assert limiter.permit("run", "b", 5.0, 0.0).wait_s == 60.0
    now[0] += 1000.0
    assert limiter.permit("run", "a", 5.0, 0.0).wait_s == 0.0


def test_a_refusal_is_of_one_run_and_disk_has_a_bound() -> None:
    limiter = LocalLimiter()
    assert limiter.refuse("run", "a", "it says no")
    assert not limiter.refuse("run", "a", "it says no again")
    assert limiter.permit("run", "a", 0.0, 0.0).refusal == limiter.refusal("run", "a") == "it says no"
    assert not limiter.permit("other", "a", 0.0, 0.0).refusal
    assert limiter.reserve("run", 60, 100)
    assert not limiter.reserve("run", 60, 100)
    limiter.release("run", 30)
    assert limiter.reserve("run", 60, 100)


def test_manners_are_checked() -> None:
    with pytest.raises(ConfigError, match="site_interval_s is -1"):
        NetworkOptions(site_interval_s=-1)
    with pytest.raises(ConfigError, match="tries is 0"):
        NetworkOptions(tries=0)
