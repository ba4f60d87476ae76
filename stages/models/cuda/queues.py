"""Work that may run at the same time on one device: streams on a GPU, one thing after the other on a CPU.

    queues = open_queues(device, 3)
    with queues.on(0):
        ...
        done = queues.mark()
    with queues.on(1):
        done.wait()
        ...
    queues.join()

Queues begin after all that the caller has launched before; after `join` the caller's work waits for them. What is
allocated on a queue belongs to its stream: it is used by others only between a mark and the join, or after the join.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Protocol

import torch


class Mark(Protocol):
    """A point in a queue's work."""

    def wait(self) -> None:
        """Delays what is launched next on the current queue until this point is reached."""
        ...


class Queues(Protocol):
    """Several queues of work. The caller launches in an order that would also do on one queue."""

    def on(self, queue: int) -> AbstractContextManager[object]:
        """Makes a queue (from 0) the current one: what is launched within goes to it."""
        ...

    def mark(self) -> Mark:
        """Returns the end of what has been launched so far on the current queue."""
        ...

    def join(self) -> None:
        """Delays what the caller launches from here on until all queues are done."""
        ...


class _Nothing:
    def wait(self) -> None:
        """Returns at once: on one queue, what was launched before is done before."""


class OneQueue:
    """A single queue, the caller's own, that stands for all."""

    def on(self, queue: int) -> AbstractContextManager[object]:
        return nullcontext()

    def mark(self) -> Mark:
        return _Nothing()

    def join(self) -> None:
        """Returns at once: there is nothing to wait for."""


@lru_cache(maxsize=64)
def _stream(device: torch.device, queue: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's constructor has no types


class Streams:
    """A CUDA stream a queue; a graph that captures them runs them as branches."""

    def __init__(self, device: torch.device, num_queues: int) -> None:
        self._caller = torch.cuda.current_stream(device)
        self._streams = [_stream(device, queue) for queue in range(num_queues)]
        for stream in self._streams:
            stream.wait_stream(self._caller)

    def on(self, queue: int) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._streams[queue])

    def mark(self) -> Mark:
        event: Mark = torch.cuda.current_stream(self._caller.device).record_event()
        return event

    def join(self) -> None:
        for stream in self._streams:
            self._caller.wait_stream(stream)


def open_queues(device: torch.device, num_queues: int) -> Queues:
    """Queues 0 to `num_queues - 1`, one queue where the device has no streams or one queue is enough."""
    if device.type != "cuda" or num_queues < 2:
        return OneQueue()
    return Streams(device, num_queues)
