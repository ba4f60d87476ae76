"""A worker's share of every training batch, read one step ahead of the model.

Shapes: T frames, B sequences of this worker's share, D frame dimensions.
"""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from stages.datasets.sequences import MovingMNISTSource, SequenceSource


@dataclass
class Feed:
    """`feed.take(step)` gives x_TBD on the device while a thread reads the next step's. A context manager."""

    source: SequenceSource
    batch_size: int
    """Sequences of the global batch."""
    num_steps: int
    device: torch.device
    rank: int = 0
    world_size: int = 1
    seconds_waited: float = 0.0
    """How long `take` has waited for data, all in all."""
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "feed"), repr=False)
    _ahead: dict[int, Future[Tensor]] = field(default_factory=dict, repr=False)

    def take(self, step: int) -> Tensor:
        """The share of step `step`. Raises whatever the source does."""
        started = time.monotonic()
        x_TBD = (self._ahead.pop(step, None) or self._thread.submit(self._read, step)).result()
        self.seconds_waited += time.monotonic() - started
        if step + 1 < self.num_steps:
            self._ahead[step + 1] = self._thread.submit(self._read, step + 1)
        return x_TBD.to(self.device, non_blocking=True)

    def _read(self, step: int) -> Tensor:
        share = (step, self.batch_size, self.rank, self.world_size)
        if self.device.type == "cuda" and isinstance(self.source, MovingMNISTSource):
            return self.source.batch_on(self.device, *share)
        x_TBD = torch.from_numpy(self.source.batch(*share))
        return x_TBD.pin_memory() if self.device.type == "cuda" else x_TBD

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
