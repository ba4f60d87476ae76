"""The work of an extraction: a shard to write, the report of one that was written, and what waited for what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass, field

from stages.extraction.decode_queue import Video
from stages.percepts.shards import VideoResult


@dataclass(frozen=True)
class Timings:
    """The timings of a shard, or of many: seconds of one worker. `sum_timings` adds those of many."""

    num_frames: int = 0
    seconds: float = 0.0
    """From the first frame wanted to the last percept written."""
    convnet_s: float = 0.0
    """Seconds of these in which the convnet computed: on a GPU by its own clock, on cores their average."""
    waited_s: float = 0.0
    """Seconds of these in which nothing was left to do until a decoder brought a frame."""
    writer_s: float = 0.0
    """Seconds of these in which percepts were written, beside the convnet."""
    decode_core_s: float = 0.0
    """Seconds that cores worked at decoding."""
    decoder_s: float = 0.0
    """Seconds times decoders: what they could have worked."""

    @property
    def starved_share(self) -> float:
        """Share of the time in which the convnet had nothing to do, since no frame was decoded."""
        return _share(min(self.waited_s, max(0.0, self.seconds - self.convnet_s)), self.seconds)

    @property
    def convnet_share(self) -> float:
        """Share of the time in which the convnet computed."""
        return _share(self.convnet_s, self.seconds)

    @property
    def decoder_share(self) -> float:
        """Share of the decoders' time in which they decoded."""
        return _share(self.decode_core_s, self.decoder_s)

    @property
    def writer_share(self) -> float:
        """Share of the time that went into writing."""
        return _share(self.writer_s, self.seconds)

    @property
    def num_decoders(self) -> float:
        """Decoders of a worker, on average."""
        return _share(self.decoder_s, self.seconds)

    @property
    def balance(self) -> float:
        """Decoding cores that would bring frames exactly as fast as one worker's convnet takes them."""
        return _share(self.decode_core_s, self.convnet_s)


ReportProgress = Callable[[str, int, Timings], None]
"""A function that takes the path of a shard, the frames of it that are done, and timings so far."""


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


def sum_timings(parts: Iterable[Timings]) -> Timings:
    """Returns the sum of timings."""
    columns = zip(*(astuple(timings) for timings in parts), strict=True)
    return Timings(*(sum(column) for column in columns))


def describe_timings(timings: Timings, *, worker: str) -> str:
    """Returns one line: what waits for what, and how many decoding cores a `worker` ("GPU", say) could use."""
    balance = f"a {worker} could use {timings.balance:.1f} decoding cores, and has {timings.num_decoders:.0f}"
    busy = {"convnet busy": timings.convnet_share, "decoders": timings.decoder_share, "writer": timings.writer_share}
    shares = ", ".join(f"{name} {share:.0%}" for name, share in busy.items())
    if timings.starved_share >= 0.01:
        return f"convnet waits {timings.starved_share:.0%} for decoders: {balance} ({shares})"
    return f"{shares}: {balance}"


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
