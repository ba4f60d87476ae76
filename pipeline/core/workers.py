"""The ways in which a stage uses many processes: a map over items, streams from helpers, and a training group.

`Workers` is what a stage sees. `InProcess` runs everything in the calling process, for tests and for reading;
`cluster.workers.OnRay` runs the same on Ray.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from pipeline.core.events import Emit, Log, Metrics, Progress, discard

Item = TypeVar("Item")
Result = TypeVar("Result")
Taken = TypeVar("Taken", contravariant=True)
Factory = Callable[[], Callable[[Item], Result]]
"""Called once in every worker process; what it returns is applied to each item. Must pickle."""


class Then(Protocol[Item, Taken]):
    """What follows from the results of a map; asked in the process that maps."""

    def after(self, item: Item, result: Taken) -> Sequence[Item]:
        """The items that the result of `item` has made possible."""
        ...

    def leads_on(self, item: Item) -> bool:
        """Whether `after` may give something for `item`: workers with nothing to do then wait for its result."""
        ...


class TrainWorker(Protocol):
    """One member of a training group."""

    @property
    def rank(self) -> int:
        """0 to world_size - 1."""
        ...

    @property
    def world_size(self) -> int:
        """Members of the group."""
        ...

    @property
    def device(self) -> torch.device:
        """Where this member computes."""
        ...

    def prepare(self, module: nn.Module) -> nn.Module:
        """The module on this worker's device; its gradients are averaged over the group (DDP)."""
        ...

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        """Live progress; call on rank 0 only."""
        ...

    def metrics(self, step: int, **values: float) -> None:
        """Live curves; call on rank 0 only."""
        ...

    def log(self, line: str) -> None:
        """A line for people; call on rank 0 only."""
        ...

    def barrier(self) -> None:
        """Wait for every member of the group."""
        ...

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on any member; every member must call it."""
        ...

    def claim(self) -> None:
        """Call on rank 0 before writing anything that another group of the same training may write too.

        Raises:
            GroupReplaced: another group has begun meanwhile, since this one was given up for lost.
        """
        ...

    def checkpointed(self) -> None:
        """Call on every member when a checkpoint is written: here the group may end, to come back larger."""
        ...


@dataclass(frozen=True)
class Node:
    """A machine that workers may run on."""

    num_cpus: int
    """Cores, at least 1."""
    num_gpus: int = 0


TrainLoop = Callable[[Any, TrainWorker], None]


class Workers(Protocol):
    """Where the parts of a stage run."""

    @property
    def replaces_workers(self) -> bool:
        """Whether a worker of `map` is a process that may end, and is then replaced."""
        ...

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
        """Apply a worker's function to every item; yields (position, result) as they finish, in any order.

        A worker process that dies is replaced and its item tried once more: the item that `again` makes of it. A node
        that is lost, with all that ran on it, is not the item's fault: this counts apart, and `again` is not asked.

        `then` gives further items, which a result has made possible, for the same workers: they come before what still
        waits, and their positions follow the others' in the order in which they come.

        Raises:
            WorkerDied: `max_deaths` workers died on the same item.
            Exception: whatever the function raised; the other items in flight are abandoned.
        """
        ...

    def stream(
        self, function: Callable[[Item], Iterator[Result]], item: Item, *, ahead: int
    ) -> Generator[Result, None, None]:
        """What the generator function yields for the item, computed by another process on one core, wherever one is
        free; at most `ahead` values wait to be taken.

        `function` must yield equal values whenever it is called: a process that dies is replaced, and what had arrived
        is not yielded again. Where no core is free for long, the function runs in the calling process.

        Raises:
            WorkerDied: processes died on it again and again.
            Exception: whatever the function raised.
        """
        ...

    def nodes(self) -> tuple[Node, ...]:
        """The machines that there are now."""
        ...

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
        """Run `loop(payload, worker)` on every member of a training group until all return.

        The group has as many members as there is room for, from `min_workers` to `num_workers`. The loop keeps its own
        checkpoints and resumes from the newest: a group that loses a member is begun again with what is left, and one
        that is too small ends at a checkpoint and is begun again when there is room for more. A member that has a
        process of its own computes on `cpus_per_worker` threads, 1 at least.

        Raises:
            WorkerDied: workers were lost time and again, without a checkpoint between.
            Exception: what the loop raised.
        """
        ...


@dataclass(frozen=True)
class Alone:
    """The training group of one: this process."""

    source: str = ""
    emit: Emit = discard
    device: torch.device = torch.device("cpu")
    rank: int = 0
    world_size: int = 1

    def prepare(self, module: nn.Module) -> nn.Module:
        return module.to(self.device)

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        self.emit(Progress(source=self.source, done=done, total=total, unit=unit, note=note))

    def metrics(self, step: int, **values: float) -> None:
        self.emit(Metrics(source=self.source, step=step, values=values))

    def log(self, line: str) -> None:
        self.emit(Log(source=self.source, line=line))

    def barrier(self) -> None:
        return None

    def any(self, flag: bool) -> bool:
        return flag

    def claim(self) -> None:
        return None

    def checkpointed(self) -> None:
        return None


@dataclass(frozen=True)
class InProcess:
    """Everything in the calling process, one item after the other."""

    source: str = ""
    emit: Emit = discard
    replaces_workers: bool = False

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
        work = factory() if items else None
        waiting, num_items = deque(enumerate(items)), len(items)
        while waiting:
            assert work is not None
            position, item = waiting.popleft()
            result = work(item)
            further = list(then.after(item, result)) if then is not None else []
            waiting.extendleft(reversed(list(enumerate(further, start=num_items))))
            num_items += len(further)
            yield position, result

    def stream(
        self, function: Callable[[Item], Iterator[Result]], item: Item, *, ahead: int
    ) -> Generator[Result, None, None]:
        yield from function(item)

    def nodes(self) -> tuple[Node, ...]:
        return (Node(num_cpus=1),)

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
        loop(payload, Alone(source=self.source, emit=self.emit))
