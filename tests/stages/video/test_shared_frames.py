"""Frames in shared memory: equal values without a copy, never overwritten while in use, bounded, nothing left over."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.video.limits import Limits
from stages.video.processes import shared_frames
from stages.video.processes.isolated_process import IsolatedProcess, ProcessDied

LIMITS = Limits(max_stall_s=20.0, max_memory_bytes=1 << 30)
SHAPE = (4, 64, 64, 3)
SLOT_BYTES = 4 * 64 * 64 * 3
NUM_SLOTS = 3


def numbered(num_arrays: int, shape: tuple[int, ...] = SHAPE) -> Iterator[dict[str, Any]]:
    """Each item holds its number, and whether it lies in shared memory in the child."""
    for number in range(num_arrays):
        frames = shared_frames.empty(shape)
        frames[:] = number
        yield {"frames": frames[: max(1, len(frames) - 1)], "number": number, "is_shared": not frames.flags.owndata}


def killed_at_the_third(flag: str) -> Iterator[dict[str, Any]]:
    for item in numbered(6):
        if item["number"] == 2 and not os.path.exists(flag):
            Path(flag).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield item


def drops_what_it_makes() -> Iterator[int]:
    for number in range(50):
        frames = shared_frames.empty(SHAPE)
        assert frames.base is not None, "a slot that was let go of is free again"
        del frames
        yield number


def odd_arrays() -> Iterator[Any]:
    """Too large for a slot, too small for one, not contiguous, not the beginning of a slot, none at all."""
    yield shared_frames.empty((9, 64, 64, 3)) * 0 + 1
    yield np.full(5, 2, np.int32)
    in_slot = shared_frames.empty(SHAPE)
    in_slot[:] = 3
    yield in_slot[:, ::2]
    yield in_slot[1:]
    yield np.zeros((0, 64, 64, 3), np.uint8)


def sender() -> IsolatedProcess:
    return IsolatedProcess(LIMITS, is_limited=False, shared=(NUM_SLOTS, SLOT_BYTES))


def test_values_arrive_as_views_and_stay_as_long_as_they_are_held() -> None:
    with sender() as process:
        held = []
        for item in process.stream(numbered, 20):
            assert item["is_shared"]
            assert item["frames"].shape == (3, 64, 64, 3)
            assert not item["frames"].flags.owndata
            # Two are held; the third slot is enough to go on.
            held = [*held[-1:], item]
            for earlier in held:
                assert (earlier["frames"] == earlier["number"]).all()
            del item, earlier
        assert [item["number"] for item in held] == [18, 19]


def test_a_slow_consumer_stops_the_sender() -> None:
    with sender() as process:
        items = process.stream(numbered, 1000)
        held = [next(items) for _ in range(NUM_SLOTS)]
        # The sender waits for a slot, without a sign of life being missed, and goes on with the first that is free.
        time.sleep(0.5)
        assert [int(item["frames"][0, 0, 0, 0]) for item in held] == [0, 1, 2]
        del held[1]
        assert next(items)["number"] == 3
        assert [int(item["frames"][0, 0, 0, 0]) for item in held] == [0, 2]


def test_arrays_that_do_not_fit_are_copied() -> None:
    with sender() as process:
        large, small, strided, later, empty = process.stream(odd_arrays)
        assert (large == 1).all()
        assert (small == 2).all()
        assert (strided == 3).all()
        assert (later == 3).all()
        assert empty.shape == (0, 64, 64, 3)
        assert next(iter(process.stream(numbered, 1)))["is_shared"]


def test_slots_of_arrays_that_are_never_sent_return() -> None:
    with sender() as process:
        assert list(process.stream(drops_what_it_makes)) == list(range(50))


def test_after_a_kill_the_same_values_come_again_and_earlier_ones_stay(tmp_path: Path) -> None:
    with sender() as process:
        items = process.stream(killed_at_the_third, str(tmp_path / "flag"))
        first = next(items)
        assert [int(item["frames"].max()) for item in items] == [1, 2, 3, 4, 5]
        assert (first["frames"] == 0).all()


def test_a_closed_process_leaves_its_last_values_readable() -> None:
    with sender() as process:
        item = next(iter(process.stream(numbered, 2)))
    assert (item["frames"] == 0).all()
    del item
    gc.collect()
    with sender() as process, pytest.raises(ProcessDied):
        list(process.stream(dies))


def dies() -> Iterator[int]:
    yield 1
    os.abort()


def in_a_process_without_shared_memory() -> None:
    assert shared_frames.empty((2, 2)).shape == (2, 2)


PARENT = """
import os, signal, sys
from tests.stages.video.test_shared_frames import numbered, sender
process = sender()
items = process.stream(numbered, 10_000)
held = [next(items)]
print(process._child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_is_left_when_the_parent_is_killed() -> None:
    """Neither the child, which waits for a slot, nor a name in shared memory."""
    before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    parent = subprocess.Popen([sys.executable, "-c", PARENT], env=environment, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert parent.wait(240) == -signal.SIGKILL
    parent.stdout.close()
    ends = time.monotonic() + 240
    while is_alive(child):
        assert time.monotonic() < ends, "the child outlives its parent"
        time.sleep(0.05)
    if before:
        assert not {name for name in set(os.listdir("/dev/shm")) - before if "percepts" in name}


def is_alive(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
