"""Patches of natural video (section 4.1): a square of 32x32 pixels, in colour, watched for some frames.

A patch stays where it is while the video runs below it. Pixels are standardised per channel by the training part's
mean and standard deviation; the paper's figures fit this, and not pixels in 0..1.

Shapes: B sequences, T frames, P = 32 pixels (rows, then columns), C = 3 channels (R, G, B), D = 3072 = P * P * C.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import ConfigError
from pipeline.core.numbers import check_numbers
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
        if self.num_frames < 1 or self.patches_per_video < 1:
            raise ConfigError(
                f"num_frames is {self.num_frames}, patches_per_video {self.patches_per_video}; both must be at least 1"
            )
        if self.short_side_px is not None and self.short_side_px < PATCH_PX:
            raise ConfigError(f"short_side_px is {self.short_side_px}; patches of {PATCH_PX} px must fit: give more")
        check_numbers(self)


@dataclass(frozen=True)
class ChannelMoments:
    """Mean and standard deviation of each channel, in units of a byte (0..255)."""

    mean_C: npt.NDArray[np.float32]
    std_C: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        assert self.mean_C.shape == self.std_C.shape == (NUM_CHANNELS,)
        assert (self.std_C > 0).all(), "a channel that never changes cannot be standardised"

    def standardise(self, patches_BTPPC: Patch) -> npt.NDArray[np.float32]:
        """Standardises (B, T, 32, 32, 3) uint8 to x_TBD float32; D runs over rows, then columns, then channels."""
        x_TBPPC = np.subtract(patches_BTPPC.swapaxes(0, 1), self.mean_C, dtype=np.float32, order="C")
        x_TBPPC /= self.std_C
        return x_TBPPC.reshape(*x_TBPPC.shape[:2], NUM_DIMS)

    def to_bytes(self, x_TBD: npt.NDArray[np.float32]) -> Patch:
        """Turns standardised frames back into pictures (T, B, 32, 32, 3) uint8, clipped to 0 and 255."""
        x_TBPPC = x_TBD.reshape(*x_TBD.shape[:2], PATCH_PX, PATCH_PX, NUM_CHANNELS)
        return np.asarray((x_TBPPC * self.std_C + self.mean_C).round().clip(0, 255), np.uint8)


class MomentSums:
    """Sums over bytes, exact in 64-bit integers, so that no order of the patches changes the moments."""

    def __init__(self) -> None:
        self._count = 0
        self._sum_C = np.zeros(NUM_CHANNELS, np.int64)
        self._squares_C = np.zeros(NUM_CHANNELS, np.int64)

    def add(self, patches: Patch) -> None:
        """Adds the bytes of an array whose last axis is C."""
        for channel in range(NUM_CHANNELS):
            counts = np.bincount(patches[..., channel].ravel(), minlength=256)
            values = np.arange(256)
            self._sum_C[channel] += counts @ values
            self._squares_C[channel] += counts @ values**2
        self._count += patches.size // NUM_CHANNELS

    def moments(self) -> ChannelMoments:
        """Returns the population moments; a constant channel gets a standard deviation of 1."""
        mean_C = self._sum_C / self._count
        std_C = np.sqrt(np.maximum(self._squares_C / self._count - mean_C**2, 0))
        return ChannelMoments(mean_C.astype(np.float32), np.where(std_C > 0, std_C, 1).astype(np.float32))
