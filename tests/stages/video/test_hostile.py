"""Files that mean harm or have come to harm: nothing raises, nothing hangs, nothing is lost without a word."""

from __future__ import annotations

import gc
import os
import shutil
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.video.decode import DecodeConfig, VideoDecoder
from stages.video.limits import Limits
from stages.video.probe import probe
from tests.stages.video.clips import encode, ffmpeg_count, moving_square
from tests.stages.video.damage import decode_and_check, write_harmed
from tests.stages.video.test_decode import NATIVE, decode, join


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same 60 frames in containers that fail in different ways."""
    folder = tmp_path_factory.mktemp("hostile")
    frames = moving_square(60)
    h264 = {"g": "12", "bf": "2"}
    return {
        "mp4": encode(folder / "a.mp4", frames, options=h264, container_options={"movflags": "faststart"}),
        "mkv": encode(folder / "a.mkv", frames, options=h264),
        "avi": encode(folder / "a.avi", frames, codec="mpeg4", options={"g": "12"}),
        "ts": encode(folder / "a.ts", frames, options=h264),
        "webm": encode(folder / "a.webm", frames, codec="libvpx-vp9", options={"g": "12", "cpu-used": "8"}),
    }


def is_rejected(path: Path, reason: str, limits: Limits | None = None) -> None:
    chunks, report = decode(path, NATIVE, limits=limits or Limits())
    assert chunks == []
    assert report.verdict == "rejected"
    assert reason in report.reason
    assert probe(path, limits).verdict == "rejected"


def test_empty_missing_and_foreign_files(tmp_path: Path) -> None:
    for name, data in (("empty.mp4", b""), ("text.mp4", b"Dear diary,\n" * 50), ("noise.mkv", os.urandom(5000))):
        (tmp_path / name).write_bytes(data)
    is_rejected(tmp_path / "empty.mp4", "0 bytes")
    is_rejected(tmp_path / "text.mp4", "cannot be opened as a video")
    is_rejected(tmp_path / "noise.mkv", "cannot be opened as a video")
    is_rejected(tmp_path / "nowhere.mp4", "No such file")
    (tmp_path / "folder.mp4").mkdir()
    is_rejected(tmp_path / "folder.mp4", "cannot be opened as a video")


@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{clip}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {clip}\n",
    ],
)
def test_playlists_do_not_open_other_files(tmp_path: Path, clips: dict[str, Path], playlist: str) -> None:
    shutil.copy(clips["ts"], tmp_path / "a.ts")
    (tmp_path / "list.mp4").write_text(playlist.format(clip="a.ts"))
    is_rejected(tmp_path / "list.mp4", "cannot be opened as a video")


def test_header_of_a_hundred_thousand_pixels(tmp_path: Path) -> None:
    (tmp_path / "huge.y4m").write_bytes(b"YUV4MPEG2 W100000 H100000 F25:1 C420jpeg\nFRAME\n" + bytes(10_000))
    is_rejected(tmp_path / "huge.y4m", "")
    (tmp_path / "wide.y4m").write_bytes(b"YUV4MPEG2 W100000 H400 F25:1 C420jpeg\nFRAME\n" + bytes(60_000_000))
    is_rejected(tmp_path / "wide.y4m", "max_pixels")
    screen = b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\x80\x00\x00" + bytes(6)
    image = b"," + struct.pack("<HHHH", 0, 0, 65535, 65535) + b"\x00\x02\x02\x44\x01\x00;"
    (tmp_path / "huge.gif").write_bytes(screen + image)
    is_rejected(tmp_path / "huge.gif", "")


def test_endless_gif_ends(tmp_path: Path) -> None:
    path = encode(
        tmp_path / "a.gif", moving_square(12), codec="gif", pixel_format="rgb8", container_options={"loop": "0"}
    )
    assert b"NETSCAPE2.0" in path.read_bytes()
    _, report = decode(path)
    assert (report.frames_decoded, report.verdict) == (12, "ok")


def test_limits(clips: dict[str, Path]) -> None:
    is_rejected(clips["mp4"], "64x48 frames, more than max_pixels = 3000", Limits(max_pixels=3000))
    is_rejected(clips["mp4"], "max_duration_s = 1 s", Limits(max_duration_s=1.0))
    is_rejected(clips["mp4"], "max_frames = 10", Limits(max_frames=10))


def test_slow_decoding_is_given_up(clips: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that says 60.5 s where 60 s and a tenth of the video's 2.4 s are allowed."""
    monkeypatch.setattr("stages.video.decode._Stopwatch.seconds", 60.5)
    decoder = VideoDecoder(clips["mp4"], NATIVE, limits=Limits(max_decode_s_per_s=0.1), chunk_frames=1)
    assert len(list(decoder)) < 60
    assert (decoder.report.verdict, decoder.report.frames_missing) == ("rejected", 60)
    assert "took more than 60 s to decode" in decoder.report.reason


@pytest.mark.parametrize(
    "name", ["! # [ ] ( ) & ; %03d.mp4", "line\nbreak.mp4", "🎬 film.mp4", "http:x::y~.mp4", "'\".mp4"]
)
def test_any_name_will_do(tmp_path: Path, clips: dict[str, Path], name: str) -> None:
    shutil.copy(clips["mp4"], tmp_path / name)
    _, report = decode(tmp_path / name)
    assert (report.frames_decoded, report.verdict) == (60, "ok")


