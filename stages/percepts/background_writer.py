"""A ShardWriter in a thread of its own, so that writing and hashing never hold up the computation of percepts.

Shapes: N rows (frames) of one video, D percept dimension.
"""

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from stages.percepts.writer import ShardWriter

MAX_WAITING_BYTES: Final = 64 << 20
"""Percepts that wait for the thread, at most, beside those of one call."""
Rows = tuple[str, npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.float16]]


class BackgroundWriter:
    """A queue that passes rows on to `writer` in the order of the calls.

    A context manager: at the end of the block every row is written; where the block raises, the rows that wait are
    dropped.
    """

    def __init__(self, writer: ShardWriter) -> None:
        self._writer = writer
        self._thread = ThreadPoolExecutor(1, "writer")
        self._waiting: deque[tuple[int, Future[None]]] = deque()
        self._waiting_bytes = 0
        self._has_failed = False
        self.busy_s = 0.0
        """Seconds that the thread has worked."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for _, written in self._waiting:
                written.result()

    def write(self, *rows: *Rows) -> None:
        """Appends rows as `ShardWriter.write`, later: they must not change any more. Raises what earlier rows did."""
        while self._waiting and (self._waiting[0][1].done() or self._waiting_bytes >= MAX_WAITING_BYTES):
            num_bytes, written = self._waiting.popleft()
            written.result()
            self._waiting_bytes -= num_bytes
        self._waiting.append((rows[-1].nbytes, self._thread.submit(self._write, *rows)))
        self._waiting_bytes += rows[-1].nbytes

    def _write(self, *rows: *Rows) -> None:
        """Writes queued rows, in the thread; none after one that could not be written."""
        if self._has_failed:
            return
        began = time.perf_counter()
        try:
            self._writer.write(*rows)
        except BaseException:
            self._has_failed = True
            raise
        self.busy_s += time.perf_counter() - began
