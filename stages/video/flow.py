"""Optical flow as pictures: stacks of L fields, x and y in turn, rescaled to bytes as two-stream networks take them.

    decoder = VideoDecoder("clip.mp4", DecodeConfig(flow="dis", flow_stack=10))    # chunks of 20 channels

The field of frame n says where each of its pixels is in frame n + 1, the next frame that is *kept*: with a target rate
or in video of a variable rate the two are as far apart as the timestamps say. The stack of frame n holds the fields of
frames n, n + 1, ..., n + L - 1 (Simonyan & Zisserman 2014, section 3, equation 1), channels x, y, x, y, ...

Every frame has a stack, so that flow percepts lie beside those of RGB, row by row. Where a segment ends (the video
does, or frames are missing) there is no next frame: the last field of the segment is repeated, and a segment of one
frame stands still. No field and no stack ever reaches across a gap.

Fields are computed on the luma of the whole scaled frame and cropped afterwards, so that the crop's border sees what
moves in. Displacements of -bound to +bound pixels become 0 to 255, further ones are cut off, none is 128
(round(255 (v + bound) / (2 bound)), halves to even, as in the tool that Wang et al. 2016 made their flow with).

Shape legend: N frames, H x W pixels, C = 2 L channels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.core.errors import ConfigError
from stages.video.chunks import ChunkBuilder, FrameChunk
from stages.video.timeline import Place

_cv2: Any = cv2
"""Its type stubs leave flow out."""

Algorithm = Literal["dis", "tvl1"]
Bytes = npt.NDArray[np.uint8]

MIN_SIDE_PX = 16
"""Smaller frames have nothing left on DIS's coarsest level."""


def check_algorithm(name: Algorithm) -> None:
    """Raises ConfigError where this OpenCV does not have it."""
    if name == "tvl1" and not hasattr(getattr(cv2, "optflow", None), "DualTVL1OpticalFlow_create"):
        raise ConfigError(
            "flow 'tvl1' needs OpenCV's contributed modules; put opencv-contrib-python-headless in the place of "
            "opencv-python-headless (the same version), or take flow 'dis'"
        )


def version() -> str:
    """Returns the version of the library that computes flow: another version may give other bytes."""
    return str(cv2.__version__)


class Fields:
    """Fields between frames of one size, one after the other."""

    def __init__(self, algorithm: Algorithm) -> None:
        check_algorithm(algorithm)
        # DIS cuts a frame into a strip a thread and gives other fields for other strips.
        cv2.setNumThreads(1)
        self._flow: Any = (
            _cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
            if algorithm == "dis"
            else _cv2.optflow.DualTVL1OpticalFlow_create()
        )

    def between(self, first_HW: Bytes, second_HW: Bytes) -> npt.NDArray[np.float32]:
        """Returns (H, W, 2) displacements in pixels, x right and y down, from the first luma image to the second."""
        smallest = min(first_HW.shape)
        if smallest < MIN_SIDE_PX:
            raise ConfigError(
                f"flow needs frames of {MIN_SIDE_PX} pixels and more, not {smallest}; raise short_side_px"
            )
        return np.asarray(self._flow.calc(first_HW, second_HW, None), np.float32)


def to_bytes(field_HW2: npt.NDArray[np.float32], bound_px: float, *, subtract_mean: bool) -> Bytes:
    """Returns (H, W, 2) displacements as bytes. `subtract_mean` takes the field's mean, a camera's pan, out."""
    if subtract_mean:
        field_HW2 = field_HW2 - field_HW2.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
    scaled = (field_HW2 + np.float32(bound_px)) * np.float32(255 / (2 * bound_px))
    shown: Bytes = np.rint(scaled).clip(0, 255).astype(np.uint8)
    return shown


def luma(image_HWC: Bytes) -> Bytes:
    """Returns the (H, W) BT.601 luma of an RGB frame."""
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(image_HWC), cv2.COLOR_RGB2GRAY))


class FlowStacks:
    """Callable: chunks of RGB frames -> chunks of flow stacks, with the same numbers, times and segments."""

    def __init__(
        self,
        algorithm: Algorithm,
        *,
        stack: int,
        bound_px: float,
        subtract_mean: bool,
        crop_px: int | None,
        chunk_frames: int,
    ) -> None:
        self._fields = Fields(algorithm)
        self._stack = stack
        self._bound_px = bound_px
        self._subtract_mean = subtract_mean
        self._crop_px = crop_px
        self._chunk_frames = chunk_frames
        self._waiting: deque[Place] = deque()
        """Frames of the segment whose stacks are not complete."""
        self._shown: deque[Bytes] = deque()
        """The fields known so far of the frames that wait, (h, w, 2) bytes, cropped: one fewer than these."""
        self._last: Bytes | None = None
        """The segment's last field so far."""

    def __call__(self, chunks: Iterable[FrameChunk]) -> Iterator[FrameChunk]:
        builder = ChunkBuilder(self._chunk_frames)
        before_HW: Bytes | None = None
        segment = -1
        for chunk in chunks:
            for number, image_HWC in enumerate(chunk.frames_NHWC):
                place = Place(
                    True, int(chunk.index_N[number]), int(chunk.segment_N[number]), int(chunk.pts_us_N[number])
                )
                luma_HW = luma(image_HWC)
                if before_HW is not None and (place.segment != segment or before_HW.shape != luma_HW.shape):
                    yield from self._end_segment(builder, before_HW)
                elif before_HW is not None:
                    self._last = self._shown_field(before_HW, luma_HW)
                    self._shown.append(self._last)
                self._waiting.append(place)
                if len(self._shown) == self._stack:
                    yield from builder.add(self._waiting.popleft(), self._stacked())
                    self._shown.popleft()
                before_HW, segment = luma_HW, place.segment
        if before_HW is not None:
            yield from self._end_segment(builder, before_HW)
        yield from builder.flush()

    def _shown_field(self, first_HW: Bytes, second_HW: Bytes) -> Bytes:
        field_HW2 = self._fields.between(first_HW, second_HW)
        return self._cropped(to_bytes(field_HW2, self._bound_px, subtract_mean=self._subtract_mean))

    def _cropped(self, image_HWC: Bytes) -> Bytes:
        height, width = image_HWC.shape[:2]
        if self._crop_px is None:
            return image_HWC
        size = min(self._crop_px, height, width)
        top, left = (height - size) // 2, (width - size) // 2
        cropped: Bytes = image_HWC[top : top + size, left : left + size]
        return cropped

    def _end_segment(self, builder: ChunkBuilder, last_HW: Bytes) -> Iterator[FrameChunk]:
        if self._last is None:
            still_HW2 = np.zeros((*last_HW.shape, 2), np.float32)
            self._last = self._cropped(to_bytes(still_HW2, self._bound_px, subtract_mean=False))
        while self._waiting:
            yield from builder.add(self._waiting.popleft(), self._stacked())
            if self._shown:
                self._shown.popleft()
        self._last = None

    def _stacked(self) -> Bytes:
        """Returns the stack (h, w, 2 L): the fields that are known, the last one repeated."""
        assert self._last is not None
        fields = list(self._shown)
        return np.concatenate(fields + [self._last] * (self._stack - len(fields)), axis=2)
