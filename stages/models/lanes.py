"""Work that may run at the same time on one device: streams on a GPU, one thing after the other on a CPU.

    lanes = open_lanes(device, 3)
    with lanes.on(0):
        ...
        done = lanes.mark()
    with lanes.on(1):
        done.wait()
        ...
    lanes.join()

Lanes begin after all that the caller has launched before; after `join` the caller's work waits for them. What is
allocated on a lane belongs to its stream: it is used by others only between a mark and the join, or after the join.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Protocol

import torch


class Mark(Protocol):
    """A point in a lane's work."""

    def wait(self) -> None:
        """The lane that is on goes on only after this point."""
        ...


class Lanes(Protocol):
    """Several queues of work. The caller launches in an order that would also do on one queue."""

    def on(self, lane: int) -> AbstractContextManager[object]:
        """What is launched within goes to this lane."""
        ...

    def mark(self) -> Mark:
        """The end of what has been launched so far on the lane that is on."""
        ...

    def join(self) -> None:
        """What the caller launches from here on waits for all lanes."""
        ...


class _Nothing:
    def wait(self) -> None:
        """There is one queue: whatever was launched before is done before."""


class OneLane:
    """Every lane is the caller's own queue."""

    def on(self, lane: int) -> AbstractContextManager[object]:
        return nullcontext()

    def mark(self) -> Mark:
        return _Nothing()

    def join(self) -> None:
        """Nothing to wait for."""


@lru_cache(maxsize=64)
def _stream(device: torch.device, lane: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class Streams:
    """A CUDA stream a lane; a graph that captures them runs them as branches."""

    def __init__(self, device: torch.device, num_lanes: int) -> None:
        self._caller = torch.cuda.current_stream(device)
        self._streams = [_stream(device, lane) for lane in range(num_lanes)]
        for stream in self._streams:
            stream.wait_stream(self._caller)

    def on(self, lane: int) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._streams[lane])

    def mark(self) -> Mark:
        event: Mark = torch.cuda.current_stream(self._caller.device).record_event()
        return event

    def join(self) -> None:
        for stream in self._streams:
            self._caller.wait_stream(stream)


def open_lanes(device: torch.device, num_lanes: int) -> Lanes:
    """Lanes 0 to `num_lanes - 1`, one queue where the device has no streams or one lane is enough."""
    if device.type != "cuda" or num_lanes < 2:
        return OneLane()
    return Streams(device, num_lanes)
