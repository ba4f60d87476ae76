"""The limits on a video. Nothing here needs FFmpeg, so that options can be listed, and pixels learned, without it."""

from dataclasses import dataclass, fields

from pipeline.core.errors import ConfigError
from pipeline.core.numbers import check_numbers


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds against hostile files, and the stream that is taken.

    A video beyond a bound is rejected, with the limit in the reason."""

    max_pixels: int = 8192 * 4320
    """Largest frame, width x height, before and after scaling."""
    max_duration_s: float = 6 * 3600.0
    """Longest video, seconds. A gap in its timestamps counts with 10 s at most."""
    max_frames: int = 4_000_000
    """Most packets of a video that are looked at."""
    max_decode_s_per_s: float = 30.0
    """Seconds of decoding per second of video. Time in which the consumer of the frames is busy does not count."""
    min_decode_s: float = 60.0
    """Seconds of decoding that every video may take, however short."""
    max_stall_s: float = 60.0
    """Seconds without a packet read or a frame decoded, after which the process that decodes is ended."""
    max_memory_bytes: int = 4 << 30
    """Memory that decoding one video may take."""
    max_bytes: int = 64 << 30
    """Most bytes of a video that are fetched from a server; a video in a folder may have more."""
    video_stream: int | None = None
    """Number of the stream to decode in every file, counted from 0; None takes the one that ffmpeg would take."""

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self) if field.name != "video_stream"):
            value = getattr(self, name)
            if not value > 0:
                raise ConfigError(f"{name} is {value}; a limit must be positive (raise it to effectively remove it)")
        if self.video_stream is not None and self.video_stream < 0:
            raise ConfigError(f"video_stream is {self.video_stream}; streams of a file are counted from 0")
        check_numbers(self)
