"""A small percept store with something to learn in it: every video goes round a circle, seen through a lens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.core.files import open_atomic, sha256_file, size_bytes
from stages.percepts.artifacts import Moments, Percepts, Statistics, write_moments
from stages.percepts.schema import Extractor
from stages.percepts.shards import LEDGER_FILE, ShardReference, write_references
from stages.percepts.writer import ShardWriter
from stages.video.ledger import VideoRecord, write_records

DIM = 8
EXTRACTOR = Extractor(settings={"made": "circles for a test"}, dim=DIM)
SHARD = "percepts/made/circles.parquet"


def name_of(number: int) -> str:
    """The sha256 of video `number`."""
    return f"{number:064x}"


def circle(number: int, num_frames: int) -> npt.NDArray[np.float16]:
    """(num_frames, DIM): each video has its own speed and phase."""
    lens = np.random.default_rng(99).standard_normal((2, DIM))
    speed, phase = np.random.default_rng(number).uniform((0.3, 0.0), (0.6, 2 * np.pi))
    angle_T = phase + speed * np.arange(num_frames)
    return (3.0 + np.stack([np.cos(angle_T), np.sin(angle_T)], axis=1) @ lens).astype(np.float16)


def make_percepts(root: Path, parts: Mapping[str, int], *, num_frames: int = 24) -> tuple[Percepts, Statistics]:
    """Writes `parts` (part -> videos) of `num_frames` frames each below `root`, and the statistics of all of them."""
    numbers = range(sum(parts.values()))
    part_of = [part for part, num_videos in parts.items() for _ in range(num_videos)]
    steps = np.arange(num_frames, dtype=np.int32)
    with open_atomic(str(root / SHARD)) as file, ShardWriter(file, EXTRACTOR) as writer:
        for number in numbers:
            writer.write(name_of(number), steps, steps * np.int64(40_000), steps * 0, circle(number, num_frames))
    videos = tuple(map(name_of, numbers))
    uri = str(root / "extract" / "made")
    shard, num_rows = str(root / SHARD), len(videos) * num_frames
    used = ShardReference(path=SHARD, sha256=sha256_file(shard), bytes=size_bytes(shard), rows=num_rows, videos=videos)
    write_references(uri, [used])
    records = [
        VideoRecord(
            uri=f"{root}/{number}.mp4",
            sha256=name_of(number),
            size_bytes=1,
            frames_expected=num_frames,
            frames_decoded=num_frames,
            frames_dropped=0,
            frames_missing=0,
            verdict="ok",
            part=part_of[number],
        )
        for number in numbers
    ]
    write_records(f"{uri}/{LEDGER_FILE}", records)
    rows = np.concatenate([circle(number, num_frames) for number in numbers]).astype(np.float64)
    moments = Moments(rows.mean(0).astype(np.float32), rows.std(0).astype(np.float32), len(rows))
    write_moments(str(root / "standardize"), moments)
    return Percepts(uri, "extract-made"), Statistics(str(root / "standardize"), "standardize-made")
