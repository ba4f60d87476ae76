"""The rate limit of a whole cluster: an actor that gives every request to another host its time slot.

The actor has a name, so that runs on one cluster share it, and it dies with the process that started it: the stage's
own, which outlives its workers. A process that misses it starts another one. That one does not know which time slots
are taken, and begins with a pause.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, cast

import ray
from ray.exceptions import RayActorError

from pipeline.core.network import LocalLimiter, Permit

NAME: Final = "network-limiter"
NAMESPACE: Final = "percepts"
FIRST_WAIT_S: Final = 10.0
"""Seconds before the first request to a host of an actor that took another one's place."""
MAX_STARTS: Final = 5


@dataclass
class RayLimiter:
    """The `pipeline.core.network.NetworkLimiter` of a Ray cluster. It pickles."""

    _actor: Any = field(default=None, repr=False, compare=False)

    @classmethod
    def started(cls) -> RayLimiter:
        """Returns the limiter, whose actor belongs to the calling process unless another one has started it."""
        return cls(_find_or_start(0.0))

    def permit(self, run: str, host: str, interval_s: float, jitter_s: float) -> Permit:
        return cast(Permit, self._ask(lambda actor: actor.permit.remote(run, host, interval_s, jitter_s)))

    def pause(self, host: str, seconds: float) -> None:
        self._ask(lambda actor: actor.pause.remote(host, seconds))

    def refuse(self, run: str, host: str, reason: str) -> bool:
        return cast(bool, self._ask(lambda actor: actor.refuse.remote(run, host, reason)))

    def refusal(self, run: str, host: str) -> str:
        return cast(str, self._ask(lambda actor: actor.refusal.remote(run, host)))

    def reserve(self, run: str, num_bytes: int, bound_bytes: int) -> bool:
        return cast(bool, self._ask(lambda actor: actor.reserve.remote(run, num_bytes, bound_bytes)))

    def release(self, run: str, num_bytes: int) -> None:
        self._ask(lambda actor: actor.release.remote(run, num_bytes))

    def _ask(self, call: Callable[[Any], Any]) -> Any:
        for number in range(MAX_STARTS):
            if self._actor is None:
                self._actor = _find_or_start(FIRST_WAIT_S if number else 0.0)
            try:
                return ray.get(call(self._actor))
            except RayActorError:
                # The run that started it has ended, or its node is gone.
                self._actor = None
                if number == MAX_STARTS - 1:
                    raise
        raise AssertionError("unreachable")

    def __getstate__(self) -> dict[str, Any]:
        return {"_actor": None}


def _find_or_start(first_wait_s: float) -> Any:
    kind = ray.remote(num_cpus=0)(LocalLimiter)
    options = kind.options(name=NAME, namespace=NAMESPACE, get_if_exists=True)
    return options.remote(first_wait_s=first_wait_s)
