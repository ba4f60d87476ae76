"""Chunks: consecutive decoded frames of one size in one array.

Shape legend: N frames of a chunk, H height, W width, C channels (R, G, B; or those of a flow stack).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.video.processes import shared_frames
from stages.video.timeline import Place

CHUNK_BYTES = 64 << 20
"""A chunk never holds more bytes than this, unless a single frame does."""


@dataclass(frozen=True)
class FrameChunk:
    """Consecutive frames of one size, in presentation order."""

    frames_NHWC: npt.NDArray[np.uint8]
    """RGB, 0 to 255; or flow stacks (`stages.video.flow`)."""
    index_N: npt.NDArray[np.int32]
    """Number of each frame among the video's frames to keep, from 0. Missing frames are counted: two frames follow
    one another without loss if and only if their indices differ by one. A frame that a damaged video shows out of
    order is kept with a jump on either side, and numbers behind it are higher by up to three."""
    pts_us_N: npt.NDArray[np.int64]
    """Presentation time on the container's clock, which need not start at 0."""
    segment_N: npt.NDArray[np.int32]
    """Rises by one at every gap: a window must lie within one segment."""


class ChunkBuilder:
    """Collects frames of one size into chunks."""

    def __init__(self, chunk_frames: int) -> None:
        self._chunk_frames = chunk_frames
        self._frames_NHWC: npt.NDArray[np.uint8] = np.empty((0, 0, 0, 3), np.uint8)
        self._places: list[Place] = []

    def add(self, place: Place, image_HWC: npt.NDArray[np.uint8]) -> Iterator[FrameChunk]:
        """Copies a frame in, and yields the chunks that this completes."""
        if self._places and self._frames_NHWC.shape[1:] != image_HWC.shape:
            yield from self.flush()
        if not self._places:
            capacity = max(1, min(self._chunk_frames, CHUNK_BYTES // image_HWC.nbytes))
            # A new array each time: the consumer may keep the last chunk.
            self._frames_NHWC = shared_frames.empty((capacity, *image_HWC.shape))
        self._frames_NHWC[len(self._places)] = image_HWC
        self._places.append(place)
        if len(self._places) == len(self._frames_NHWC):
            yield from self.flush()

    def flush(self) -> Iterator[FrameChunk]:
        """Yields what has been collected, if anything."""
        if not self._places:
            return
        places, self._places = self._places, []
        yield FrameChunk(
            self._frames_NHWC[: len(places)],
            np.array([place.index for place in places], np.int32),
            np.array([place.time_us for place in places], np.int64),
            np.array([place.segment for place in places], np.int32),
        )
