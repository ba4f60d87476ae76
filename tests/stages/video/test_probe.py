"""Probing against PyAV's own reading of the headers, and against the frames that decoding finds."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from stages.video.probe import probe
from tests.stages.video.clips import encode, moving_square
from tests.stages.video.test_decode import decode, manifest_counts


def test_facts_of_a_clip(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", moving_square(30), fps=Fraction(30000, 1001))
    found = probe(path)
    assert (found.codec, found.pixel_format, found.width, found.height) == ("h264", "yuv420p", 64, 48)
    assert (found.frames_expected, found.verdict, found.reason) == (30, "ok", "")
    assert found.fps == pytest.approx(30000 / 1001)
    assert found.duration_us == pytest.approx(30 * 1001 / 30000 * 1e6, abs=100)


def test_real_video_promises_what_decodes(shared_data: Path) -> None:
    for name, decoded in manifest_counts(shared_data, "web"):
        found = probe(shared_data / name)
        assert (name, found.frames_expected, found.verdict) == (name, decoded, "ok")
        with av.open(str(shared_data / name)) as container:
            stream = container.streams.best("video")
            assert stream is not None
            sides = {stream.width, stream.height}
            assert (found.codec, {found.width, found.height}) == (stream.codec_context.name, sides)


def test_displayed_size_is_after_rotation(shared_data: Path) -> None:
    found = probe(shared_data / "odd/torchcodec_nasa_13013_rotated.mp4")
    assert (found.width, found.height, found.rotation_degrees) == (270, 480, 270)
    found = probe(shared_data / "odd/mp4parse_video_rotation_90.mp4")
    assert (found.width, found.height, found.rotation_degrees) == (60, 100, 90)
    found = probe(shared_data / "web/moviepy_fire2.mp4")
    assert (found.width, found.height, found.rotation_degrees) == (1280, 720, 180)


def test_audio_only(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux([*stream.encode(frame), *stream.encode(None)])
    found = probe(tmp_path / "a.mp4")
    assert (found.verdict, found.reason) == ("rejected", "holds no video stream, only audio")


def test_frames_that_an_edit_list_cuts_away_are_dropped(tmp_path: Path) -> None:
    """An MP4 of 50 frames whose edit list, patched to half its length, shows the first 25."""
    path = encode(tmp_path / "a.mp4", moving_square(50), options={"bf": "0", "g": "5"})
    data = bytearray(path.read_bytes())
    position = data.index(b"elst")
    duration = struct.unpack_from(">I", data, position + 12)[0]
    struct.pack_into(">I", data, position + 12, duration // 2)
    path.write_bytes(data)
    _, report = decode(path)
    with av.open(str(path)) as container:
        shown = sum(1 for _ in container.decode(video=0))
    assert 25 <= shown < 30
    assert (report.frames_decoded, report.frames_dropped, report.frames_missing) == (shown, 50 - shown, 0)
    assert report.verdict == "ok"


def test_truncation_shows_before_decoding(tmp_path: Path) -> None:
    frames = moving_square(60)
    path = encode(tmp_path / "a.mp4", frames, options={"g": "12"}, container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    found = probe(path)
    assert found.verdict == "partial"
    assert found.frames_expected == 60
    assert found.reason == f"{found.timeline.num_unreadable} of 60 frames are not in the file"
