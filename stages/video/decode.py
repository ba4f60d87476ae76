"""Decode a video into upright RGB frames in bounded memory, losing nothing without saying so.

    decoder = VideoDecoder("clip.mp4", DecodeConfig(short_side_px=240, crop_px=224))
    for chunk in decoder:
        use(chunk.frames_NHWC, chunk.index_N)
    assert decoder.report.verdict != "rejected"    # if it is: forget the chunks

Damage does not end a video: what decodes is kept, and the frames that do not are counted and leave a gap.

Shape legend: H height, W width, C channels (R, G, B); chunks are N frames, NHWC.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from pipeline.core.errors import ConfigError
from pipeline.core.numbers import check_numbers
from pipeline.core.stage import CAME_LATER
from stages.video.chunks import ChunkBuilder, FrameChunk
from stages.video.container import Damage, PacketReader, clock_of, decode_packet, in_words, open_video
from stages.video.filters import UprightRgb
from stages.video.ledger import Verdict
from stages.video.limits import Limits
from stages.video.probe import Probe, probe
from stages.video.processes import watchdog
from stages.video.streams import DAMAGE
from stages.video.timeline import FrameAccount, Place, to_us

__all__ = ["DecodeConfig", "DecodeReport", "FrameChunk", "VideoDecoder"]

GPU_FORMATS: Final = {"h264", "hevc", "vp9"}, {"yuv420p", "yuvj420p", "yuv420p10le"}
"""Codecs whose standard fixes every bit of a frame, and the pixels that scale to the same bytes when interleaved."""
MIN_GPU_LINES: Final = 720
MIN_GPU_FRAMES: Final = 500
"""A frame saves 2.4 ms of a core at 1280x720, more at 1920x1080, and opening a video on the GPU costs some tenths of a
second: videos of 600 frames came 6% sooner, longer ones up to half as soon again (tests/RESULTS.md)."""


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """The settings of a decoder's output, part of an extractor's fingerprint."""

    short_side_px: int | None = 240
    """Scale so that the shorter side has this many pixels; None keeps the video's size."""
    crop_px: int | None = 224
    """Side of the central square that is cut out after scaling and turning; None keeps the whole frame."""
    rate_fps: float | None = None
    """Keep about this many frames a second, chosen by timestamp, never repeating one; None keeps every frame."""
    after_damage: Literal["keep", "drop"] = "keep"
    """Frames that a decoder makes up from damaged or lost data: `keep` takes whatever FFmpeg gives out, so that counts
    are FFmpeg's, and pixels the same in every run; `drop` counts them as missing, up to the
    next sound keyframe."""
    flow: Literal["none", "dis", "tvl1"] = "none"
    """Deliver optical flow in the place of RGB: OpenCV's DIS, or TV-L1 (slow; needs OpenCV's contributed modules)."""
    flow_stack: int = 1
    """Fields in a stack, from one frame to the next each; a frame then has twice as many channels."""
    flow_bound_px: float = 20.0
    """Displacement that becomes 255 (and, the other way, 0), in pixels of the scaled frame."""
    flow_subtract_mean: bool = False
    """Take the mean displacement out of every field."""
    hardware: Literal["none", "cuda"] = field(default="none", metadata=CAME_LATER)
    """Decoder of large videos: `cuda` takes that of the GPU for H.264, HEVC and VP9 of 720 lines and 500 frames or more
    that are to be made smaller, and goes on with the CPU's from where a video shows damage or changes its size. Intact
    video gave the CPU's pixels and times to the byte (0 levels of difference). Damage that the chip conceals without a
    word may look different, so the percepts have a fingerprint of their own."""

    def __post_init__(self) -> None:
        for name in ("short_side_px", "crop_px", "rate_fps"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value}; it must be positive, or None to leave that step out")
        if not 1 <= self.flow_stack <= 32:
            raise ConfigError(f"flow_stack is {self.flow_stack}; a stack holds 1 to 32 fields")
        if not self.flow_bound_px > 0:
            raise ConfigError(f"flow_bound_px is {self.flow_bound_px}; it must be positive")
        if self.hardware == "cuda" and self.after_damage == "drop":
            raise ConfigError(
                "after_damage is drop and hardware is cuda, which does not say what it makes up: give after_damage"
                " keep, or hardware none"
            )
        if self.crop_px is not None and (self.short_side_px is None or self.crop_px > self.short_side_px):
            raise ConfigError(
                f"crop_px is {self.crop_px} and short_side_px is {self.short_side_px}; the square must fit into the"
                " scaled frame: give short_side_px >= crop_px"
            )
        check_numbers(self)

    @property
    def num_channels(self) -> int:
        """Number of channels of the frames: 3, or those of a flow stack."""
        return 3 if self.flow == "none" else 2 * self.flow_stack


