"""The three ways in which a stage uses many processes: a map over items, streams of values, and a training group.

`Workers` is what a stage uses. By itself it runs everything in the calling process, for tests and single steps in a
debugger; `cluster.workers.RayWorkers` runs the same on Ray. Neither this module nor `pipeline.core`
imports torch before a training begins.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from pipeline.core.events import Emit, EventSource, discard
from pipeline.core.network import PROCESS_LIMITER, NetworkLimiter

if TYPE_CHECKING:
    import torch
    from torch import nn

ROUNDING: Final = 1e-9
"""Three workers of a third of a GPU fit on one."""
Item = TypeVar("Item")
Result = TypeVar("Result")
Result_contra = TypeVar("Result_contra", contravariant=True)
Factory = Callable[[], Callable[[Item], Result]]
"""A picklable function that is called once in every worker process; it returns the function of one item."""


class Continuation(Protocol[Item, Result_contra]):
    """The further items of a map that its results make possible; called in the process that maps."""

    def next_jobs(self, item: Item, result: Result_contra) -> Sequence[Item]:
        """Returns the items that the result of `item` makes possible."""
        ...

    def may_continue(self, item: Item) -> bool:
        """Returns whether `next_jobs` may return items for `item`: idle workers are then kept until its result."""
        ...


class TrainWorker(EventSource):
    """A worker of a training group, as the training loop sees it; this one is alone, in the calling process.

    Only rank 0 may report progress, metrics and lines of the log.
    """

    rank: int
    """The number of this worker, 0 to world_size - 1."""
    world_size: int
    """The number of workers in the group."""
    device: torch.device
    """The device on which this worker computes."""

    def __init__(self, source: str = "", emit: Emit = discard, device: str = "cpu") -> None:
        import torch

        self.source, self.emit, self.device = source, emit, torch.device(device)
        self.rank, self.world_size = 0, 1

    def prepare(self, module: nn.Module) -> nn.Module:
        """Moves the module to this worker's device; its gradients are averaged over the group (DDP)."""
        return module.to(self.device)

    def barrier(self) -> None:
        """Waits until every worker of the group has called it."""

    def any(self, flag: bool) -> bool:
        """Returns whether `flag` is true on any worker. Every worker must call it."""
        return flag

    def check_fencing_token(self) -> None:
        """Checks that this group may write. Rank 0 calls it before each write that another group could make, too.

        Raises:
            GroupReplaced: another group of the same training has begun, since this one was taken for lost.
        """

    def checkpointed(self) -> None:
        """Ends the group if it can restart with more workers. Every worker calls it after a checkpoint is written."""


@dataclass(frozen=True)
class ClusterNode:
    """A machine on which workers can run."""

    num_cpus: int
    """The number of cores, at least 1."""
    num_gpus: int = 0


def num_held(nodes: Iterable[ClusterNode], num_cpus: float, num_gpus: float) -> int:
    """Returns how many workers of so many cores and GPUs the machines hold when they do nothing else."""
    needs = [
        (attribute, amount) for attribute, amount in (("num_cpus", num_cpus or 1.0), ("num_gpus", num_gpus)) if amount
    ]
    return sum(min(int(getattr(node, name) / amount + ROUNDING) for name, amount in needs) for node in nodes)


TrainLoop = Callable[[Any, TrainWorker], None]


@dataclass(frozen=True)
class Workers(EventSource):
    """The processes on which the parts of a stage run: here the calling one, which takes one item after the other."""

    source: str = ""
    emit: Emit = discard
    replaces_workers: bool = False
    """True if a worker of `map` is a process of its own that is replaced after its death."""
    device: str = "cpu"
    """The device that trainings compute on."""
    node: ClusterNode = ClusterNode(num_cpus=1)
    """The machine of the calling process."""

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
        """Applies a worker's function to every item; yields (position, result) in order of completion.

        Workers that reserve nothing (0 cores, 0 GPUs) start beside others, the same number on each node.

        A worker process that dies is replaced and its item retried, changed by `on_retry`. The loss of a node, with
        every process on it, is not caused by the item: it is counted separately, and `on_retry` is not applied.

        `continuation` adds items that a result makes possible. They are processed by the same workers before all
        waiting items, and their positions continue those of `items` in the order in which they are added.

        Raises:
            WorkerDied: `max_deaths` workers died on the same item.
            Exception: the exception that the function raised; the other items in flight are abandoned.
        """
        work = factory() if items else None
        waiting, num_items = deque(enumerate(items)), len(items)
        while waiting:
            assert work is not None
            position, item = waiting.popleft()
            result = work(item)
            further = list(continuation.next_jobs(item, result)) if continuation is not None else []
            waiting.extendleft(reversed(list(enumerate(further, start=num_items))))
            num_items += len(further)
            yield position, result

    def stream(
        self, function: Callable[[Item], Iterator[Result]], item: Item, *, ahead: int
    ) -> Generator[Result, None, None]:
        """Yields the values of the generator function, computed by another process on a free core of any node.

        At most `ahead` values wait to be consumed. `function` must yield equal values whenever it is called: a process
        that dies is replaced, and values that had arrived are not yielded again. If no core is free for a minute, the
        function runs in the calling process.

        Raises:
            WorkerDied: several processes in a row died on the item.
            Exception: the exception that the function raised.
        """
        yield from function(item)

    def nodes(self) -> tuple[ClusterNode, ...]:
        """Returns the machines that are alive now and have at least one core."""
        return (self.node,)

    def limiter(self) -> NetworkLimiter:
        """Returns the account of requests to other hosts that all workers share. It may be handed to them."""
        return PROCESS_LIMITER

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
        """Runs `loop(payload, worker)` on every worker of a training group until all return.

        The group has as many workers as there are free resources for, from `min_workers` to `num_workers`. The loop
        keeps its own checkpoints and resumes from the newest: a group that loses a worker is restarted with the
        others, and one below `num_workers` ends at a checkpoint and is restarted when resources are free. A worker in
        a process of its own computes on `cpus_per_worker` threads, at least 1.

        Raises:
            WorkerDied: workers were lost several times in a row, without a checkpoint between.
            Exception: the exception that the loop raised.
        """
        loop(payload, TrainWorker(source=self.source, emit=self.emit, device=self.device))
