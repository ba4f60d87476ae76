"""Rows of many videos, which arrive mixed, on their way into a file that has one video after the other.

Shapes: N frames of a piece of one video, D percept dimension.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from stages.convnets.engines import Percepts
from stages.extraction.decode_queue import Video
from stages.percepts.background_writer import BackgroundWriter
from stages.percepts.shards import VideoResult

MAX_BUFFERED_BYTES: Final = 256 << 20
"""Percepts that wait for earlier videos: 32,768 frames of 4096 values."""


class RejectedLate(Exception):
    """A video of which rows had been written already was rejected after all."""

    def __init__(self, video: str, result: VideoResult) -> None:
        super().__init__(video)
        self.video = video
        self.result = result


class FrameRows(NamedTuple):
    """Rows that wait for their percepts."""

    video: str
    index_N: npt.NDArray[np.int32]
    pts_us_N: npt.NDArray[np.int64]
    segment_N: npt.NDArray[np.int32]


@dataclass
class _VideoRows:
    """Rows of one video on their way into the file."""

    num_awaited: int = 0
    """Rows whose percepts are being computed."""
    buffered: list[tuple[FrameRows, Percepts]] = field(default_factory=list)
    """Rows that wait until those of earlier videos are written."""
    is_begun: bool = False
    """Rows have been written."""
    result: VideoResult | None = None


class OrderedRows:
    """Brings rows, which arrive video by video or mixed, into the file in the order of the videos."""

    def __init__(self, writer: BackgroundWriter, videos: Sequence[Video]) -> None:
        self._writer = writer
        self._rows = {video.sha256: _VideoRows() for video in videos}
        self._order = deque(self._rows)
        self._buffered_bytes = 0
        self.num_rows = 0
        """Rows that have come."""

    @property
    def is_full(self) -> bool:
        """A flag that so much is buffered that only the first unfinished video should go on."""
        return self._buffered_bytes >= MAX_BUFFERED_BYTES

    def expect(self, frames: FrameRows) -> None:
        """Registers rows whose percepts are being computed."""
        self._rows[frames.video].num_awaited += len(frames.index_N)

    def add(self, frames: FrameRows, percepts_ND: Percepts) -> None:
        """Adds computed percepts and writes every row that is now in order."""
        rows = self._rows[frames.video]
        rows.num_awaited -= len(frames.index_N)
        self.num_rows += len(frames.index_N)
        if rows.result is None or rows.result.frames_decoded:
            # A copy: a view would keep the whole batch in memory.
            rows.buffered.append((frames, percepts_ND.copy()))
            self._buffered_bytes += percepts_ND.nbytes
        self._write_ready()

    def end(self, video: str, result: VideoResult) -> None:
        """Ends a video, which has no more frames. Raises RejectedLate."""
        rows = self._rows[video]
        if result.verdict == "rejected":
            if rows.is_begun:
                raise RejectedLate(video, result)
            self._buffered_bytes -= sum(percepts_ND.nbytes for _, percepts_ND in rows.buffered)
            rows.buffered.clear()
        rows.result = result
        self._write_ready()

    def _write_ready(self) -> None:
        while self._order:
            rows = self._rows[self._order[0]]
            for frames, percepts_ND in rows.buffered:
                self._writer.write(*frames, percepts_ND)
                self._buffered_bytes -= percepts_ND.nbytes
                rows.is_begun = True
            rows.buffered.clear()
            if rows.result is None or rows.num_awaited:
                return
            self._order.popleft()

    def results(self) -> dict[str, VideoResult]:
        """Returns the results of all videos, once each has ended and all its rows are written."""
        assert not self._order
        return {video: rows.result for video, rows in self._rows.items() if rows.result is not None}
