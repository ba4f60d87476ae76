"""Frames that go from a decoding process to its parent in memory that both map, without a copy.

    ring = SharedFrames(5, 32 * 224 * 224 * 3)          # in the parent
    child = start(..., pass_fds=ring.descriptors)
    use_memory(*ring.descriptors, ...)                                       # in the child, once
    frames_NHWC = empty(shape)                                               # memory of a slot, while one is free
    send(pipe, chunk); wait_for_a_slot()
    chunk = ring.loads(pipe.recv_bytes())                                    # in the parent: a view of the slot

A slot is free again as soon as the parent has let go of every array in it; the child hears of it through a pipe. So at
most `num_slots` chunks of a child exist, however slow the parent is. The memory has no name: nothing is left of it when
the last of the two processes is gone, whatever it died of, and no size of /dev/shm limits it.

In a process that has no such memory, `empty` is numpy's.
"""

from __future__ import annotations

import math
import mmap
import os
import pickle
import tempfile
import weakref
from multiprocessing.connection import Connection
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

MIN_SHARED_BYTES: Final = 1 << 14
"""Smaller arrays do not take a slot."""


class SharedFrames:
    """The parent's side: slots in memory without a name, and the pipe that gives them back."""

    def __init__(self, num_slots: int, slot_bytes: int) -> None:
        # The child fills one slot while the consumer holds another.
        assert num_slots >= 2, num_slots
        self.slot_bytes = -(-slot_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self.num_slots = num_slots
        self._memory_descriptor = _anonymous_file(self.num_slots * self.slot_bytes)
        self._map = mmap.mmap(self._memory_descriptor, self.num_slots * self.slot_bytes)
        self._returned_descriptor, returns = os.pipe()
        # Every array that is in use keeps this open.
        self._returns = _Returns(returns)

    @property
    def descriptors(self) -> tuple[int, int]:
        """For the child: of the memory, and of the pipe on which slots return."""
        return self._memory_descriptor, self._returned_descriptor

    def close_descriptors(self) -> None:
        """Closes the descriptors that the child has inherited and the parent needs no more."""
        os.close(self._memory_descriptor)
        os.close(self._returned_descriptor)

    def loads(self, message: bytes) -> Any:
        """Unpickles an item of the child.

        Its large arrays are views of slots, which are free again after the last view.
        """
        lent, pickled = pickle.loads(message)  # noqa: S301  # from our own child
        return pickle.loads(pickled, buffers=[self._view(*place) for place in lent])  # noqa: S301

    def _view(self, slot: int, num_bytes: int) -> Bytes:
        view = np.frombuffer(self._map, np.uint8, num_bytes, slot * self.slot_bytes)
        weakref.finalize(view, self._returns.give_back, slot)
        return view


class _Returns:
    """The parent's end of the pipe on which slots return."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)

    def give_back(self, slot: int) -> None:
        """Writes one byte, from whichever thread drops the last view.

        The pipe has room: it never holds more than a byte a slot.
        """
        try:
            os.write(self._descriptor, bytes((slot,)))
        except BrokenPipeError:
            return  # the child has ended, and its slots with it


def _anonymous_file(num_bytes: int) -> int:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("percepts-frames", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, num_bytes)
    return descriptor


class _Slots:
    """The child's side."""

    def __init__(self, memory_descriptor: int, returned_descriptor: int, num_slots: int) -> None:
        num_bytes = os.fstat(memory_descriptor).st_size
        self._map = mmap.mmap(memory_descriptor, num_bytes)
        os.close(memory_descriptor)
        self._returned_descriptor = returned_descriptor
        self._slot_bytes = num_bytes // num_slots
        self._first = np.frombuffer(self._map, np.uint8).ctypes.data
        self._free = list(range(num_slots))
        self._finalizers: dict[int, weakref.finalize[Any, Any]] = {}
        """Of slots whose memory is in use here and has not been sent."""

    def empty(self, shape: tuple[int, ...]) -> Bytes:
        num_bytes = math.prod(shape)
        if not self._free or not MIN_SHARED_BYTES <= num_bytes <= self._slot_bytes:
            return np.empty(shape, np.uint8)
        slot = self._free.pop()
        memory = np.frombuffer(self._map, np.uint8, num_bytes, slot * self._slot_bytes)
        # What is not sent returns when it is let go of.
        self._finalizers[slot] = weakref.finalize(memory, self._free.append, slot)
        return memory.reshape(shape)

    def dumps(self, item: Any) -> bytes:
        lent: list[tuple[int, int]] = []

        def is_in_band(buffer: pickle.PickleBuffer) -> bool:
            raw = buffer.raw()
            if raw.nbytes < MIN_SHARED_BYTES:
                return True
            offset = np.frombuffer(raw, np.uint8).ctypes.data - self._first
            slot, within = divmod(offset, self._slot_bytes)
            if within or slot not in self._finalizers:
                return True
            # From here on the parent says when the slot is free.
            self._finalizers.pop(slot).detach()
            lent.append((slot, raw.nbytes))
            return False

        pickled = pickle.dumps(item, protocol=5, buffer_callback=is_in_band)
        return pickle.dumps((lent, pickled), protocol=5)

    def wait(self) -> None:
        """Waits until a slot is free. Raises EOFError where the parent is gone."""
        while not self._free:
            returned = os.read(self._returned_descriptor, 256)
            if not returned:
                raise EOFError("the parent is gone")
            self._free.extend(returned)


_slots: _Slots | None = None


def use_memory(memory_descriptor: int, returned_descriptor: int, num_slots: int) -> None:
    """Maps the memory in the child, before anything is decoded."""
    global _slots
    _slots = _Slots(memory_descriptor, returned_descriptor, num_slots)


def empty(shape: tuple[int, ...]) -> Bytes:
    """Returns an uninitialised uint8 array of this shape, in shared memory where this process has some."""
    return np.empty(shape, np.uint8) if _slots is None else _slots.empty(shape)


def send(pipe: Connection[Any, Any], item: Any) -> None:
    """Pickles the item for the parent; arrays that lie in shared memory are named and not copied.

    The parent receives it with `SharedFrames.loads(pipe.recv_bytes())`, or with `pipe.recv()` where nothing is
    shared.
    """
    if _slots is None:
        pipe.send(item)
    else:
        pipe.send_bytes(_slots.dumps(item))


def wait_for_a_slot() -> None:
    """Lets the parent take its time: returns when the next `empty` will find a slot. Raises EOFError: it is gone."""
    if _slots is not None:
        _slots.wait()
