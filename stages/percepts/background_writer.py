"""A ShardWriter in a thread of its own, so that writing and hashing never hold up the computation of percepts.

Shapes: N rows (frames) of one video, D percept dimension.
"""

import threading
import time
from collections import deque
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
        self._rows: deque[Rows] = deque()
        self._waiting_bytes = 0
        self._is_ending = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self.busy_s = 0.0
        """Seconds that the thread has worked."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._changed:
            self._is_ending = True
            if kind is not None:
                self._rows.clear()
            self._changed.notify_all()
        self._thread.join()
        if kind is None:
            self._raise()

    def write(
        self,
        video: str,
        frames_N: npt.NDArray[np.int32],
        pts_us_N: npt.NDArray[np.int64],
        segments_N: npt.NDArray[np.int32],
        percepts_ND: npt.NDArray[np.float16],
    ) -> None:
        """Appends frames of one video, later: the arrays must not change any more. Raises what an earlier row did."""
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or self._waiting_bytes < MAX_WAITING_BYTES)
            self._raise()
            self._rows.append((video, frames_N, pts_us_N, segments_N, percepts_ND))
            self._waiting_bytes += percepts_ND.nbytes
            self._changed.notify_all()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        """Writes the queued rows, in the thread."""
        while (rows := self._next()) is not None:
            began = time.perf_counter()
            try:
                self._writer.write(*rows)
            except BaseException as error:  # noqa: BLE001  # raised again in the thread that calls `write`
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            self.busy_s += time.perf_counter() - began
            with self._changed:
                self._waiting_bytes -= rows[-1].nbytes
                self._changed.notify_all()

    def _next(self) -> Rows | None:
        with self._changed:
            self._changed.wait_for(lambda: self._rows or self._is_ending)
            return self._rows.popleft() if self._rows else None