@dataclass(frozen=True, kw_only=True)
class DecodeReport:
    """The account of a decoded video, in the fields of `VideoRecord`: `replace(record, **vars(report))`."""

    frames_expected: int
    frames_decoded: int
    frames_dropped: int
    frames_missing: int
    verdict: Verdict
    reason: str


class VideoDecoder:
    """Iterate once over the chunks of a local video file; then read `report`.

    Never raises on what the file holds. When the verdict is `rejected`, the chunks that came out must not be used
    (a limit may be hit late in a video).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        config: DecodeConfig,
        *,
        limits: Limits | None = None,
        chunk_frames: int = 64,
        num_threads: int = 1,
        on_gpu: bool = False,
    ) -> None:
        """Prepares the decoding of a file.

        `chunk_frames`: frames in a chunk, fewer where they are large. `num_threads`: decoder threads, 0 for FFmpeg's
        choice; many videos side by side with one thread each are the faster use of the same cores. `on_gpu`: decode
        on the GPU what `DecodeConfig.hardware` names; iterating then raises RunError where that cannot be opened.
        """
        assert chunk_frames > 0
        self.path = path
        self.config = config
        self._limits = limits or Limits()
        self._chunk_frames = chunk_frames
        self._num_threads = num_threads
        self._on_gpu = on_gpu
        self._report: DecodeReport | None = None
        self._num_concealed = 0
        self._first_error = ""
        self._key_pts_at_error: int | None = None
        self.probe: Probe | None = None
        """What the file is, once iteration has begun."""

    @property
    def report(self) -> DecodeReport:
        """The account of every frame, available once the iteration has ended."""
        assert self._report is not None, "iterate over the decoder to its end before reading its report"
        return self._report

    def __iter__(self) -> Iterator[FrameChunk]:
        assert self.probe is None, "a decoder can be iterated only once"
        config = self.config
        if config.flow == "none":
            return self._rgb(config.crop_px)
        from stages.video.flow import FlowStacks  # needs OpenCV, which takes long to import

        stacks = FlowStacks(
            config.flow,
            stack=config.flow_stack,
            bound_px=config.flow_bound_px,
            subtract_mean=config.flow_subtract_mean,
            crop_px=config.crop_px,
            chunk_frames=self._chunk_frames,
        )
        return stacks(self._rgb(None))

    def _rgb(self, crop_px: int | None) -> Iterator[FrameChunk]:
        """Yields chunks of RGB frames, and makes the report at the end."""
        clock = _Stopwatch()
        probed = self.probe = probe(self.path, self._limits)
        account = FrameAccount(probed.timeline, self.config.rate_fps, keep_late=self.config.after_damage == "keep")
        if probed.verdict == "rejected":
            self._finish(account, probed.reason)
            return
        budget_s = self._limits.min_decode_s + self._limits.max_decode_s_per_s * (probed.duration_us or 0) / 1e6
        builder = ChunkBuilder(self._chunk_frames)
        refused = ""
        with watchdog.watched(str(self.path)) as heartbeat:

            def beat() -> None:
                heartbeat.beat()
                if clock.seconds > budget_s:
                    raise _OutOfTime

            try:
                for place, image_HWC in self._placed(account, beat, crop_px):
                    for chunk in builder.add(place, image_HWC):
                        with clock.paused(), heartbeat.paused():
                            yield chunk
            except _OutOfTime:
                refused = (
                    f"took more than {budget_s:.0f} s to decode (min_decode_s = {self._limits.min_decode_s:g},"
                    f" max_decode_s_per_s = {self._limits.max_decode_s_per_s:g})"
                )
        if not refused:
            yield from builder.flush()
        self._finish(account, refused)

    def _placed(
        self, account: FrameAccount, beat: Callable[[], None], crop_px: int | None
    ) -> Iterator[tuple[Place, npt.NDArray[np.uint8]]]:
        """Yields the frames to keep as uint8 HWC images, each with its place."""
        assert self.probe is not None
        orientation = self.probe.orientation
        to_rgb = UprightRgb(self.config.short_side_px, crop_px, self._limits.max_pixels, orientation)
        num_lost, is_sound = 0, True
        for frame, time_us in self._frames(account, beat):
            beat()
            place = account.place(frame.pts, time_us)
            is_sound = not frame.is_corrupt and (
                (is_sound and account.num_lost == num_lost) or self._starts_afresh(frame)
            )
            num_lost = account.num_lost
            if not place.keep:
                continue
            if not is_sound and self.config.after_damage == "drop":
                account.retract()
                continue
            try:
                image_HWC = to_rgb(frame)
            except DAMAGE as error:
                self._note(error)
                account.retract()
                continue
            self._num_concealed += frame.is_corrupt
            yield place, image_HWC

    def _starts_afresh(self, frame: VideoFrame) -> bool:
        """Returns whether a frame builds on nothing damaged: it is a keyframe that was read after the last error."""
        if not frame.key_frame:
            return False
        return frame.pts is None or self._key_pts_at_error is None or frame.pts > self._key_pts_at_error

    def _frames(self, account: FrameAccount, beat: Callable[[], None]) -> Iterator[tuple[VideoFrame, int | None]]:
        """Yields every frame that decodes, in presentation order, with its time in microseconds.

        FFmpeg's frame threads report an error some packets late and lose frames that were ready, so that what is
        salvaged would depend on their number; a GPU conceals damage in its own way. A video that shows any sign of
        damage is therefore decoded again on one thread of the CPU, from where the sound part ended.
        """
        on_gpu = self._on_gpu and self._pays_on_gpu()
        if on_gpu or self._num_threads != 1:
            num_threads = 1 if on_gpu else self._num_threads
            is_sound = yield from self._session(account, beat, num_threads, skip=0, is_last=False, on_gpu=on_gpu)
            if is_sound:
                return
        yield from self._session(account, beat, 1, skip=account.num_placed, is_last=True)

    def _pays_on_gpu(self) -> bool:
        assert self.probe is not None
        (codecs, pixel_formats), short_side_px = GPU_FORMATS, self.config.short_side_px
        num_lines = min(self.probe.width or 0, self.probe.height or 0)
        return (
            self.probe.codec in codecs
            and self.probe.pixel_format in pixel_formats
            and num_lines >= MIN_GPU_LINES
            and self.probe.frames_expected >= MIN_GPU_FRAMES
            # At native size FFmpeg makes RGB of interleaved chroma in another way.
            and short_side_px is not None
            and short_side_px < num_lines
        )

    def _session(
        self,
        account: FrameAccount,
        beat: Callable[[], None],
        num_threads: int,
        *,
        skip: int,
        is_last: bool,
        on_gpu: bool = False,
    ) -> Generator[tuple[VideoFrame, int | None], None, bool]:
        """Yields the frames of one pass over the file, without its first `skip` frames.

        Unless it is the last, the pass ends, and returns False, at the first sign of damage or frame of another size.
        """
        assert self.probe is not None
        size = {self.probe.width, self.probe.height}
        conceal = self.config.after_damage == "keep"
        opened = open_video(self.path, self._limits, num_threads=num_threads, conceal=conceal, on_gpu=on_gpu)
        with opened as (container, stream):
            assert stream.time_base is not None
            time_base = stream.time_base
            clock = clock_of(container, stream, self.probe.timeline.repairs)
            reader = PacketReader(container, (stream,), beat, clock)
            for item in _decoded(reader, stream.codec_context):
                if not isinstance(item, VideoFrame):
                    if not is_last:
                        return False
                    self._note(item)
                    self._key_pts_at_error = reader.last_key_pts
                    account.error()
                    continue
                is_sound = not item.is_corrupt and account.is_next(item.pts) and {item.width, item.height} == size
                if not (is_last or is_sound):
                    return False
                if skip:
                    skip -= 1
                    continue
                account.damaged |= item.is_corrupt
                yield item, None if item.pts is None else to_us(item.pts, time_base)
        return is_last or account.is_complete

    def _note(self, error: Damage) -> None:
        self._first_error = self._first_error or in_words(error)

    def _finish(self, account: FrameAccount, refused: str) -> None:
        account.damaged |= bool(refused)
        account.close()
        if refused:
            account.reject()
        verdict: Verdict = "ok"
        reason = refused
        if account.decoded == 0:
            verdict = "rejected"
            reason = reason or "no frame can be decoded" + (f": {self._first_error}" if self._first_error else "")
        elif account.missing or self._num_concealed:
            verdict = "partial"
            reason = self._what_is_wrong(account)
        self._report = DecodeReport(
            frames_expected=account.expected,
            frames_decoded=account.decoded,
            frames_dropped=account.dropped,
            frames_missing=account.missing,
            verdict=verdict,
            reason=reason,
        )

    def _what_is_wrong(self, account: FrameAccount) -> str:
        wrong = []
        if account.missing:
            why = f" ({self._first_error})" if self._first_error else ""
            wrong.append(f"{account.missing} of {account.expected} frames are missing{why}")
        if self._num_concealed:
            wrong.append(f"{self._num_concealed} decoded frames hold errors that the decoder has concealed")
        return "; ".join(wrong)


def _decoded(reader: PacketReader, decoder: VideoCodecContext) -> Iterator[VideoFrame | Damage]:
    """Yields the frames and errors of a stream, in the order in which they turn up."""
    num_errors = 0
    for packet in reader:
        if reader.num_errors > num_errors:
            num_errors = reader.num_errors
            yield OSError("the file cannot be read at this point")
        yield from decode_packet(decoder, packet)
    yield from decode_packet(decoder, None)


class _OutOfTime(Exception):
    pass


class _Stopwatch:
    """Seconds since it was made, without the paused ones."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    @contextmanager
    def paused(self) -> Iterator[None]:
        since = time.monotonic()
        try:
            yield
        finally:
            self._started += time.monotonic() - since
