"""Workers on Ray: a pool of actors that process a queue of items, and a Ray Train group.

All of it works inside a Ray task, where stages run.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic

import psutil  # type: ignore[import-untyped]  # it has no types
import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from cluster.lost_nodes import LOSS_ERRORS, is_node_loss
from cluster.network_limiter import RayLimiter
from cluster.placement import alive_nodes, cluster_nodes, each_node, free_resources, node_id
from cluster.session import cause_of
from cluster.streams import stream
from pipeline.core.error_words import one_line
from pipeline.core.errors import WorkerDied
from pipeline.core.network import NetworkLimiter
from pipeline.core.secrets import known, learn
from pipeline.core.workers import ClusterNode, Continuation, Factory, Item, Result, TrainLoop, Workers, num_held

MAX_NODE_DEATHS = 10
MAX_FAILED_STARTS = 5
MAX_TRAINING_DEATHS = 6
"""Deaths of the worker of a training on one machine after which it fails."""
WAIT_MESSAGE_SECONDS = 15.0


@dataclass(frozen=True)
class RayWorkers(Workers):
    """The workers of the Ray cluster that this process belongs to."""

    scratch_uri: str = ""
    """A directory for Ray Train's own small state, shared by the nodes."""
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
        on_retry: Callable[[Item], Item] | None = None,
        continuation: Continuation[Item, Result] | None = None,
        max_deaths: int = 2,
    ) -> Iterator[tuple[int, Result]]:
        actor_class: Any = ray.remote(num_cpus=cpus_per_worker, num_gpus=gpus_per_worker)(_WorkerActor)
        places: Iterator[Any] = iter(()) if cpus_per_worker or gpus_per_worker else each_node()

        def new_actor() -> tuple[Any, Any]:
            actor = actor_class.options(scheduling_strategy=next(places, "DEFAULT")).remote()
            return actor, actor.ready.remote(factory, known())

        pool: _Pool[Item, Result] = _Pool(
            new_actor,
            items,
            describe,
            on_retry,
            continuation,
            max_deaths,
            self.log,
            self.wait,
        )
        try:
            yield from pool.run(num_workers if items and continuation else min(num_workers, len(items)))
        finally:
            pool.close()

    def stream(
        self, function: Callable[[Item], Iterator[Result]], item: Item, *, ahead: int
    ) -> Generator[Result, None, None]:
        return stream(function, item, ahead=ahead, log=self.log)

    def nodes(self) -> tuple[ClusterNode, ...]:
        return cluster_nodes()

    def limiter(self) -> NetworkLimiter:
        return RayLimiter.started()

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
        if num_workers == 1 and self._is_one_machine(cpus_per_worker, gpus_per_worker):
            self._train_alone(loop, payload, cpus_per_worker, gpus_per_worker)
            return
        from cluster.training.training_group import (  # torch and Ray Train take seconds: only to train
            Group,
            train_group,
        )

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

    def _is_one_machine(self, num_cpus: float, num_gpus: float) -> bool:
        """Returns whether the driver's machine is the only one, and holds a worker of so many cores and GPUs."""
        return len(alive_nodes()) == 1 and num_held(self.nodes(), num_cpus, num_gpus) >= 1

    def _train_alone(self, loop: TrainLoop, payload: Any, cpus_per_worker: float, gpus_per_worker: float) -> None:
        """Trains in an actor, without the four processes of a group of Ray Train.

        The one machine is the driver's: no other can be lost, and none can join.
        """
        from cluster.training.fencing import scratch_directory
        from cluster.training.single_worker import SingleWorkerFactory

        factory = SingleWorkerFactory(
            loop=loop,
            source=self.source,
            emit=self.emit,
            scratch_uri=self.scratch_uri,
            num_threads=max(1, int(cpus_per_worker)),
            device="cuda" if gpus_per_worker else "cpu",
        )
        with scratch_directory(self.scratch_uri):
            for _ in self.map(
                factory,
                [payload],
                num_workers=1,
                cpus_per_worker=cpus_per_worker,
                gpus_per_worker=gpus_per_worker,
                describe=lambda _: "the training",
                max_deaths=MAX_TRAINING_DEATHS,
            ):
                pass


