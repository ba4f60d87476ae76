"""Ends this process when FFmpeg hangs in it, or takes all memory: nothing else stops a thread inside C code.

A worker process that can be replaced calls `arm` once. From then on, whatever is `watched` has to give a sign of life
now and then; if it does not, the process says so on stderr and dies of SIGALRM (of memory, with the exit status
OUT_OF_MEMORY). The second try then takes place in an isolated process (`isolated_process` beside this file), where only
the harmful video is lost. In a process that is not armed, watching does nothing.

A thread does the checking. It also winds up the kernel's alarm clock again and again: C code that hangs with Python's
lock held stops the thread, and then the alarm ends the process.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

CHECKS_PER_STALL = 10
"""Number of times the thread checks within the longest silence allowed; it checks once a second at least."""

OUT_OF_MEMORY = 75
"""Exit status of a process that took too much memory."""


class Heartbeat:
    """Signs of life of one piece of work."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._last_beat_s: float | None = time.monotonic()

    def beat(self) -> None:
        """Notes a sign of life now."""
        self._last_beat_s = time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Suspends the watch while the work waits for its consumer, whose silence means nothing."""
        self._last_beat_s = None
        try:
            yield
        finally:
            self._last_beat_s = time.monotonic()

    def silent_s(self, now_s: float) -> float:
        """Returns the seconds since the last sign of life; 0 while the watch is suspended."""
        beat_s = self._last_beat_s
        return 0.0 if beat_s is None else now_s - beat_s


_heartbeats: set[Heartbeat] = set()


@contextmanager
def watched(name: str) -> Iterator[Heartbeat]:
    """Watches work, which must call `beat` on the yielded heartbeat, or be `paused`."""
    heartbeat = Heartbeat(name)
    _heartbeats.add(heartbeat)
    if _armed.locked():
        _rearm_alarm()
    try:
        yield heartbeat
    finally:
        _heartbeats.discard(heartbeat)


_armed = threading.Lock()
_alarm_s = 0.0


def _rearm_alarm() -> None:
    """Sets the kernel's alarm clock later, and stops it when nothing is watched."""
    signal.setitimer(signal.ITIMER_REAL, _alarm_s if _heartbeats else 0)


def arm(max_stall_s: float, max_memory_bytes: int) -> None:
    """Arms the watchdog: this process ends when watched work is silent or takes too much memory.

    It ends when something watched is silent for `max_stall_s`, or when the process has grown by more than
    `max_memory_bytes` for each thing watched. The first call of a process counts.
    """
    if not _armed.acquire(blocking=False):
        return
    global _alarm_s
    # Twice: the thread, which can say what hangs, comes first.
    _alarm_s = 2 * max_stall_s
    arguments = (max_stall_s, max_memory_bytes, resident_bytes())
    threading.Thread(target=_watch, args=arguments, name="watchdog", daemon=True).start()


def _watch(max_stall_s: float, max_memory_bytes: int, bytes_before: int) -> None:
    while True:
        time.sleep(min(1.0, max_stall_s / CHECKS_PER_STALL))
        heartbeats, now_s = list(_heartbeats), time.monotonic()
        for heartbeat in heartbeats:
            if heartbeat.silent_s(now_s) > max_stall_s:
                _say(f"no sign of life from {heartbeat.name} for {max_stall_s:g} s")
                os.kill(os.getpid(), signal.SIGALRM)
        if heartbeats and resident_bytes() - bytes_before > max_memory_bytes * len(heartbeats):
            names = ", ".join(sorted(heartbeat.name for heartbeat in heartbeats))
            _say(f"more than {max_memory_bytes} bytes taken for each of {names}")
            os._exit(OUT_OF_MEMORY)
        _rearm_alarm()


def _say(why: str) -> None:
    sys.stderr.write(f"percepts: {why}; this process ends, and its videos are retried in isolated processes\n")
    sys.stderr.flush()


def resident_bytes() -> int:
    """Returns the memory that this process has now; where the system does not say, the most that it ever had."""
    if sys.platform == "linux":
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
