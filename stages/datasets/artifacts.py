"""Artifacts that hold pixels: handwritten digits, and patches cut from videos."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.core.files import read_json, write_json
from pipeline.core.stage import Artifact
from stages.datasets.arrays import map_array, write_array
from stages.datasets.mnist import PARTS, DigitSet, Part
from stages.datasets.patches import ChannelMoments

PATCHES_MANIFEST: Final = "patches.json"


@dataclass(frozen=True)
class Digits(Artifact):
    """`train.npy`, `validation.npy`, `test.npy`, (N, 28, 28) uint8, and beside each `<part>_labels.npy`, (N,) uint8."""

    def load(self, part: Part) -> DigitSet:
        """One part; no image is in two of them."""
        return DigitSet(*(np.array(map_array(self.path(name))) for name in (f"{part}.npy", f"{part}_labels.npy")))


def write_digits(uri: str, parts: dict[Part, DigitSet]) -> None:
    """Writes the files of a `Digits`."""
    for part in PARTS:
        write_array(f"{uri}/{part}.npy", parts[part].images)
        write_array(f"{uri}/{part}_labels.npy", parts[part].labels)


@dataclass(frozen=True)
class Patches(Artifact):
    """`train.npy`, `validation.npy`, `test.npy`: (N, T, 32, 32, 3) uint8, RGB; `patches.json`: counts, videos, moments.

    No video, nor group of videos, is in two parts.
    """

    holds = "pixels"

    def map(self, part: Part) -> npt.NDArray[np.uint8]:
        """One part, mapped, read-only."""
        return map_array(self.path(f"{part}.npy"))

    def moments(self) -> ChannelMoments:
        """Mean and standard deviation of each channel over the training part."""
        found = self.manifest()["moments"]
        return ChannelMoments(np.array(found["mean"], np.float32), np.array(found["std"], np.float32))

    def manifest(self) -> dict[str, Any]:
        """`patches.json`."""
        found: dict[str, Any] = read_json(self.path(PATCHES_MANIFEST))
        return found


def write_patches_manifest(uri: str, manifest: dict[str, Any], moments: ChannelMoments) -> None:
    """Writes `patches.json`: the last file of a `Patches`."""
    plain = {"mean": moments.mean_C.tolist(), "std": moments.std_C.tolist()}
    write_json(f"{uri}/{PATCHES_MANIFEST}", {**manifest, "moments": plain})
