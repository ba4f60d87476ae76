"""Isolated processes: what C code does to one of them is told in words, and the next call is answered as ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stages.video.limits import Limits
from stages.video.processes.isolated_process import IsolatedProcess, ProcessDied
from stages.video.processes.watchdog import watched
from tests.stages.video.sabotage import misbehave

LIMITS = Limits(max_stall_s=60.0, max_memory_bytes=300 << 20)
IMPATIENT = replace(LIMITS, max_stall_s=1.0)
"""For what hangs. A busy machine takes as long for the memory that another test wants to be too much."""


def count(start: int, how: str) -> Iterator[int]:
    yield from range(start, start + 3)
    with watched("a video"):
        misbehave(how)
    yield 99


def large_arrays() -> Iterator[np.ndarray]:
    for number in range(5):
        yield np.full((8, 224, 224, 3), number, np.uint8)


def killed_the_first_time(flag: str) -> Iterator[int]:
    yield 1
    if not os.path.exists(flag):
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    yield 2


def dies_of(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def refuses() -> int:
    raise ValueError("not this one")


def slow_but_alive() -> int:
    with watched("a video") as heartbeat:
        for _ in range(25):
            time.sleep(0.1)
            heartbeat.beat()
        with heartbeat.paused():
            time.sleep(2.5)
    return 7


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("hangs", r"gave no sign of life for 1 s \(max_stall_s\), twice"),
        ("hangs-with-lock", "gave no sign of life"),
        ("crashes", "died twice: Segmentation fault"),
        ("aborts", "died twice: Aborted"),
        ("grows", "took more memory than max_memory_bytes = 314572800"),
    ],
)
def test_a_death_is_told_and_costs_one_call(how: str, reason: str) -> None:
    with IsolatedProcess(IMPATIENT if how.startswith("hangs") else LIMITS) as process:
        received = []
        with pytest.raises(ProcessDied, match=reason) as death:
            received.extend(process.stream(count, 5, how))
        assert death.value.is_stall == how.startswith("hangs")
        assert list(process.stream(count, 7, "well")) == [7, 8, 9, 99]


def test_items_come_through_whole_and_in_order() -> None:
    with IsolatedProcess(LIMITS) as process:
        arrays = list(process.stream(large_arrays))
        assert [int(array[0, 0, 0, 0]) for array in arrays] == [0, 1, 2, 3, 4]
        assert all(np.all(array == array[0, 0, 0, 0]) for array in arrays)
        # Left in the middle: what is left of it does not get into the next call.
        assert int(next(process.stream(large_arrays)).max()) == 0
        assert process.call(sum, (1, 2)) == 3


def test_what_a_function_raises_is_raised_here() -> None:
    with IsolatedProcess(LIMITS) as process:
        with pytest.raises(ValueError, match="not this one"):
            process.call(refuses)
        assert process.call(sum, (1, 2)) == 3


def test_killed_from_outside_once_is_nobodys_fault(tmp_path: Path) -> None:
    with IsolatedProcess(LIMITS) as process:
        assert list(process.stream(killed_the_first_time, str(tmp_path / "flag"))) == [1, 2]
        with pytest.raises(ProcessDied, match="was killed twice"):
            process.call(dies_of, signal.SIGKILL)


def test_slow_work_that_gives_signs_of_life_is_left_alone() -> None:
    with IsolatedProcess(replace(LIMITS, max_stall_s=2.0)) as process:
        assert process.call(slow_but_alive) == 7


def test_it_ends_with_its_parent() -> None:
    code = (
        "import os; from stages.video.limits import Limits;"
        "from stages.video.processes.isolated_process import IsolatedProcess;"
        "process = IsolatedProcess(Limits()); print(process.call(os.getpid), flush=True); os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    output = subprocess.run([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, check=False).stdout
    deadline = time.monotonic() + 240
    while Path(f"/proc/{int(output)}").exists():
        assert time.monotonic() < deadline, "the isolated process outlived its parent"
        time.sleep(0.1)
