"""A percept store of labelled clips whose frames are points on a circle: which circle, one frame tells; which way the
point turns, only the order of frames does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.core.files import open_atomic, sha256_file, size_bytes
from stages.percepts.artifacts import Moments, Percepts, Statistics, write_moments
from stages.percepts.schema import Extractor
from stages.percepts.shards import LEDGER_FILE, ShardReference, write_references
from stages.percepts.writer import ShardWriter
from stages.video.ledger import VideoRecord, write_records

MOTIONS = ("near, left", "near, right", "far, left", "far, right")
SHARD = "percepts/made/clips.parquet"


@dataclass(frozen=True)
class Clip:
    """A video of the store."""

    part: str
    label: str | None
    percepts: npt.NDArray[np.float16]
    group: str | None = None
    segments: npt.NDArray[np.int32] | None = None

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.percepts.tobytes() + str(self.part).encode()).hexdigest()


def turning(
    label: str, seed: int, *, num_frames: int = 12, dim: int = 6, noise: float = 0.05
) -> npt.NDArray[np.float16]:
    """A point on the near or far circle that turns left or right, seen through a fixed random lens."""
    rng = np.random.default_rng([seed, MOTIONS.index(label)])
    lens = np.random.default_rng(7).standard_normal((3, dim))
    sign = 1.0 if label.endswith("left") else -1.0
    angle_T = rng.uniform(0, 2 * np.pi) + sign * rng.uniform(0.5, 0.9) * np.arange(num_frames)
    depth_T = np.full(num_frames, 1.0 if label.startswith("far") else -1.0)
    points = np.stack([np.cos(angle_T), np.sin(angle_T), depth_T], axis=1) @ lens
    return (points + noise * rng.standard_normal(points.shape)).astype(np.float16)


def turning_clips(part: str, per_class: int, *, seed: int, **changes: float) -> list[Clip]:
    """`per_class` clips of each of MOTIONS, every one its own group."""
    return [
        Clip(part, label, turning(label, seed + number, **changes), group=f"{part} {label} {number}")  # type: ignore[arg-type]
        for label in MOTIONS
        for number in range(per_class)
    ]


def make_store(root: Path, clips: Iterable[Clip]) -> tuple[Percepts, Statistics]:
    """Writes the clips' percepts, ledger and statistics below `root`."""
    clips = list(clips)
    dim = clips[0].percepts.shape[1]
    rows = 0
    with open_atomic(str(root / SHARD)) as file, ShardWriter(file, Extractor({"made": "turning"}, dim)) as writer:
        for clip in clips:
            frame = np.arange(len(clip.percepts), dtype=np.int32)
            segment = frame * 0 if clip.segments is None else clip.segments
            writer.write(clip.sha256, frame, frame.astype(np.int64) * 40_000, segment, clip.percepts)
            rows += len(frame)
    uri = str(root / "extract" / "made")
    videos = tuple(clip.sha256 for clip in clips)
    shard = str(root / SHARD)
    reference = ShardReference(path=SHARD, sha256=sha256_file(shard), bytes=size_bytes(shard), rows=rows, videos=videos)
    write_references(uri, [reference])
    write_records(f"{uri}/{LEDGER_FILE}", [record_of(clip, f"clip{n}.mp4") for n, clip in enumerate(clips)])
    frames = np.concatenate([clip.percepts for clip in clips]).astype(np.float64)
    moments = Moments(frames.mean(0).astype(np.float32), frames.std(0).astype(np.float32), len(frames))
    write_moments(str(root / "standardize"), moments)
    return Percepts(uri, "extract-made"), Statistics(str(root / "standardize"), "standardize-made")


def record_of(clip: Clip, uri: str) -> VideoRecord:
    """The clip's row of the ledger."""
    return VideoRecord(
        uri=uri,
        sha256=clip.sha256,
        size_bytes=1,
        frames_expected=len(clip.percepts),
        frames_decoded=len(clip.percepts),
        frames_dropped=0,
        frames_missing=0,
        verdict="ok",
        label=clip.label,
        part=clip.part,
        group=clip.group,
    )
