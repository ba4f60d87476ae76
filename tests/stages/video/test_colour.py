"""Colour bars, encoded with every tag, against the matrices of the standards written out in NumPy.

The authority is the arithmetic of ITU-R BT.601-7, BT.709-6 and BT.2020-2: luma coefficients, and the ranges of 8 and
more bits. The YUV levels of the bars are computed by it, encoded without loss and decoded; what comes out must be the
bars' RGB.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from stages.video.decode import DecodeConfig, VideoDecoder
from stages.video.probe import probe

KR_KB = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}
TAGS = {"bt601": 6, "bt709": 1, "bt2020": 9}
"""AVColorSpace: SMPTE 170M, BT.709, BT.2020 with non-constant luminance."""
LIMITED, FULL = 1, 2
BARS_RGB = np.array(
    [(191, 191, 191), (191, 191, 0), (0, 191, 191), (0, 191, 0), (191, 0, 191), (191, 0, 0), (0, 0, 191), (20, 60, 120)]
)
"""75% bars (SMPTE EG 1), and one that no matrix leaves alone."""
BAR_PX = 32
FORMATS = {
    "yuv420p": (8, 2, 2),
    "yuv422p": (8, 2, 1),
    "yuv444p": (8, 1, 1),
    "yuv420p10le": (10, 2, 2),
    "yuv422p10le": (10, 2, 1),
    "yuv444p10le": (10, 1, 1),
    "yuv420p12le": (12, 2, 2),
    "yuv444p12le": (12, 1, 1),
}
"""(bits, horizontal and vertical subsampling of chroma)."""


def yuv_levels(rgb: npt.NDArray[np.int64], standard: str, color_range: int, bits: int) -> npt.NDArray[np.int64]:
    """(..., 3) integer Y, Cb, Cr of (..., 3) RGB in 0..255: BT.601-7, 2.5.1 to 2.5.4, and its successors."""
    kr, kb = KR_KB[standard]
    red, green, blue = np.moveaxis(rgb / 255, -1, 0)
    y = kr * red + (1 - kr - kb) * green + kb * blue
    pb, pr = (blue - y) / (2 * (1 - kb)), (red - y) / (2 * (1 - kr))
    unit, largest = 1 << (bits - 8), (1 << bits) - 1
    if color_range == FULL:
        levels = y * largest, pb * largest + (largest + 1) / 2, pr * largest + (largest + 1) / 2
    else:
        levels = (219 * y + 16) * unit, (224 * pb + 128) * unit, (224 * pr + 128) * unit
    return np.stack([np.rint(level).clip(0, largest).astype(np.int64) for level in levels], -1)


def write_bars(
    path: Path, codec: str, pixel_format: str, standard: str, color_range: int, *, tag: int | None, height: int = 64
) -> Path:
    """Three frames of the bars. `tag`: the matrix that the file names."""
    bits, across, down = FORMATS[pixel_format]
    levels = yuv_levels(BARS_RGB, standard, color_range, bits)
    width = BAR_PX * len(BARS_RGB)
    options = {"libx264": {"qp": "0", "preset": "ultrafast"}, "libx265": {"x265-params": "lossless=1:log-level=none"}}
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(25), options=options.get(codec, {}))
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.codec_context.colorspace = 2 if tag is None else tag
        stream.codec_context.color_range = color_range
        for number in range(3):
            frame: Any = av.VideoFrame(width, height, pixel_format)
            for plane, values, (step_x, step_y) in zip(
                frame.planes, levels.T, ((1, 1), (across, down), (across, down)), strict=True
            ):
                dtype = np.dtype("<u2" if bits > 8 else np.uint8)
                row = np.repeat(values, BAR_PX // step_x).astype(dtype)
                padded = np.zeros((height // step_y, plane.line_size // dtype.itemsize), dtype)
                padded[:, : len(row)] = row
                plane.update(padded.tobytes())
            frame.pts, frame.colorspace, frame.color_range = number, 2 if tag is None else tag, color_range
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def bars_of(path: Path) -> npt.NDArray[np.int64]:
    """(bars, 3) colours in the middle of the decoded bars, which must be flat there."""
    decoder = VideoDecoder(path, DecodeConfig(short_side_px=None, crop_px=None))
    (chunk,) = decoder
    assert decoder.report.frames_decoded == 3
    middles = chunk.frames_NHWC[:, 8:-8].reshape(3, -1, len(BARS_RGB), BAR_PX, 3)[..., 8:-8, :]
    assert np.ptp(middles.astype(int), axis=(0, 1, 3)).max() <= 1
    return middles[0, 0, :, 0].astype(np.int64)


TOLERANCE = 3
"""swscale multiplies in fixed point; the nearest wrong matrix or range is off by 8 levels and more on these bars."""


@pytest.mark.parametrize("color_range", [LIMITED, FULL])
@pytest.mark.parametrize("standard", list(KR_KB))
@pytest.mark.parametrize("pixel_format", list(FORMATS))
def test_every_format_matrix_and_range(tmp_path: Path, pixel_format: str, standard: str, color_range: int) -> None:
    path = write_bars(tmp_path / "a.mkv", "ffv1", pixel_format, standard, color_range, tag=TAGS[standard])
    np.testing.assert_allclose(bars_of(path), BARS_RGB, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("codec", "name", "pixel_format"),
    [
        ("libx264", "a.mp4", "yuv420p"),
        ("libx264", "a.mp4", "yuv444p"),
        ("libx264", "a.mkv", "yuv420p10le"),
        ("libx265", "a.mp4", "yuv420p10le"),
        ("libx265", "a.mp4", "yuv444p12le"),
    ],
)
@pytest.mark.parametrize(("standard", "color_range"), [("bt601", FULL), ("bt709", LIMITED), ("bt2020", LIMITED)])
def test_codecs_carry_the_tags(
    tmp_path: Path, codec: str, name: str, pixel_format: str, standard: str, color_range: int
) -> None:
    path = write_bars(tmp_path / name, codec, pixel_format, standard, color_range, tag=TAGS[standard])
    np.testing.assert_allclose(bars_of(path), BARS_RGB, atol=TOLERANCE)


@pytest.mark.parametrize("height", [480, 1080])
def test_without_a_tag_it_is_bt601_at_every_size_as_in_ffmpeg(tmp_path: Path, height: int) -> None:
    path = write_bars(tmp_path / "a.mkv", "ffv1", "yuv444p", "bt601", LIMITED, tag=None, height=height)
    assert probe(path).height == height
    np.testing.assert_allclose(bars_of(path), BARS_RGB, atol=TOLERANCE)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert int(frame.colorspace) == 2
        middle = frame.to_ndarray(format="rgb24")[height // 2, BAR_PX // 2 :: BAR_PX]
    np.testing.assert_allclose(middle, BARS_RGB, atol=TOLERANCE)


def test_a_wrong_matrix_or_range_would_show(tmp_path: Path) -> None:
    """The tolerance means something: bars of one standard under the tag of another."""
    for standard, color_range, other in (
        ("bt709", LIMITED, "bt601"),
        ("bt601", LIMITED, "bt709"),
        ("bt2020", LIMITED, "bt709"),
    ):
        path = write_bars(tmp_path / "a.mkv", "ffv1", "yuv444p", standard, color_range, tag=TAGS[other])
        assert np.abs(bars_of(path) - BARS_RGB).max() > 2 * TOLERANCE, (standard, other)


def test_pixels_that_are_not_square_are_not_stretched(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    (chunk,) = VideoDecoder(tmp_path / "a.mkv", DecodeConfig(short_side_px=24, crop_px=None))
    assert chunk.frames_NHWC.shape == (1, 24, 32, 3)
