"""Turning against the display matrix itself; sizes against exact fractions; colour against BT.601 and BT.709."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from av.filter import Graph
from hypothesis import given
from hypothesis import strategies as st

from stages.video.filters import FrameRefusedError, Matrix, UprightRgb, rotation_degrees, scaled_size, turn_filters

ONE = 1 << 16


@pytest.mark.parametrize("matrix", [(s * ONE, 0, 0, t * ONE) for s in (1, -1) for t in (1, -1)]
                         + [(0, s * ONE, t * ONE, 0) for s in (1, -1) for t in (1, -1)])  # fmt: skip
def test_turning_does_what_the_matrix_says(matrix: Matrix) -> None:
    """A stored pixel (x, y) is shown at (a x + c y, b x + d y), moved so that the picture starts at 0."""
    image = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    a, b, c, d = (value // ONE for value in matrix)
    y, x = np.mgrid[:5, :7]
    shown_x, shown_y = a * x + c * y, b * x + d * y
    shown_x, shown_y = shown_x - shown_x.min(), shown_y - shown_y.min()
    expected = np.zeros((shown_y.max() + 1, shown_x.max() + 1, 3), np.uint8)
    expected[shown_y, shown_x] = image
    assert np.array_equal(_filtered(image, turn_filters(matrix)), expected)


def _filtered(image: Any, filters: Any) -> Any:
    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
    graph = Graph()
    nodes = [graph.add_buffer(width=7, height=5, format="rgb24", time_base=Fraction(1, 25))]
    nodes += [graph.add(name, arguments) for name, arguments in filters]
    graph.link_nodes(*nodes, graph.add("buffersink")).configure()
    graph.vpush(frame)
    return graph.vpull().to_ndarray()


@pytest.mark.parametrize(
    ("matrix", "degrees"),
    [
        (None, 0),
        ((ONE, 0, 0, ONE), 0),
        ((0, ONE, -ONE, 0), 90),
        ((-ONE, 0, 0, -ONE), 180),
        ((0, -ONE, ONE, 0), 270),
        ((-ONE, 0, 0, ONE), 0),
        ((0, 0, 0, 0), 0),
        ((46341, 46341, -46341, 46341), 0),
    ],
)
def test_degrees(matrix: Matrix | None, degrees: int) -> None:
    assert rotation_degrees(matrix) == degrees


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 600))
def test_scaled_size_keeps_the_shape(width: int, height: int, short: int) -> None:
    scaled = scaled_size(width, height, short)
    assert min(scaled) == short
    exact = Fraction(max(width, height) * short, min(width, height))
    assert abs(max(scaled) - exact) <= Fraction(1, 2)
    assert (scaled[0] >= scaled[1]) == (width >= height) or scaled[0] == scaled[1]


KR_KB = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}
COLORSPACE = {"bt601": 5, "bt709": 1}


@pytest.mark.parametrize("standard", ["bt601", "bt709"])
@pytest.mark.parametrize("is_full", [False, True])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p", "yuv420p10le"])
def test_colour_follows_the_standard(standard: str, is_full: bool, pixel_format: str) -> None:
    """Flat colours, converted with the matrix written out. swscale rounds down along the way; a wrong matrix or range
    would be off by 8 levels and more."""
    kr, kb = KR_KB[standard]
    depth = 10 if pixel_format.endswith("10le") else 8
    for luma, cb, cr in ((120, 90, 160), (60, 140, 120), (180, 128, 128), (100, 170, 100)):
        frame = _flat(pixel_format, [value << (depth - 8) for value in (luma, cb, cr)], depth)
        frame.colorspace, frame.color_range = COLORSPACE[standard], 2 if is_full else 1
        y = luma / 255 if is_full else (luma - 16) / 219
        pb, pr = ((c - 128) / (255 if is_full else 224) for c in (cb, cr))
        red, blue = y + 2 * (1 - kr) * pr, y + 2 * (1 - kb) * pb
        green = (y - kr * red - kb * blue) / (1 - kr - kb)
        expected = np.clip(np.array([red, green, blue]) * 255, 0, 255)
        rgb = UprightRgb(None, None, 10_000)(frame)
        assert np.ptp(rgb.reshape(-1, 3), axis=0).max() == 0
        np.testing.assert_allclose(rgb[0, 0], expected, atol=3.0)


def _flat(pixel_format: str, levels: list[int], depth: int) -> Any:
    frame = av.VideoFrame(16, 16, pixel_format)
    for plane, level in zip(frame.planes, levels, strict=True):
        kind = np.uint16 if depth > 8 else np.uint8
        plane.update(np.full(plane.buffer_size // np.dtype(kind).itemsize, level, kind).tobytes())
    return frame


def test_graph_follows_frames_that_change() -> None:
    to_rgb = UprightRgb(24, 16, 10_000)
    for width, height in ((48, 24), (24, 60), (48, 24)):
        frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), 77, np.uint8), format="rgb24")
        assert np.array_equal(to_rgb(frame), np.full((16, 16, 3), 77, np.uint8))


def test_frame_that_would_become_too_large_is_refused() -> None:
    frame = av.VideoFrame.from_ndarray(np.zeros((2, 900, 3), np.uint8), format="rgb24")
    with pytest.raises(FrameRefusedError, match=r"108000x240, more than max_pixels = 10000000"):
        UprightRgb(240, 224, 10_000_000)(frame)
