"""Workers on Ray: a pool of actors over a queue of items, and a Ray Train group.

Works from inside a Ray task, which is where stages run.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic

import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from cluster.lost_nodes import LOSSES, in_one_line, is_nodes_fault
from cluster.placement import free_resources, node_id
from cluster.session import cause_of
from cluster.streams import stream
from cluster.training_group import Group, train_group
from pipeline.core.errors import WorkerDied
from pipeline.core.events import Emit, Log, discard
from pipeline.core.workers import Factory, Item, Node, Result, Then, TrainLoop

MAX_NODE_DEATHS = 10
MAX_FAILED_STARTS = 5
WAIT_NOTICE_SECONDS = 15.0


@dataclass(frozen=True)
class OnRay:
    """`pipeline.core.workers.Workers` on the Ray cluster that this process belongs to."""

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
        then: Then[Item, Result] | None = None,
        max_deaths: int = 2,
    ) -> Iterator[tuple[int, Result]]:
        host = ray.remote(num_cpus=cpus_per_worker, num_gpus=gpus_per_worker)(_Host)
        pool: _Pool[Item, Result] = _Pool(
            lambda: host.remote(factory), items, describe, again, then, max_deaths, self._log
        )
        try:
            yield from pool.run(num_workers if items and then else min(num_workers, len(items)))
        finally:
            pool.close()

    def stream(
        self, function: Callable[[Item], Iterator[Result]], item: Item, *, ahead: int
    ) -> Generator[Result, None, None]:
        return stream(function, item, ahead=ahead, log=self._log)

    def nodes(self) -> tuple[Node, ...]:
        machines = [entry["Resources"] for entry in ray.nodes() if entry["Alive"]]  # type: ignore[no-untyped-call]
        return tuple(
            Node(num_cpus=int(machine["CPU"]), num_gpus=int(machine.get("GPU", 0)))
            for machine in machines
            if machine.get("CPU", 0) >= 1
        )

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

    def ready(self) -> str:
        # Not in __init__: Ray reports what a constructor raises as the death of the actor.
        self._work = self._factory()
        return node_id()

    def apply(self, item: Any) -> Any:
        return self._work(item)

    def is_there(self) -> None:
        """Answers."""


@dataclass
class _Call:
    """What an actor was asked."""

    host: Any
    node: str | None = None
    """Where the actor runs; None while it starts."""
    position: int | None = None
    """Of the item that it holds."""
    is_question: bool = False
    """Whether it is there: the answer to its item could not be had."""


@dataclass
class _Pool(Generic[Item, Result]):
    """Items go only to actors that have answered: one that waits for a CPU or GPU never holds an item."""

    new_host: Callable[[], Any]
    items: Sequence[Item]
    """Read one at a time, as they are handed out: they may lie on a disk."""
    describe: Callable[[Item], str]
    again: Callable[[Item], Item] | None
    then: Then[Item, Result] | None
    max_deaths: int
    log: Callable[[str], None]
    own: dict[int, Item] = field(default_factory=dict)
    """By position: what `again` made of items, and what `then` added to them."""
    num_items: int = field(init=False)
    queue: deque[int] = field(init=False)
    deaths: Counter[int] = field(default_factory=Counter)
    node_deaths: Counter[int] = field(default_factory=Counter)
    failed_starts: int = 0
    """In a row, since a worker has last begun."""
    in_flight: dict[Any, _Call] = field(default_factory=dict)
    resting: list[_Call] = field(default_factory=list)
    """Actors with nothing to do, while results that are awaited may lead on to more."""

    def __post_init__(self) -> None:
        self.num_items = len(self.items)
        self.queue = deque(range(self.num_items))

    def run(self, num_workers: int) -> Iterator[tuple[int, Result]]:
        for _ in range(num_workers):
            self._start_host()
        num_left = self.num_items
        while num_left:
            done, _ = ray.wait(list(self.in_flight), num_returns=1, timeout=WAIT_NOTICE_SECONDS)
            if not done and all(call.node is None for call in self.in_flight.values()):
                self.log(f"waiting for a free worker of {len(self.in_flight)}: {free_resources()}")
            for reference in done:
                call = self.in_flight.pop(reference)
                try:
                    value = ray.get(reference)
                except RayTaskError as error:
                    raise cause_of(error) from None
                except LOSSES as error:
                    self._mourn(call, error)
                    continue
                if call.is_question:
                    # It is there, and only its answer was lost.
                    self._requeue(call)
                    self._next_item(call)
                elif call.position is None:
                    self.failed_starts = 0
                    self._next_item(replace(call, node=value))
                else:
                    num_left += self._add(call.position, value) - 1
                    self._next_item(call)
                    yield call.position, value

    def close(self) -> None:
        for call in (*self.in_flight.values(), *self.resting):
            ray.kill(call.host)
        self.in_flight.clear()
        self.resting.clear()

    def _add(self, position: int, result: Result) -> int:
        """Put what the result leads on to before all that waits; returns how much that is."""
        further = self.then.after(self._item(position), result) if self.then is not None else ()
        positions = range(self.num_items, self.num_items + len(further))
        self.queue.extendleft(reversed(positions))
        self.own.update(zip(positions, further, strict=True))
        self.num_items += len(further)
        resting, self.resting = self.resting, []
        for call in resting:
            self._next_item(call)
        return len(further)

    def _is_more_to_come(self) -> bool:
        held = (call.position for call in self.in_flight.values() if call.position is not None)
        return self.then is not None and any(self.then.leads_on(self._item(position)) for position in held)

    def _start_host(self) -> None:
        host = self.new_host()
        self.in_flight[host.ready.remote()] = _Call(host)

    def _next_item(self, call: _Call) -> None:
        if self.queue:
            position = self.queue.popleft()
            reference = call.host.apply.remote(self._item(position))
            self.in_flight[reference] = replace(call, position=position, is_question=False)
        elif self._is_more_to_come():
            self.resting.append(replace(call, position=None, is_question=False))
        else:
            ray.kill(call.host)

    def _item(self, position: int) -> Item:
        return self.own[position] if position in self.own else self.items[position]

    def _requeue(self, call: _Call) -> None:
        if call.position is not None:
            self.queue.appendleft(call.position)

    def _mourn(self, call: _Call, error: RayError) -> None:
        """An actor is lost, or cannot be reached."""
        if isinstance(error, ActorUnavailableError) and not call.is_question:
            # Ray does not know yet: the next answer says whether process or node is gone, or neither.
            self.in_flight[call.host.is_there.remote()] = replace(call, is_question=True)
            return
        nodes_fault = isinstance(error, ActorUnavailableError) or is_nodes_fault(error, call.node)
        ray.kill(call.host)
        if call.position is None:
            self._start_again(nodes_fault, error)
        else:
            self._try_again(call.position, nodes_fault, error)

    def _start_again(self, nodes_fault: bool, error: RayError) -> None:
        self.failed_starts += not nodes_fault
        if self.failed_starts >= MAX_FAILED_STARTS:
            raise WorkerDied(f"{self.failed_starts} workers in a row died before they began: {in_one_line(error)}")
        self.log("a worker died while it started; starting a new one")
        self._start_host()

    def _try_again(self, position: int, nodes_fault: bool, error: RayError) -> None:
        item = self._item(position)
        what = self.describe(item)
        counter, limit = (self.node_deaths, MAX_NODE_DEATHS) if nodes_fault else (self.deaths, self.max_deaths)
        counter[position] += 1
        if counter[position] >= limit:
            raise WorkerDied(f"a worker process died {limit} times on {what}: {in_one_line(error)}")
        died = "a node was lost with a worker" if nodes_fault else "a worker died"
        self.log(f"{died} on {what}; trying it once more on a new one")
        if self.again is not None and not nodes_fault:
            self.own[position] = self.again(item)
        self.queue.appendleft(position)
        self._start_host()
