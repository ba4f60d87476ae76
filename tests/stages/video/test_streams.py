"""The stream that is decoded, in files whose first one is not the film."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from pipeline.core.errors import ConfigError
from pipeline.recipes.youtube import YOUTUBE
from stages.extraction.config import ExtractionConfig, extractor_of
from stages.ingest import probe_source
from stages.video.limits import Limits
from stages.video.probe import probe
from stages.video.sources import VideoSource

SIZES = {"small": (64, 48), "large": (128, 96)}


def write(path: Path, streams: list[tuple[str, int, bool]]) -> Path:
    """A file of streams, each of a size, a number of frames, and perhaps the flag `default`."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        made = []
        for size, num_frames, is_default in streams:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height = SIZES[size]
            stream.pix_fmt = "yuv420p"
            stream.disposition = Disposition.default if is_default else Disposition(0)
            made.append((stream, num_frames))
        for number in range(max(num_frames for _, num_frames in made)):
            for stream, num_frames in made:
                if number < num_frames:
                    image = rng.integers(0, 255, (stream.height, stream.width, 3), np.uint8)
                    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                    frame.pts, frame.time_base = number, Fraction(1, 25)
                    container.mux(stream.encode(frame))
        for stream, _ in made:
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("streams", "taken"),
    [
        ([("small", 20, False), ("large", 20, False)], 1),
        ([("large", 20, False), ("small", 20, False)], 0),
        ([("large", 20, False), ("small", 20, True)], 1),
        ([("large", 1, False), ("small", 20, False)], 1),
        ([("small", 20, False), ("small", 20, False)], 0),
    ],
)
def test_the_film_is_taken(tmp_path: Path, streams: list[tuple[str, int, bool]], taken: int) -> None:
    path = write(tmp_path / "a.mkv", streams)
    found = probe(path)
    size, num_frames, _ = streams[taken]
    assert (found.verdict, (found.width, found.height)) == ("ok", SIZES[size])
    assert found.frames_expected == num_frames
    other = streams[1 - taken][0]
    assert f"not taken: stream {1 - taken} (mpeg4, {SIZES[other][0]}x{SIZES[other][1]})" in found.other_streams


def test_the_stream_that_is_named_is_taken_and_the_others_are_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", [("small", 20, False), ("large", 20, False)])
    record = probe_source(VideoSource(uri=str(path)), Limits(video_stream=0))
    assert (record.width, record.height) == SIZES["small"]
    assert "stream 1 (mpeg4, 128x96)" in record.reason
    record = probe_source(VideoSource(uri=str(path)), Limits(video_stream=7))
    assert (record.verdict, record.reason) == (
        "rejected",
        "stream 7 (video_stream) holds no video; streams with video: 0, 1",
    )


def test_the_option_of_a_recipe_reaches_every_stage() -> None:
    options = YOUTUBE.options(videos=("clips/",), video_stream=1)
    assert options.limits == Limits(video_stream=1)
    with pytest.raises(ConfigError, match="video_stream is -1; it cannot be negative"):
        YOUTUBE.options(videos=("clips/",), video_stream=-1)


def test_a_stream_that_is_named_gives_other_percepts_and_none_keeps_the_fingerprint() -> None:
    unnamed = extractor_of(ExtractionConfig())
    assert "video_stream" not in unnamed.settings["limits"]
    named = extractor_of(ExtractionConfig(limits=Limits(video_stream=0)))
    assert named.fingerprint != unnamed.fingerprint
