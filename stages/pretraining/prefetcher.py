"""A worker's share of every training batch, read a few steps ahead of the model.

Shapes: T frames, B sequences of this worker's share, D frame dimensions.
"""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from stages.datasets.sequences import OnDevice, SequenceSource

NUM_AHEAD = 2
"""The number of steps that are read, or lie ready, while the model is at one."""


@dataclass
class Prefetcher:
    """A context manager whose thread reads the next steps' batches while the model is at one."""

    source: SequenceSource
    batch_size: int
    """The number of sequences of the global batch."""
    num_steps: int
    device: torch.device
    rank: int = 0
    world_size: int = 1
    seconds_waited: float = 0.0
    """The total time that `batch` has waited for data."""
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "prefetch"), repr=False)
    _ahead: dict[int, Future[Tensor]] = field(default_factory=dict, repr=False)

    def batch(self, step: int) -> Tensor:
        """Returns this worker's share of step `step`, (T, B, D), on the device. Raises what the source raises."""
        started = time.monotonic()
        for ahead in range(step, min(step + NUM_AHEAD + 1, self.num_steps)):
            if ahead not in self._ahead:
                self._ahead[ahead] = self._thread.submit(self._read, ahead)
        x_TBD = self._ahead.pop(step).result()
        self.seconds_waited += time.monotonic() - started
        if x_TBD.device.type == "cuda":
            x_TBD.record_stream(torch.cuda.current_stream(x_TBD.device))
        return x_TBD.to(self.device, non_blocking=True)

    def _read(self, step: int) -> Tensor:
        share = (step, self.batch_size, self.rank, self.world_size)
        if self.device.type != "cuda":
            return torch.from_numpy(self.source.batch(*share))
        if isinstance(self.source, OnDevice):
            # Not on the model's stream: there a batch would wait for all the steps that have been launched.
            stream = self._stream
            with torch.cuda.stream(stream):
                x_TBD = self.source.batch_on(self.device, *share)
            stream.synchronize()
            return x_TBD
        return torch.from_numpy(self.source.batch(*share)).pin_memory()

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]  # torch's constructor has no types

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
