"""Patches of natural video (section 4.1): a square of 32x32 pixels, in colour, watched for some frames.

A patch stays where it is while the video runs below it. Pixels are standardised per channel by the training part's
mean and standard deviation; the paper's figures fit this, and not pixels in 0..1.

Shapes: B sequences, T frames, P = 32 pixels (rows, then columns), C = 3 channels (R, G, B), D = 3072 = P * P * C.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import ConfigError
from pipeline.core.numbers import check_at_least, check_numbers
from stages.video.limits import Limits

PATCH_PX: Final = 32
NUM_CHANNELS: Final = 3
NUM_DIMS: Final = PATCH_PX * PATCH_PX * NUM_CHANNELS

PIECES: Final = "pieces"
"""Directory of the patches of each video while patches are cut."""

Patch = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class CuttingConfig:
    """The number, length and scale of the patches that are cut out of each video."""

    num_frames: int = 29
    """Frames of a patch: those to read (16) and those to predict (13)."""
    patches_per_video: int = 32
    """Places, in space and time, at which each video is cut; fewer come out of one that is short or has gaps."""
    short_side_px: int | None = 240
    """Scale videos so that the shorter side has this many pixels, as UCF-101's; None keeps their size."""
    seed: int = 0
    """Seed of the places at which videos are cut."""
    limits: Limits = field(default_factory=Limits)
    """The bounds beyond which a video gives no patches, those of ingest. The recipe's --limits sets both."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "num_frames", "patches_per_video")
        if self.short_side_px is not None and self.short_side_px < PATCH_PX:
            raise ConfigError(f"short_side_px is {self.short_side_px}; patches of {PATCH_PX} px must fit: give more")
        check_numbers(self)


@dataclass(frozen=True, kw_only=True)
class ChannelMoments:
    """Mean and standard deviation of each channel, in units of a byte (0..255)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        assert len(self.mean) == len(self.std) == NUM_CHANNELS
        assert min(self.std) > 0, "a channel that never changes cannot be standardised"

    @cached_property
    def arrays(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Mean and standard deviation, (3,) each."""
        return np.array(self.mean, np.float32), np.array(self.std, np.float32)

    @cached_property
    def of_frame(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Mean and standard deviation of each dimension of a frame, (D,) each: the channels', for every pixel."""
        mean_C, std_C = self.arrays
        return np.tile(mean_C, PATCH_PX**2), np.tile(std_C, PATCH_PX**2)

    def standardise(self, patches_BTPPC: Patch) -> npt.NDArray[np.float32]:
        """Standardises (B, T, 32, 32, 3) uint8 to x_TBD float32; D runs over rows, then columns, then channels."""
        mean_D, std_D = self.of_frame
        patches_BTD = patches_BTPPC.reshape(*patches_BTPPC.shape[:2], NUM_DIMS)
        x_TBD = np.subtract(patches_BTD.swapaxes(0, 1), mean_D, dtype=np.float32, order="C")
        x_TBD /= std_D
        return x_TBD

    def to_bytes(self, x_TBD: npt.NDArray[np.float32]) -> Patch:
        """Turns standardised frames back into pictures (T, B, 32, 32, 3) uint8, clipped to 0 and 255."""
        x_TBPPC = x_TBD.reshape(*x_TBD.shape[:2], PATCH_PX, PATCH_PX, NUM_CHANNELS)
        mean_C, std_C = self.arrays
        return np.asarray((x_TBPPC * std_C + mean_C).round().clip(0, 255), np.uint8)


def moments_of(pieces: Iterable[Patch]) -> ChannelMoments:
    """Computes the population moments of patches; a constant channel gets a standard deviation of 1.

    Sums over bytes are exact in 64-bit integers, so that no order of the pieces changes the moments.
    """
    counts_C256 = np.zeros((NUM_CHANNELS, 256), np.int64)
    for piece in pieces:
        for channel, counts in enumerate(counts_C256):
            counts += np.bincount(piece[..., channel].ravel(), minlength=256)
    values, num_C = np.arange(256), counts_C256.sum(1)
    mean_C = counts_C256 @ values / num_C
    std_C = np.sqrt(np.maximum(counts_C256 @ values**2 / num_C - mean_C**2, 0))
    std_C = np.where(std_C > 0, std_C, 1)
    return ChannelMoments(mean=tuple(mean_C.astype(np.float32).tolist()), std=tuple(std_C.astype(np.float32).tolist()))
