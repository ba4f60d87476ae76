"""From a decoded frame to upright RGB of the wanted size: one FFmpeg filter graph a video.

scale (which also converts to RGB) -> turn by the display matrix -> centre crop. The scale filter takes colour matrix
(BT.601, BT.709, BT.2020) and range (limited, full) from the frame, at every depth and subsampling, so at native size
the result equals `VideoFrame.to_ndarray(format="rgb24")` of PyAV. Turning and cropping happen in RGB, where chroma
subsampling cannot shift anything.

What is decided here, all of it as ffmpeg's own conversion has it:

* A video that names no matrix is taken for BT.601 at every size (players guess BT.709 from 720 lines on). One that
  names no range is limited, but for the formats that mean full range by themselves (yuvj, JPEG).
* Transfer functions are left alone: HDR (PQ, HLG) is not tone-mapped, and its RGB looks flat and dark. Primaries are
  not converted either.
* Pixels that are not square are not stretched: a convnet sees the stored pixels.

Shape legend: H height, W width, C channels (R, G, B).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
from av.filter import Graph
from av.sidedata.sidedata import SideData, Type
from av.video.frame import VideoFrame

Filter = tuple[str, str | None]
"""Name and arguments of an FFmpeg filter."""

SCALE_FLAGS = "bicubic"
"""FFmpeg's default. With further flags (accurate_rnd, full_chroma_int) the bytes would not be FFmpeg's own."""


class FrameRefusedError(ValueError):
    """A frame cannot be brought to the wanted size within the limits."""


class UprightRgb:
    """Callable: decoded frame -> uint8 HWC, a view that keeps the frame it looks into alive.

    The graph is built for the first frame and again whenever size, pixel format or colour description change.
    """

    def __init__(
        self, short_side_px: int | None, crop_px: int | None, max_pixels: int, orientation: Orientation | None = None
    ) -> None:
        """Prepares the conversion. `orientation` is that of the video's first frame, where it is known."""
        self._orientation = orientation
        self._short_side_px = short_side_px
        self._crop_px = crop_px
        self._max_pixels = max_pixels
        self._description: tuple[object, ...] | None = None
        self._graph: Graph | None = None

    def __call__(self, frame: VideoFrame) -> npt.NDArray[np.uint8]:
        """Converts a decoded frame.

        Raises:
            FrameRefusedError: the scaled frame would be too large.
            DAMAGE: FFmpeg cannot convert the frame.
        """
        if self._orientation is None or self._orientation.rotation != frame.rotation:
            self._orientation = orientation_of(frame)
        turn = turn_filters(self._orientation.matrix)
        description = (
            frame.width,
            frame.height,
            frame.format.name,
            int(frame.colorspace),
            int(frame.color_range),
            turn,
        )
        if self._graph is None or description != self._description:
            self._graph = self._build(frame, turn)
            self._description = description
        self._graph.vpush(frame)
        rgb = self._graph.vpull()
        plane = rgb.planes[0]
        rows: npt.NDArray[np.uint8] = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        return rows[: rgb.height, : rgb.width * 3].reshape(rgb.height, rgb.width, 3)

    def _build(self, frame: VideoFrame, turn: tuple[Filter, ...]) -> Graph:
        width, height = scaled_size(frame.width, frame.height, self._short_side_px)
        if width * height > self._max_pixels:
            raise FrameRefusedError(
                f"a {frame.width}x{frame.height} frame would be scaled to {width}x{height}, more than"
                f" max_pixels = {self._max_pixels}"
            )
        graph = Graph()
        # Videos are decoded side by side; threads within a graph would only get into each other's way.
        graph.threads = 1
        source = graph.add(
            "buffer",
            video_size=f"{frame.width}x{frame.height}",
            pix_fmt=frame.format.name,
            time_base="1/1000000",
            pixel_aspect="1/1",
            colorspace=str(int(frame.colorspace)),
            range=str(int(frame.color_range)),
        )
        nodes = [source, graph.add("scale", f"{width}:{height}:flags={SCALE_FLAGS}"), graph.add("format", "rgb24")]
        for name, arguments in turn:
            nodes.append(graph.add(name, arguments))
            width, height = (height, width) if name == "transpose" else (width, height)
        if self._crop_px is not None:
            size = min(self._crop_px, width, height)
            nodes.append(graph.add("crop", f"{size}:{size}:{(width - size) // 2}:{(height - size) // 2}"))
        nodes.append(graph.add("buffersink"))
        graph.link_nodes(*nodes).configure()
        return graph


def scaled_size(width: int, height: int, short_side_px: int | None) -> tuple[int, int]:
    """Returns the size with `short_side_px` as its shorter side; the longer is rounded to the nearest pixel."""
    if short_side_px is None:
        return width, height
    short = min(width, height)
    return (2 * width * short_side_px + short) // (2 * short), (2 * height * short_side_px + short) // (2 * short)


Matrix = tuple[int, int, int, int]
"""(a, b, c, d) of a display matrix: a stored pixel (x, y) is shown at (a x + c y, b x + d y), y pointing down."""


@dataclass(frozen=True)
class Orientation:
    """The orientation in which a frame is to be shown."""

    rotation: int
    """PyAV's rotation of the frame: a cheap hint that the matrix may have changed."""
    matrix: Matrix | None
    """The display matrix, where the frame has one."""


def orientation_of(frame: VideoFrame) -> Orientation:
    """Returns the frame's orientation.

    It is not read for every frame of a video: PyAV's side data and the frame refer to each other, so that the
    frame's buffer is not free before Python happens to collect garbage. Memory that FFmpeg leaves unwritten in a
    damaged frame holds the buffer's earlier content: pixels would depend on the time of that collection.
    """
    for side_data in cast(Iterable[SideData], frame.side_data):
        if side_data.type == Type.DISPLAYMATRIX:
            a, b, _, c, d = np.frombuffer(bytes(side_data), np.int32)[:5].tolist()
            return Orientation(frame.rotation, (a, b, c, d))
    return Orientation(frame.rotation, None)


def turn_filters(matrix: Matrix | None) -> tuple[Filter, ...]:
    """Returns the FFmpeg filters that apply the matrix, as ffmpeg's own autorotation; none where nothing is to be done.

    Quarter turns and mirrorings only: a matrix that is neither (or singular, as broken files have) is left alone.
    """
    if matrix is None:
        return ()
    a, b, c, d = matrix
    if a and d and not b and not c:
        return ((("hflip", None),) if a < 0 else ()) + ((("vflip", None),) if d < 0 else ())
    if b and c and not a and not d:
        down = "clock" if c < 0 else "cclock_flip"
        up = "clock_flip" if c < 0 else "cclock"
        return (("transpose", up if b < 0 else down),)
    return ()


def rotation_degrees(matrix: Matrix | None) -> int:
    """Returns the matrix's clockwise turn: 0, 90, 180 or 270 degrees; a mirroring by itself is 0."""
    match turn_filters(matrix):
        case (("transpose", "clock" | "clock_flip"),):
            return 90
        case (("transpose", _),):
            return 270
        case (_, _):
            return 180
        case _:
            return 0
