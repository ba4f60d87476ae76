"""Settings of the patches that are cut out of videos. Nothing here needs PyTorch or a decoder."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.core.errors import ConfigError
from stages.datasets.patches import PATCH_PX
from stages.video.container import Limits


@dataclass(frozen=True, kw_only=True)
class CuttingConfig:
    """What is cut out of each video."""

    num_frames: int = 29
    """Frames of a patch: those to read (16) and those to predict (13)."""
    patches_per_video: int = 32
    """Places, in space and time, at which each video is cut; fewer come out of one that is short or has gaps."""
    short_side_px: int | None = 240
    """Scale videos so that the shorter side has this many pixels, as UCF-101's; None keeps their size."""
    seed: int = 0
    """Of the places."""
    limits: Limits = field(default_factory=Limits)
    """The bounds beyond which a video gives no patches, those of ingest. The recipe's --limits sets both."""

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.patches_per_video < 1:
            raise ConfigError(
                f"num_frames is {self.num_frames}, patches_per_video {self.patches_per_video}; both must be at least 1"
            )
        if self.short_side_px is not None and self.short_side_px < PATCH_PX:
            raise ConfigError(f"short_side_px is {self.short_side_px}; patches of {PATCH_PX} px must fit: give more")
