"""The check of windows: short videos are known once they are indexed, before anything is decoded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.errors import SourceError
from pipeline.recipes.window_check import WindowCheck
from pipeline.recipes.youtube import YoutubeOptions, build
from stages.video.artifacts import Index
from stages.video.ledger import VideoRecord, write_records


def index_of(folder: Path, *videos: tuple[str, int, float]) -> Index:
    """An index of videos: part, frames, seconds."""
    records = [
        VideoRecord(
            uri=f"/{number}.mp4",
            sha256=f"{number:064}",
            size_bytes=1,
            frames_expected=frames,
            duration_us=round(seconds * 1e6),
            verdict="ok",
            part=part,
        )
        for number, (part, frames, seconds) in enumerate(videos)
    ]
    write_records(str(folder / "index.parquet"), records)
    return Index(str(folder))


CHECK = WindowCheck(num_frames=29, num_frames_scored=40, rate_fps=10.0, learned=("unlabelled",), scored=("test",))


def test_what_is_said_of_short_videos(tmp_path: Path) -> None:
    index = index_of(tmp_path, ("unlabelled", 90, 3.0), ("unlabelled", 60, 2.0), ("test", 90, 3.0))
    assert list(CHECK(index)) == [
        "1 of 2 videos are shorter than a window of 29 frames at 10 frames/s; nothing is learned from them",
        "no video of part test is as long as a window of 40 frames at 10 frames/s: nothing will be scored",
    ]
    assert list(replace(CHECK, rate_fps=None)(index)) == []
    with pytest.raises(
        SourceError, match=r"a window is 99 frames .* the longest of 2 videos .* has at most 31 at 10 fr"
    ):
        list(replace(CHECK, num_frames=99)(index))
    with pytest.raises(
        SourceError, match="no usable video is of part train, which is learned from; parts here: test, un"
    ):
        list(replace(CHECK, learned=("train",))(index))


def test_recipe_youtube_has_the_check(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / name).write_bytes(b"x")
    plan = build(YoutubeOptions(videos=(str(tmp_path),), store=str(tmp_path / "store")))
    (node,) = [node for node in plan.nodes if node.stage.name == "ingest"]
    assert isinstance(node.check, WindowCheck)
    assert node.check.num_frames == 16 + 13
    assert all(parent is node for other in plan.nodes for parent in other.parents if parent.name == "ingest")
