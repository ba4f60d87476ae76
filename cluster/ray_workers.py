"""Workers on Ray: a pool of actors over a queue of items, and a Ray Train group.

Works from inside a Ray task, which is where stages run.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic

import ray
from ray.exceptions import RayActorError, RayTaskError, WorkerCrashedError

from cluster.events import Emit, Log, discard
from cluster.ray_train import Group, train_group
from cluster.session import cause_of, free_resources
from cluster.workers import Factory, Item, Result, TrainLoop
from pipeline.errors import WorkerDied

MAX_ATTEMPTS = 2
WAIT_NOTICE_SECONDS = 15.0


@dataclass(frozen=True)
class OnRay:
    """`cluster.workers.Workers` on the Ray cluster that this process belongs to."""

    source: str = ""
    emit: Emit = discard
    scratch_uri: str = ""
    """Where Ray Train keeps its own small state; shared by the nodes."""
    replaces_workers: bool = True

    def map(
        self,
        factory: Factory[Item, Result],
        items: Sequence[Item],
        *,
        num_workers: int,
        cpus_per_worker: float = 1.0,
        gpus_per_worker: float = 0.0,
        describe: Callable[[Item], str] = str,
        again: Callable[[Item], Item] | None = None,
    ) -> Iterator[tuple[int, Result]]:
        host = ray.remote(num_cpus=cpus_per_worker, num_gpus=gpus_per_worker)(_Host)
        pool: _Pool[Item, Result] = _Pool(lambda: host.remote(factory), list(items), describe, again, self._log)
        try:
            yield from pool.run(min(num_workers, len(items)))
        finally:
            pool.close()

    def train(
        self,
        loop: TrainLoop,
        payload: Any,
        *,
        name: str,
        num_workers: int,
        min_workers: int = 1,
        cpus_per_worker: float = 1.0,
        gpus_per_worker: float = 0.0,
    ) -> None:
        group = Group(
            loop=loop,
            payload=payload,
            name=name,
            num_workers=num_workers,
            min_workers=min_workers,
            cpus_per_worker=cpus_per_worker,
            gpus_per_worker=gpus_per_worker,
            scratch_uri=self.scratch_uri,
            source=self.source,
            emit=self.emit,
        )
        train_group(group)

    def _log(self, line: str) -> None:
        self.emit(Log(source=self.source, line=line))


class _Host:
    """The actor: builds the worker's function once and applies it to what arrives."""

    def __init__(self, factory: Factory[Any, Any]) -> None:
        self._factory = factory

    def ready(self) -> None:
        # Not in __init__: Ray reports what a constructor raises as the death of the actor.
        self._work = self._factory()

    def apply(self, item: Any) -> Any:
        return self._work(item)


@dataclass
class _Pool(Generic[Item, Result]):
    """Items go only to actors that have answered: one that waits for a CPU or GPU never holds an item."""

    new_host: Callable[[], Any]
    items: list[Item]
    describe: Callable[[Item], str]
    again: Callable[[Item], Item] | None
    log: Callable[[str], None]
    queue: deque[int] = field(init=False)
    attempts: Counter[int] = field(default_factory=Counter)
    in_flight: dict[Any, tuple[Any, int | None]] = field(default_factory=dict)
    """Reference -> (actor, position of its item; None while it starts)."""

    def __post_init__(self) -> None:
        self.queue = deque(range(len(self.items)))

    def run(self, num_workers: int) -> Iterator[tuple[int, Result]]:
        for _ in range(num_workers):
            self._start_host()
        num_left = len(self.items)
        while num_left:
            done, _ = ray.wait(list(self.in_flight), num_returns=1, timeout=WAIT_NOTICE_SECONDS)
            if not done and all(position is None for _, position in self.in_flight.values()):
                self.log(f"waiting for a free worker of {len(self.in_flight)}: {free_resources()}")
            for reference in done:
                host, position = self.in_flight.pop(reference)
                try:
                    value = ray.get(reference)
                except RayTaskError as error:
                    raise cause_of(error) from None
                except (RayActorError, WorkerCrashedError) as error:
                    self._replace(position, error)
                    continue
                self._next_item(host)
                if position is not None:
                    num_left -= 1
                    yield position, value

    def close(self) -> None:
        for host, _ in self.in_flight.values():
            ray.kill(host)
        self.in_flight.clear()

    def _start_host(self) -> None:
        host = self.new_host()
        self.in_flight[host.ready.remote()] = (host, None)

    def _next_item(self, host: Any) -> None:
        if self.queue:
            position = self.queue.popleft()
            self.in_flight[host.apply.remote(self.items[position])] = (host, position)
        else:
            ray.kill(host)

    def _replace(self, position: int | None, error: BaseException) -> None:
        what = "an idle worker" if position is None else self.describe(self.items[position])
        counted = -1 if position is None else position
        self.attempts[counted] += 1
        if self.attempts[counted] >= MAX_ATTEMPTS:
            reason = " ".join(str(error).split())[:300]
            raise WorkerDied(f"a worker process died {MAX_ATTEMPTS} times on {what}: {reason}")
        self.log(f"a worker died on {what}; trying it once more on a new one")
        if position is not None:
            if self.again is not None:
                self.items[position] = self.again(self.items[position])
            self.queue.appendleft(position)
        self._start_host()
