"""Work that may run at the same time on one device: streams on a GPU, one thing after the other on a CPU.

    queues = Queues(device, 3)
    with queues.on(0):
        ...
        done = queues.mark()
    with queues.on(1):
        queues.wait(done)
        ...
    queues.join()

Queues begin after all that the caller has launched before; after `join` the caller's work waits for them. What is
allocated on a queue belongs to its stream: it is used by others only between a mark and the join, or after the join.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch


@lru_cache(maxsize=64)
def _stream(device: torch.device, queue: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's constructor has no types


class Queues:
    """Queues 0 to `num_queues - 1`, a CUDA stream each; a graph that captures them runs them as branches.

    Where the device has no streams or one queue is enough, the caller's own stands for all. The caller launches in an
    order that would also do on one queue.
    """

    def __init__(self, device: torch.device, num_queues: int) -> None:
        self._device = device
        num_streams = num_queues if device.type == "cuda" and num_queues > 1 else 0
        self._streams = [_stream(device, queue) for queue in range(num_streams)]
        for stream in self._streams:
            stream.wait_stream(torch.cuda.current_stream(device))

    def on(self, queue: int) -> AbstractContextManager[object]:
        """Makes a queue the current one: what is launched within goes to it."""
        return torch.cuda.stream(self._streams[queue]) if self._streams else nullcontext()

    def mark(self) -> torch.cuda.Event | None:
        """Returns the end of what has been launched so far on the current queue."""
        return torch.cuda.current_stream(self._device).record_event() if self._streams else None

    def wait(self, mark: torch.cuda.Event | None) -> None:
        """Delays what is launched next on the current queue until a mark is reached."""
        if mark is not None:
            mark.wait()

    def join(self) -> None:
        """Delays what the caller launches from here on until all queues are done."""
        for stream in self._streams:
            torch.cuda.current_stream(self._device).wait_stream(stream)