class _WorkerActor:
    """An actor that builds the worker's function once and applies it to each item."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def ready(self, factory: Factory[Any, Any], addresses: Mapping[str, str]) -> tuple[str, float, float]:
        """Builds the function; returns the node's id, and the ages of the process and of the actor in it, seconds."""
        # Not in __init__: Ray reports what a constructor raises as the death of the actor.
        learn(addresses)
        self._work = factory()
        return node_id(), time.time() - psutil.Process().create_time(), time.monotonic() - self._began

    def apply(self, item: Any) -> Any:
        return self._work(item)

    def answer_health_check(self) -> None:
        """Returns at once: a reply shows that the process is alive."""


@dataclass
class _Call:
    """A call to an actor whose reply is awaited."""

    actor: Any
    node: str | None = None
    """The id of the actor's node; None while the actor starts."""
    position: int | None = None
    """The position of the item that the actor works on; None while the actor starts."""
    is_health_check: bool = False
    """True if this call only checks whether the actor is alive, because its previous reply was lost."""


@dataclass
class _Pool(Generic[Item, Result]):
    """A pool of actors. Items go only to actors that have started: one that waits for a CPU or GPU has no item."""

    new_actor: Callable[[], tuple[Any, Any]]
    """Returns a new actor, and the reference to what it says when it has started."""
    items: Sequence[Item]
    """The items, read one at a time when they are handed out: they may lie on a disk."""
    describe: Callable[[Item], str]
    on_retry: Callable[[Item], Item] | None
    continuation: Continuation[Item, Result] | None
    max_deaths: int
    log: Callable[[str], None]
    wait: Callable[[str, float], None]
    """Reports what has been waited for so long, and with an empty text that the work begins."""
    changed_items: dict[int, Item] = field(default_factory=dict)
    """Position -> item that `on_retry` has replaced or `continuation` has added."""
    num_items: int = field(init=False)
    queue: deque[int] = field(init=False)
    deaths: Counter[int] = field(default_factory=Counter)
    node_deaths: Counter[int] = field(default_factory=Counter)
    failed_starts: int = 0
    """The number of actors in a row that died before they had started."""
    in_flight: dict[Any, _Call] = field(default_factory=dict)
    awaited_since: float = 0.0
    """The time at which the pool began to start actors while none had started, by the monotonic clock."""
    idle: list[_Call] = field(default_factory=list)
    """Actors without an item, kept while awaited results may still add items."""

    def __post_init__(self) -> None:
        self.num_items = len(self.items)
        self.queue = deque(range(self.num_items))

    def run(self, num_workers: int) -> Iterator[tuple[int, Result]]:
        for _ in range(num_workers):
            self._start_actor()
        num_left = self.num_items
        while num_left:
            done, _ = ray.wait(list(self.in_flight), num_returns=1, timeout=WAIT_MESSAGE_SECONDS)
            if not done and not self._has_started():
                reason = f"waiting for a free worker of {len(self.in_flight)}: {free_resources()}"
                self.wait(reason, time.monotonic() - self.awaited_since)
            for reference in done:
                call = self.in_flight.pop(reference)
                try:
                    value = ray.get(reference)
                except RayTaskError as error:
                    ray.kill(call.actor)  # no longer in flight: with the error's frames it would keep its cores
                    raise cause_of(error) from None
                except LOSS_ERRORS as error:
                    self._handle_death(call, error)
                    continue
                if call.is_health_check:
                    # The actor is alive: only its reply was lost, so its item is processed again.
                    self._requeue(call)
                    self._next_item(call)
                elif call.position is None:
                    self.failed_starts = 0
                    node, process_s, actor_s = value
                    if not self._has_started():
                        took_s = time.monotonic() - self.awaited_since
                        # A process that is older than the pool was idle, and given to the actor when a core was free.
                        self.wait("", max(took_s - (process_s if process_s < took_s else actor_s), 0.0))
                    self._next_item(replace(call, node=node))
                else:
                    num_left += self._add(call.position, value) - 1
                    self._next_item(call)
                    yield call.position, value

    def close(self) -> None:
        for call in (*self.in_flight.values(), *self.idle):
            ray.kill(call.actor)
        self.in_flight.clear()
        self.idle.clear()

    def _add(self, position: int, result: Result) -> int:
        """Puts the items that the result makes possible before all waiting items; returns their number."""
        further = self.continuation.next_jobs(self._item(position), result) if self.continuation is not None else ()
        positions = range(self.num_items, self.num_items + len(further))
        self.queue.extendleft(reversed(positions))
        self.changed_items.update(zip(positions, further, strict=True))
        self.num_items += len(further)
        idle_calls, self.idle = self.idle, []
        for call in idle_calls:
            self._next_item(call)
        return len(further)

    def _may_get_more_items(self) -> bool:
        if self.continuation is None:
            return False
        positions = [call.position for call in self.in_flight.values() if call.position is not None]
        return any(self.continuation.may_continue(self._item(position)) for position in positions)

    def _has_started(self) -> bool:
        return any(call.node is not None for call in self.in_flight.values())

    def _start_actor(self) -> None:
        if not self._has_started():
            self.awaited_since = time.monotonic()
        actor, ready = self.new_actor()
        self.in_flight[ready] = _Call(actor)

    def _next_item(self, call: _Call) -> None:
        if self.queue:
            position = self.queue.popleft()
            reference = call.actor.apply.remote(self._item(position))
            self.in_flight[reference] = replace(call, position=position, is_health_check=False)
        elif self._may_get_more_items():
            self.idle.append(replace(call, position=None, is_health_check=False))
        else:
            ray.kill(call.actor)

    def _item(self, position: int) -> Item:
        return self.changed_items[position] if position in self.changed_items else self.items[position]

    def _requeue(self, call: _Call) -> None:
        if call.position is not None:
            self.queue.appendleft(call.position)

    def _handle_death(self, call: _Call, error: RayError) -> None:
        """Replaces an actor that died. One that cannot be reached gets a health check first."""
        if isinstance(error, ActorUnavailableError) and not call.is_health_check:
            # Ray does not know yet whether the process or its node has died: the reply to a health check shows it.
            self.in_flight[call.actor.answer_health_check.remote()] = replace(call, is_health_check=True)
            return
        is_node_lost = isinstance(error, ActorUnavailableError) or is_node_loss(error, call.node)
        ray.kill(call.actor)
        if call.position is None:
            self._start_again(is_node_lost, error)
        else:
            self._try_again(call.position, is_node_lost, error)

    def _start_again(self, is_node_lost: bool, error: RayError) -> None:
        self.failed_starts += not is_node_lost
        if self.failed_starts >= MAX_FAILED_STARTS:
            raise WorkerDied(f"{self.failed_starts} workers in a row died before they began: {one_line(error)}")
        self.log("a worker died while it started; starting a new one")
        self._start_actor()

    def _try_again(self, position: int, is_node_lost: bool, error: RayError) -> None:
        item = self._item(position)
        description = self.describe(item)
        counter, limit = (self.node_deaths, MAX_NODE_DEATHS) if is_node_lost else (self.deaths, self.max_deaths)
        counter[position] += 1
        if counter[position] >= limit:
            raise WorkerDied(f"a worker process died {limit} times on {description}: {one_line(error)}")
        died = "a node was lost with a worker" if is_node_lost else "a worker died"
        self.log(f"{died} on {description}; trying it once more on a new one")
        if self.on_retry is not None and not is_node_lost:
            self.changed_items[position] = self.on_retry(item)
        self.queue.appendleft(position)
        self._start_actor()
