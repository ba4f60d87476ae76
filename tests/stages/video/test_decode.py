"""Decoding against FFmpeg itself: its frames, its counts, its timestamps, its RGB."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from pipeline.core.errors import ConfigError
from stages.video.chunks import FrameChunk
from stages.video.decode import DecodeConfig, DecodeReport, VideoDecoder
from stages.video.limits import Limits
from tests.stages.video.clips import encode, ffmpeg_count, moving_square

NATIVE = DecodeConfig(short_side_px=None, crop_px=None)
SMALL = DecodeConfig(short_side_px=16, crop_px=16)


def decode(
    path: Path, config: DecodeConfig = NATIVE, **settings: int | Limits
) -> tuple[list[FrameChunk], DecodeReport]:
    """All chunks and the report, after checking what holds for every video."""
    decoder = VideoDecoder(path, config, **settings)  # type: ignore[arg-type]
    chunks = list(decoder)
    report = decoder.report
    total = report.frames_decoded + report.frames_dropped + report.frames_missing
    assert report.frames_expected == total
    assert (report.verdict == "rejected") == (report.frames_decoded == 0)
    assert (report.verdict == "ok") == (report.reason == "")
    if report.verdict != "rejected":
        index, segment = join(chunks, "index_N"), join(chunks, "segment_N")
        assert len(index) == report.frames_decoded
        assert np.all(np.diff(index) >= 1)
        assert np.array_equal(np.diff(index) > 1, np.diff(segment) == 1)
    return chunks, report


def join(chunks: list[FrameChunk], name: str) -> npt.NDArray[np.int64]:
    return np.concatenate([getattr(chunk, name) for chunk in chunks])


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    return encode(path, moving_square(60), options={"g": "12", "bf": "2"}, container_options={"movflags": "faststart"})


LARGER_STREAMS = {"web/torchcodec_nasa_13013.mp4": 390}
"""Frames of the stream that ffmpeg takes, where it is not the first one, which MANIFEST.md counts."""


def manifest_counts(shared_data: Path, folder: str) -> Iterator[tuple[str, int]]:
    for line in (shared_data / "MANIFEST.md").read_text().splitlines():
        found = re.match(rf"\| ({folder}/\S.*?) \|.* n=(\d+) ", line)
        if found:
            yield found[1], LARGER_STREAMS.get(found[1], int(found[2]))


def test_counts_of_real_video_are_ffmpegs(shared_data: Path) -> None:
    """The counts in MANIFEST.md were taken with PyAV's plain loop; all of these files are whole."""
    counts = dict(manifest_counts(shared_data, "web"))
    assert len(counts) == 22
    for name, expected in counts.items():
        _, report = decode(shared_data / name, SMALL)
        assert (name, report.frames_decoded, report.verdict) == (name, expected, "ok")
        assert report.frames_missing == 0


def test_counts_of_odd_video_are_ffmpegs(shared_data: Path) -> None:
    verdicts = {}
    for path in sorted((shared_data / "odd").iterdir()):
        _, report = decode(path, SMALL)
        assert (path.name, report.frames_decoded) == (path.name, ffmpeg_count(path))
        verdicts[path.name] = report.verdict
    rejected = {name for name, verdict in verdicts.items() if verdict == "rejected"}
    assert rejected == {
        "mp4parse_amr_nb_1f.3gp",
        "mp4parse_bipbop_nonfragment_header.mp4",
        "mp4parse_invalid_userdata.mp4",
        "mp4parse_small.mp4",
        "mp4parse_zero_empty_stsc.mp4",
    }
    partial = {name for name, verdict in verdicts.items() if verdict == "partial"}
    assert partial == {"decord_corrupted.mp4", "mp4parse_no_timescale.mp4"}


def test_edit_list_discards_are_dropped(shared_data: Path) -> None:
    _, report = decode(shared_data / "odd/torchcodec_discard_first_keyframe.mp4", SMALL)
    assert (report.frames_expected, report.frames_decoded, report.frames_dropped) == (30, 25, 5)


CHROMA_SITED = {"torchcodec_bt2020_10bit.mp4", "torchcodec_testsrc2_odd_height_and_width_mpeg2.mp4"}
"""Where FFmpeg's scale filter knows, and PyAV's plain conversion does not, where chroma samples lie between pixels."""


@pytest.mark.parametrize(
    "name",
    [
        "torchcodec_bt601_full_range.mp4",
        "torchcodec_unspecified_limited_range.mp4",
        "torchcodec_bt2020_10bit.mp4",
        "torchcodec_testsrc2_444_8bit_hevc.mp4",
        "torchcodec_testsrc2_444_10bit_hevc.mp4",
        "torchcodec_testsrc2_odd_height_and_width_vp9_10bit.mp4",
        "torchcodec_testsrc2_odd_height_and_width_mpeg2.mp4",
        "torchcodec_sine_stereo_mp2.mpg",
        "decord_video_0.mov",
        "moviepy_test_video.mp4",
    ],
)
def test_rgb_is_what_swscale_gives(shared_data: Path, name: str) -> None:
    path = shared_data / "odd" / name
    chunks, _ = decode(path)
    images = iter(np.concatenate([chunk.frames_NHWC for chunk in chunks]))
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            reference = frame.to_ndarray(format="rgb24", interpolation="BICUBIC")
            if name in CHROMA_SITED:
                assert np.abs(next(images).astype(int) - reference).mean() < 4.0
            else:
                assert np.array_equal(next(images), reference)


