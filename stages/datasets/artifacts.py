"""Artifacts that hold pixels: handwritten digits, and patches cut from videos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from pipeline.core.arrays import map_array, write_array
from pipeline.core.records import read_record, write_record
from pipeline.core.stage import Artifact
from stages.datasets.mnist import PARTS, DigitSet, Part
from stages.datasets.patches import ChannelMoments
from stages.video.artifacts import TO_LOOK_AT

PATCHES_MANIFEST: Final = "patches.json"


@dataclass(frozen=True)
class Digits(Artifact):
    """`train.npy`, `validation.npy`, `test.npy`, (N, 28, 28) uint8, and beside each `<part>_labels.npy`, (N,) uint8."""

    def load(self, part: Part) -> DigitSet:
        """Reads one part; no image is in two parts. Raises CorruptArtifact."""
        return DigitSet(*(np.array(map_array(self.path(name))) for name in (f"{part}.npy", f"{part}_labels.npy")))


def write_digits(uri: str, parts: dict[Part, DigitSet]) -> None:
    """Writes the files of a `Digits`."""
    for part in PARTS:
        write_array(f"{uri}/{part}.npy", parts[part].images)
        write_array(f"{uri}/{part}_labels.npy", parts[part].labels)


@dataclass(frozen=True, kw_only=True)
class CutVideo:
    """A video that patches were cut from, and how many."""

    sha256: str
    num_patches: int


@dataclass(frozen=True, kw_only=True)
class PatchesPart:
    """The patches of one part, and the videos that they were cut from."""

    num_patches: int
    videos: tuple[CutVideo, ...]


@dataclass(frozen=True, kw_only=True)
class PatchesManifest:
    """The content of `patches.json`."""

    num_frames: int
    parts: dict[str, PatchesPart]
    moments: ChannelMoments


@dataclass(frozen=True)
class Patches(Artifact):
    """`train.npy`, `validation.npy`, `test.npy`: (N, T, 32, 32, 3) uint8, RGB; `patches.json`: counts, videos, moments.

    No video, nor group of videos, is in two parts.
    """

    holds = "pixels"

    def map(self, part: Part) -> npt.NDArray[np.uint8]:
        """Maps one part, (N, T, 32, 32, 3) uint8, read-only. Raises CorruptArtifact."""
        return map_array(self.path(f"{part}.npy"))

    def moments(self) -> ChannelMoments:
        """Reads the mean and standard deviation of each channel over the training part."""
        return self.read().moments

    def read(self) -> PatchesManifest:
        """Reads `patches.json`. Raises CorruptArtifact."""
        return read_record(self.path(PATCHES_MANIFEST), PatchesManifest)

    def num_to_look_at(self, facts: Mapping[str, int | float | str], *, all_rejected: bool = False) -> int:
        """Returns how many videos of the index could not be read when they were cut."""
        return int(facts.get(TO_LOOK_AT, 0))

    def has_same_videos(self, other: Self) -> bool:
        """Returns whether both have the same patches."""
        return self.read() == other.read()

    def write(self, manifest: PatchesManifest) -> None:
        """Writes `patches.json`, the last file of the artifact."""
        write_record(self.path(PATCHES_MANIFEST), manifest)