def test_one_frame_and_one_pixel(tmp_path: Path) -> None:
    one = encode(tmp_path / "one.mkv", moving_square(1), codec="mjpeg", pixel_format="yuvj420p")
    chunks, report = decode(one, DecodeConfig())
    assert (report.frames_decoded, chunks[0].frames_NHWC.shape) == (1, (1, 224, 224, 3))
    tiny = encode(tmp_path / "tiny.mkv", np.full((3, 1, 1, 3), 99, np.uint8), codec="ffv1", pixel_format="bgr0")
    chunks, report = decode(tiny, DecodeConfig())
    assert (report.frames_decoded, report.verdict) == (3, "ok")
    assert np.all(chunks[0].frames_NHWC == 99)


@pytest.mark.parametrize("kind", ["mp4", "mkv", "avi", "ts", "webm"])
@pytest.mark.parametrize("fraction", [0.6, 0.8])
def test_truncated_files_keep_what_is_there(tmp_path: Path, clips: dict[str, Path], kind: str, fraction: float) -> None:
    data = clips[kind].read_bytes()
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(data[: int(len(data) * fraction)])
    chunks, report = decode(path)
    assert report.frames_decoded == ffmpeg_count(path)
    assert report.frames_decoded > (0 if kind == "avi" else 5)
    whole, _ = decode(clips[kind])
    sound = max(0, report.frames_decoded - 4)
    assert np.array_equal(join(chunks, "frames_NHWC")[:sound], join(whole, "frames_NHWC")[:sound])
    if kind != "ts":  # a transport stream does not say how long it should be
        assert report.verdict == "partial"
        assert abs(report.frames_expected - 60) <= 1


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_a_hole_is_a_gap(tmp_path: Path, clips: dict[str, Path], kind: str) -> None:
    """Zeros in the middle: the frames around the hole keep their numbers, and a gap lies between them."""
    data = bytearray(clips[kind].read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    path = tmp_path / f"hole.{kind}"
    path.write_bytes(data)
    chunks, report = decode(path)
    whole, _ = decode(clips[kind])
    assert report.verdict == "partial"
    assert report.frames_decoded == ffmpeg_count(path)
    times = dict(zip(join(whole, "pts_us_N").tolist(), range(60), strict=True))
    index, pts_us = join(chunks, "index_N"), join(chunks, "pts_us_N")
    assert index.tolist() == [times[time_us] for time_us in pts_us.tolist()]


@pytest.mark.parametrize("number", [13, 14, 24, 40])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_frames_after_damage_can_be_dropped(
    tmp_path: Path, clips: dict[str, Path], number: int, num_threads: int
) -> None:
    """One packet wiped out: every frame that is kept is the sound file's, to the bit, up to the video's end."""
    with av.open(str(clips["mp4"])) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][number]
        assert packet.pos is not None
    data = bytearray(clips["mp4"].read_bytes())
    data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path = tmp_path / "hole.mp4"
    path.write_bytes(data)
    chunks, report = decode(path, replace(NATIVE, after_damage="drop"), num_threads=num_threads)
    whole, _ = decode(clips["mp4"])
    index = join(chunks, "index_N")
    assert report.verdict == "partial"
    assert 40 <= report.frames_decoded < 60
    assert index[-1] == 59
    assert np.array_equal(join(chunks, "frames_NHWC"), join(whole, "frames_NHWC")[index])


@settings(max_examples=75, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(["mp4", "mkv", "avi", "ts", "webm"]), seed=st.integers(0, 2**32 - 1))
def test_random_damage(tmp_path: Path, clips: dict[str, Path], kind: str, seed: int) -> None:
    """Up to three misfortunes: never an exception, an account that closes, the same one again, FFmpeg's count."""
    path = write_harmed(clips[kind], tmp_path / f"bad.{kind}", seed)
    config = DecodeConfig(short_side_px=16, crop_px=16, rate_fps=7.0 if seed % 2 else None)
    found = decode_and_check(str(path), config)
    assert decode_and_check(str(path), config) == found
    if config.rate_fps is None and found.report.verdict != "rejected":
        assert found.report.frames_decoded == ffmpeg_count(path)


@pytest.mark.parametrize("seed", [3])
def test_damage_gives_the_same_pixels_in_every_run(tmp_path: Path, seed: int) -> None:
    """What FFmpeg leaves unwritten of a damaged frame is what its recycled buffer held: a frame that is kept alive for
    a while changes later ones. Side by side, so that garbage is collected at any moment."""
    frames = moving_square(60)
    sources = [
        encode(tmp_path / "a.mpg", frames, codec="mpeg2video"),
        encode(tmp_path / "a.webm", frames, codec="libvpx"),
        encode(tmp_path / "a.mp4", frames, codec="libx265", options={"x265-params": "keyint=12:log-level=none"}),
    ]
    for source in sources:
        rng = np.random.default_rng(seed)
        data = np.frombuffer(source.read_bytes(), np.uint8).copy()
        for position in rng.integers(0, len(data), rng.integers(1, 20)):
            data[position] ^= 1 << rng.integers(0, 8)
        source.write_bytes(data.tobytes())
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda path: decode_and_check(str(path), NATIVE), sources * 12))
    for first, *others in (found[number::3] for number in range(3)):
        assert all(other == first for other in others)


def test_no_frame_outlives_its_use(clips: dict[str, Path]) -> None:
    """Without the collector: what is left over after decoding would be frames in reference cycles."""
    gc.collect()
    gc.disable()
    try:
        decode(clips["mp4"])
        num_frames = sum(type(thing) is av.VideoFrame for thing in gc.get_objects())
    finally:
        gc.enable()
    assert num_frames <= 1  # that of the probe