@pytest.mark.parametrize(
    "name", ["torchcodec_nasa_13013_rotated.mp4", "decord_video_270.mov", "mp4parse_video_rotation_90.mp4"]
)
def test_rotated_video_comes_out_upright(shared_data: Path, name: str) -> None:
    """PyAV gives the counterclockwise turn of the display matrix; NumPy turns the stored picture by it."""
    path = shared_data / "odd" / name
    chunks, _ = decode(path)
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0))
        turned = np.rot90(stored.to_ndarray(format="rgb24", interpolation="BICUBIC"), stored.rotation // 90)
    assert np.array_equal(chunks[0].frames_NHWC[0], turned)
    assert chunks[0].frames_NHWC.shape[1] > chunks[0].frames_NHWC.shape[2]


def test_scaling_and_cropping_are_swscales(tmp_path: Path) -> None:
    """64x48 to a short side of 32 is 43x32 (42.67 rounded); the central 20x20 starts at (11, 6)."""
    path = encode(tmp_path / "a.mkv", moving_square(2), pixel_format="yuv444p")
    chunks, _ = decode(path, DecodeConfig(short_side_px=32, crop_px=20))
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        reference = frame.to_ndarray(format="rgb24", width=43, height=32, interpolation="BICUBIC")
    assert np.array_equal(chunks[0].frames_NHWC[0], reference[6:26, 11:31])


def test_timestamps_are_the_containers(clip: Path) -> None:
    chunks, _ = decode(clip, chunk_frames=7)
    with av.open(str(clip)) as container:
        times = [round(frame.time * 1e6) for frame in container.decode(video=0)]
    assert join(chunks, "pts_us_N").tolist() == times
    assert join(chunks, "index_N").tolist() == list(range(60))
    assert [len(chunk.index_N) for chunk in chunks] == [7] * 8 + [4]


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [
        ("a.mkv", "libx264", "yuv420p"),
        ("a.webm", "libvpx", "yuv420p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.mpg", "mpeg2video", "yuv420p"),
        ("a.ts", "libx264", "yuv420p"),
        ("a.flv", "libx264", "yuv420p"),
        ("a.gif", "gif", "rgb8"),
        ("a.mov", "mjpeg", "yuvj420p"),
    ],
)
def test_containers_and_codecs(tmp_path: Path, name: str, codec: str, pixel_format: str) -> None:
    options = {"libvpx": {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "50k"}, "mpeg4": {"bf": "2"}}.get(codec)
    path = encode(tmp_path / name, moving_square(50), codec=codec, pixel_format=pixel_format, options=options)
    chunks, report = decode(path)
    assert (report.frames_decoded, report.frames_missing, report.verdict) == (50, 0, "ok")
    assert ffmpeg_count(path) == 50
    assert np.all(np.diff(join(chunks, "pts_us_N")) > 0)


@pytest.mark.parametrize(("fps", "rate", "expected"), [(30, 10.0, 20), (25, 10.0, 24), (30, 60.0, 60), (25, 0.5, 2)])
def test_target_rate(tmp_path: Path, fps: int, rate: float, expected: int) -> None:
    path = encode(tmp_path / "a.mkv", moving_square(60), fps=Fraction(fps))
    chunks, report = decode(path, DecodeConfig(short_side_px=None, crop_px=None, rate_fps=rate))
    every, _ = decode(path)
    assert (report.frames_decoded, report.frames_dropped, report.frames_expected) == (expected, 60 - expected, 60)
    assert join(chunks, "index_N").tolist() == list(range(expected))
    times = join(chunks, "pts_us_N")
    assert np.all(np.abs(times - np.arange(expected) * 1e6 / min(rate, fps)) < 1e6 / fps)
    numbers = np.searchsorted(join(every, "pts_us_N"), times)
    assert np.array_equal(join(chunks, "frames_NHWC"), join(every, "frames_NHWC")[numbers])


def test_target_rate_follows_the_timestamps_of_variable_rate_video(tmp_path: Path) -> None:
    pts = [0, 1, 2, 3, 10, 20, 21, 22, 30]
    path = encode(tmp_path / "a.mp4", moving_square(9), fps=Fraction(25), pts=pts, options={"bf": "0"})
    chunks, report = decode(path, DecodeConfig(short_side_px=None, crop_px=None, rate_fps=2.5))
    assert (join(chunks, "pts_us_N") // 40_000).tolist() == [0, 10, 20, 30]
    assert (report.frames_decoded, report.frames_dropped) == (4, 5)


@pytest.mark.parametrize("num_threads", [0, 2])
def test_threads_change_nothing(clip: Path, num_threads: int) -> None:
    one, report = decode(clip)
    many, same = decode(clip, num_threads=num_threads)
    assert report == same
    assert np.array_equal(join(one, "frames_NHWC"), join(many, "frames_NHWC"))


def test_large_frames_come_in_small_chunks(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.video.chunks.CHUNK_BYTES", 3 * 64 * 48 * 3 + 1)
    chunks, _ = decode(clip)
    assert [chunk.frames_NHWC.shape for chunk in chunks] == [(3, 48, 64, 3)] * 20


def test_config_rules() -> None:
    with pytest.raises(ConfigError, match="short_side_px >= crop_px"):
        DecodeConfig(short_side_px=100, crop_px=224)
    with pytest.raises(ConfigError, match="rate_fps is 0"):
        DecodeConfig(rate_fps=0.0)
    with pytest.raises(ConfigError, match="max_pixels is -1"):
        Limits(max_pixels=-1)
