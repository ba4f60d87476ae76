"""Settings of the pictures of a model. Nothing here needs PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.errors import ConfigError
from pipeline.core.numbers import check_at_least, check_numbers


@dataclass(frozen=True, kw_only=True)
class VisualizeConfig:
    """The pictures of a model, and the sequences that they show."""

    num_examples: int = 4
    """The number of sequences that are shown; where videos have labels, of as many different ones."""
    fit_part: str | None = "unlabelled"
    """The part of the videos that the read-out from percepts to pictures is fitted on."""
    show_part: str | None = "test"
    """The part of the videos that examples come from. With both parts none, a fifth of the videos is kept to show."""
    thumbnail_px: int = 32
    """The side of the pictures that are read out of percepts, in pixels."""
    num_readout_videos: int = 100
    """The read-out is fitted on at most so many videos."""
    readout_frames_per_video: int = 16
    """The read-out is fitted on at most so many frames of each video."""
    num_future: int = 100
    """The number of frames that a model of pixels predicts in the far-future figures; 0 leaves those figures out."""
    num_units: int = 200
    """The number of random units whose gates and states are drawn over the far future."""
    num_features: int = 200
    """The number of input and output features of largest norm that are drawn; 0 leaves those figures out."""
    seed: int = 0
    """The seed of the choice of sequences and units, and of the untrained model beside the trained one."""

    def __post_init__(self) -> None:
        names = ("num_examples", "thumbnail_px", "num_readout_videos", "readout_frames_per_video", "num_units")
        check_at_least(self, 1, *names)
        if (self.fit_part is None) != (self.show_part is None):
            raise ConfigError("fit_part and show_part go together: name two parts, or none of both")
        check_numbers(self)
