"""The work of an extraction: a shard to write, and the report of one that was written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from stages.extraction.decode_queue import Video
from stages.extraction.timings import Timings
from stages.percepts.shards import VideoResult

ReportProgress = Callable[[str, Timings], None]
"""A function that takes the path of a shard and its timings so far."""


@dataclass(frozen=True)
class ShardTask:
    """A shard to write."""

    path: str
    """Relative to the store's root."""
    videos: tuple[Video, ...]
    known: Mapping[str, VideoResult] = field(default_factory=dict)
    """Outcomes settled before: these videos are not decoded."""
    isolated: bool = False
    """Decode in isolated processes: a worker died on this shard, and one of its videos may be to blame."""

    @property
    def num_frames(self) -> int:
        """Frames that the videos promise."""
        return sum(video.frames_expected for video in self.videos)

    def __str__(self) -> str:
        return f"shard {self.path} ({len(self.videos)} videos from {self.videos[0].uri} on)"


@dataclass(frozen=True)
class ShardDone:
    """The result of a ShardTask."""

    path: str
    timings: Timings
    engine: str
