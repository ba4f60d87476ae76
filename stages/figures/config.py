"""Settings of the pictures of a model. Nothing here needs PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PictureConfig:
    """How many pictures, and of what."""

    num_examples: int = 4
    """Sequences that are shown; where videos have labels, of as many different ones."""
    fit_part: str | None = "unlabelled"
    """Part of the videos that the read-out from percepts to pictures is fitted on."""
    show_part: str | None = "test"
    """Part of the videos that examples come from. With both none, a fifth of the videos is kept to show."""
    thumbnail_px: int = 32
    """Side of the pictures that are read out of percepts."""
    num_readout_videos: int = 100
    """Videos that the read-out is fitted on, at most."""
    readout_frames_per_video: int = 16
    """Frames of each of them, at most."""
    num_future: int = 100
    """Frames that a model of pixels is followed into the future; 0 leaves those figures out."""
    num_units: int = 200
    """Random units whose gates and states are drawn meanwhile."""
    num_features: int = 200
    """Input and output features that are drawn, by norm; 0 leaves those figures out."""
    seed: int = 0
    """Of the choice of sequences and units, and of the untrained model beside the trained one."""

    def __post_init__(self) -> None:
        for name in ("num_examples", "thumbnail_px", "num_readout_videos", "readout_frames_per_video", "num_units"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.num_future < 0 or self.num_features < 0:
            raise ConfigError("num_future and num_features count pictures; 0 leaves them out, less is not possible")
        if (self.fit_part is None) != (self.show_part is None):
            raise ConfigError("fit_part and show_part go together: name two parts, or none of both")
