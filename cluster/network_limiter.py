"""The rate limit of a whole cluster, and the account of a run: two actors.

What a run may not lose (hosts that refused it, its share of the disk, time slots that it took) is kept by an actor of
its own, which begins and ends with the stage. Runs on one cluster share a second actor, which has a name and gives
every request to a host its time slot. It belongs to the account that misses it first and ends with that run; another
account then starts the next one, which does not know the time slots of others and begins with a pause.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final, cast

import ray
from ray.exceptions import RayActorError

from cluster.placement import this_node
from pipeline.core.network import LocalLimiter, Permit

NAME: Final = "network-limiter"
NAMESPACE: Final = "percepts"
FIRST_WAIT_S: Final = 10.0
"""Seconds before the first request to a host of a shared actor that took another one's place."""
MAX_STARTS: Final = 5
FIRST_PAUSE_S: Final = 0.5
"""Seconds before a second attempt at a shared actor that has ended, doubled with each."""


@dataclass(frozen=True)
class RayLimiter:
    """The `pipeline.core.network.NetworkLimiter` of a Ray cluster. It pickles."""

    _account: Any

    @classmethod
    def started(cls) -> RayLimiter:
        """Starts the account of a run. It ends with the calling process, whose node it lies on."""
        return cls(ray.remote(num_cpus=0, scheduling_strategy=this_node())(RunAccount).remote())

    def permit(self, run: str, host: str, interval_s: float, jitter_s: float) -> Permit:
        return cast(Permit, ray.get(self._account.permit.remote(run, host, interval_s, jitter_s)))

    def pause(self, host: str, seconds: float) -> None:
        ray.get(self._account.pause.remote(host, seconds))

    def refuse(self, run: str, host: str, reason: str) -> bool:
        return cast(bool, ray.get(self._account.refuse.remote(run, host, reason)))

    def refusal(self, run: str, host: str) -> str:
        return cast(str, ray.get(self._account.refusal.remote(run, host)))

    def reserve(self, run: str, num_bytes: int, bound_bytes: int) -> bool:
        return cast(bool, ray.get(self._account.reserve.remote(run, num_bytes, bound_bytes)))

    def release(self, run: str, num_bytes: int) -> None:
        ray.get(self._account.release.remote(run, num_bytes))


class RunAccount(LocalLimiter):
    """The actor of a run: its own account, whose time slots are also free in the account that all runs share."""

    def __init__(self) -> None:
        super().__init__()
        self._shared: Any = _find_or_start(0.0)

    def permit(self, run: str, host: str, interval_s: float, jitter_s: float) -> Permit:
        own = super().permit(run, host, interval_s, 0.0)
        if own.refusal:
            return own
        shared: Permit = self._ask("permit", run, host, interval_s, jitter_s)
        return Permit(max(own.wait_s, shared.wait_s))

    def pause(self, host: str, seconds: float) -> None:
        super().pause(host, seconds)
        self._ask("pause", host, seconds)

    def _ask(self, method: str, *arguments: Any) -> Any:
        for number in range(MAX_STARTS):
            try:
                return ray.get(getattr(self._shared, method).remote(*arguments))
            except RayActorError:
                # The run that started it has ended, or its node is gone.
                if number == MAX_STARTS - 1:
                    raise
                time.sleep(FIRST_PAUSE_S * (2**number - 1))
                self._shared = _find_or_start(FIRST_WAIT_S)
        raise AssertionError("unreachable")


def _find_or_start(first_wait_s: float) -> Any:
    kind = ray.remote(num_cpus=0)(LocalLimiter)
    options = kind.options(name=NAME, namespace=NAMESPACE, get_if_exists=True)
    return options.remote(first_wait_s=first_wait_s)
