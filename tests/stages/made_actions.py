"""A full-size stand-in for UCF-101: every clip of the official lists, with percepts that are made and not extracted.

What a clip shows is known. All of a clip's frames hold the appearance of its class and, stronger, that of its footage
(clips of one g-number share it, as in UCF), and a point that turns in a plane. The first classes come in pairs of one
appearance and one plane, whose points turn in opposite directions: a single frame has the same distribution in both,
so that whatever looks at single frames names at most half of their clips, and only the order of frames tells the rest.
Every other class has an appearance of its own. `ceiling` is what naming every appearance rightly amounts to.

Unlabelled clips, to pretrain on, turn in the same planes and have appearances of their own.

Shapes: T frames of a clip, D dimensions.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import ConfigError
from pipeline.core.files import join, open_atomic, sha256_file, size_bytes
from pipeline.core.stage import Context, stage
from stages.datasets.official.ucf101 import read_clips
from stages.percepts.artifacts import Percepts
from stages.percepts.schema import Extractor
from stages.percepts.shards import LEDGER_FILE, ShardReference, write_references
from stages.percepts.writer import ShardWriter
from stages.video.artifacts import INDEX_NAME, Index
from stages.video.ledger import VideoRecord, write_records

CLIPS_PER_SHARD = 2048


@dataclass(frozen=True, kw_only=True)
class MadeActionsConfig:
    """How much is made, and how hard it is."""

    lists: str
    """Folder of UCF-101's official lists."""
    dim: int = 128
    """D."""
    num_frames: int = 32
    """T."""
    num_unlabelled: int = 4000
    """Clips to pretrain on."""
    num_pairs: int = 20
    """Pairs of classes that the order of frames alone tells apart."""
    share: float = 1.0
    """Of the footage (class and g-number) that is there; less for a quick look."""
    appearance: float = 0.45
    """Standard deviation of a class's appearance, in each dimension."""
    footage: float = 1.0
    """Standard deviation of a footage's."""
    motion: float = 2.0
    """Radius of the point's circle."""
    noise: float = 0.5
    """Standard deviation of each dimension of each frame, anew."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(f"share is {self.share}; it must be above 0 and at most 1")


@dataclass(frozen=True)
class World:
    """What the frames are made of."""

    config: MadeActionsConfig
    class_names: tuple[str, ...]

    @property
    def ceiling(self) -> float:
        """Accuracy of naming every appearance rightly and guessing within pairs, classes weighing the same."""
        return 1 - self.config.num_pairs / len(self.class_names)

    def _kind(self, label: str) -> tuple[int, float]:
        """Appearance and plane, which a pair shares, and direction."""
        number = self.class_names.index(label)
        paired = number < 2 * self.config.num_pairs
        return (number // 2 if paired else number), (1.0 if number % 2 else -1.0)

    def clip(self, label: str, group: str, name: str) -> npt.NDArray[np.float16]:
        """(T, D) of a labelled clip."""
        look, direction = self._kind(label)
        appearance = self.config.appearance * _rng(self.config.seed, "look", look).standard_normal(self.config.dim)
        return self._frames(appearance, group, name, look, direction)

    def unlabelled(self, number: int) -> npt.NDArray[np.float16]:
        """(T, D) of a clip to pretrain on."""
        rng = _rng(self.config.seed, "unlabelled", number)
        look = int(rng.integers(len(self.class_names)))
        appearance = self.config.appearance * rng.standard_normal(self.config.dim)
        return self._frames(appearance, f"u{number}", f"u{number}", look, rng.choice([-1.0, 1.0]))

    def _frames(
        self, appearance: npt.NDArray[np.float64], group: str, name: str, plane: int, direction: float
    ) -> npt.NDArray[np.float16]:
        config, rng = self.config, _rng(self.config.seed, "clip", name)
        footage = config.footage * _rng(config.seed, "footage", group).standard_normal(config.dim)
        plane_2D = np.linalg.qr(_rng(config.seed, "plane", plane).standard_normal((config.dim, 2)))[0].T
        angle_T = rng.uniform(0, 2 * np.pi) + direction * rng.uniform(0.3, 0.6) * np.arange(config.num_frames)
        turning_TD = config.motion * np.stack([np.cos(angle_T), np.sin(angle_T)], axis=1) @ plane_2D
        noise_TD = config.noise * rng.standard_normal((config.num_frames, config.dim))
        return (appearance + footage + turning_TD + noise_TD).astype(np.float16)


def _rng(*parts: int | str) -> np.random.Generator:
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def named_clips(config: MadeActionsConfig) -> list[tuple[str, str, str]]:
    """(name, label, group) of the clips that are there; a footage is there with all its clips or not at all."""
    clips = [(clip.name, clip.label, clip.group) for clip in read_clips(config.lists)]
    return [clip for clip in clips if _rng("share", clip[2]).random() < config.share]


def _record(config: MadeActionsConfig, name: str, part: str | None, *, counted: bool) -> VideoRecord:
    return VideoRecord(
        uri=f"/made/{name}.avi",
        sha256=hashlib.sha256(name.encode()).hexdigest(),
        size_bytes=1,
        frames_expected=config.num_frames,
        frames_decoded=config.num_frames if counted else None,
        frames_dropped=0 if counted else None,
        frames_missing=0 if counted else None,
        verdict="ok",
        part=part,
    )


def _names(config: MadeActionsConfig) -> list[tuple[str, str | None]]:
    """(name, part) of every clip, labelled ones first."""
    labelled: list[tuple[str, str | None]] = [(name, None) for name, _, _ in named_clips(config)]
    return labelled + [(f"u{number}", "unlabelled") for number in range(config.num_unlabelled)]


@stage(version=1)
def made_index(config: MadeActionsConfig, context: Context) -> Index:
    """An index of videos that nobody has filmed."""
    records = [_record(config, name, part, counted=False) for name, part in _names(config)]
    write_records(join(context.uri, INDEX_NAME), records)
    return Index(context.uri, context.key)


@stage(version=1)
def made_percepts(config: MadeActionsConfig, context: Context) -> Percepts:
    """Their percepts."""
    clips = named_clips(config)
    labels = {name: (label, group) for name, label, group in clips}
    world = World(config, tuple(sorted({label for label, _ in labels.values()})))
    extractor = Extractor({"made": "actions for a benchmark", "seed": config.seed}, config.dim)
    names = _names(config)
    steps = np.arange(config.num_frames, dtype=np.int32)
    references: list[ShardReference] = []
    for first in range(0, len(names), CLIPS_PER_SHARD):
        members = names[first : first + CLIPS_PER_SHARD]
        path = f"percepts/made-{context.key}/{first:06d}.parquet"
        with open_atomic(join(context.store_uri, path)) as file, ShardWriter(file, extractor) as writer:
            for name, part in members:
                clip_TD = world.unlabelled(int(name[1:])) if part else world.clip(*labels[name], name)
                sha256 = hashlib.sha256(name.encode()).hexdigest()
                writer.write(sha256, steps, steps.astype(np.int64) * 33_333, steps * 0, clip_TD)
        videos = tuple(hashlib.sha256(name.encode()).hexdigest() for name, _ in members)
        uri, num_rows = join(context.store_uri, path), len(members) * config.num_frames
        references.append(
            ShardReference(path=path, sha256=sha256_file(uri), bytes=size_bytes(uri), rows=num_rows, videos=videos)
        )
        context.progress(first + len(members), len(names), "clips")
    write_references(context.uri, references)
    records = [_record(config, name, part, counted=True) for name, part in names]
    write_records(join(context.uri, LEDGER_FILE), records)
    return Percepts(context.uri, context.key)
