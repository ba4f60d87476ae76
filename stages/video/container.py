"""Opening a video file that may be anything, and reading its packets past damage.

Only container formats from a fixed list are opened, and only the named file is ever read: a playlist that calls
itself .mp4 must not make FFmpeg read other files or the network.

On request the decoder is the one of an NVIDIA GPU (NVDEC, through FFmpeg's `cuda`): frames are downloaded, interleaved
(NV12, P010), and are FFmpeg's in all else. What the chip cannot decode FFmpeg decodes on the CPU.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache, partial
from typing import Any, TypeAlias

import av
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.core.errors import ConfigError, RunError
from stages.video.clock import Clock
from stages.video.limits import Limits
from stages.video.streams import DAMAGE, choose_stream, films

FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,gif,apng,ogg,asf,ivf,nut,mxf,dv,rm,swf,wtv,"
    "h264,hevc,m4v,mjpeg,obu,yuv4mpegpipe"
)
"""Demuxers that may be used; hls, concat, dash and the like, which open further files, are not among them."""

Damage: TypeAlias = av.FFmpegError | OSError | ValueError | MemoryError

MAX_READ_ERRORS = 16
"""Read errors in a row after which a file is at its end: some demuxers report the same error for ever."""


TS_DISCONT = 0x0200
"""FFmpeg's AVFMT_TS_DISCONT: a format whose clock may start again within a file."""

WRAPPING = frozenset({"mpegts", "mpeg"})
"""Formats with the 33-bit timestamps of MPEG-2 systems."""

FALLBACK_FPS = 25


@contextmanager
def open_video(
    path: str | os.PathLike[str], limits: Limits, *, num_threads: int = 1, conceal: bool = True, on_gpu: bool = False
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens a container and the video stream to decode, with a limited decoder.

    `num_threads` decoder threads; 0 lets FFmpeg choose. Without `conceal`, the decoder reports an error where it would
    otherwise make up a damaged part of a frame without a word. `on_gpu` is for a file that can be opened without.

    Raises:
        NoVideoError: no such stream, or no decoder for it.
        DAMAGE: FFmpeg cannot open the file.
        RunError: FFmpeg cannot open it with the GPU's decoder.
    """
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
    # The prefix keeps names such as "http:x.mp4" names.
    name = "file:" + os.path.abspath(path)
    # FFmpeg's own time limit, where it looks at it, comes before the watchdog's.
    timeout_s = limits.max_stall_s / 2
    # FFmpeg takes pictures one behind the other for a list of pictures, which is none of the formats.
    demuxer = "mjpeg" if name.lower().endswith((".mjpeg", ".mjpg")) else None
    open_again = partial(
        av.open, name, mode="r", format=demuxer, options=options, metadata_errors="replace", timeout=timeout_s
    )
    try:
        opened = open_again(hwaccel=_gpu_decoder()[0]) if on_gpu else open_again()
    except DAMAGE as error:
        if not on_gpu:
            raise
        raise RunError(
            f"{path} cannot be opened with the GPU's decoder ({in_words(error)}), which takes about 1 GB of the GPU's"
            " memory for each process: give fewer --decoders-per-gpu, or --extract.decode.hardware none"
        ) from error
    with opened as container:
        if limits.video_stream is None and len(films(container)) > 1:
            with open_again() as again:
                stream = choose_stream(container, None, again)
        else:
            stream = choose_stream(container, limits.video_stream)
        decoder = stream.codec_context
        decoder.thread_count = num_threads
        decoder.thread_type = "NONE" if num_threads == 1 else "AUTO"
        decoder.options = {"max_pixels": str(limits.max_pixels)}
        if not conceal:
            decoder.options["err_detect"] = "crccheck+bitstream+buffer+explode"
        yield container, stream


@cache
def _gpu_decoder() -> tuple[HWAccel, av.CodecContext | None]:
    """Returns how this process opens the GPU's decoder: for all videos in one CUDA context, with what holds that.

    A context takes 0.4 s and 0.9 GB of the GPU's memory, and 3 s where 14 processes make one at once. The one that can
    be shared is CUDA's primary one; in a process whose torch has it already, with flags that FFmpeg does not take, each
    video has its own.
    """
    shared = HWAccel("cuda", allow_software_fallback=True, options={"primary_ctx": "1"})
    try:
        return shared, av.CodecContext.create("h264", "r", shared)  # reads nothing, and is kept with the result
    except DAMAGE as error:
        if getattr(error, "errno", None) != errno.ENOTSUP:
            raise
        return HWAccel("cuda", allow_software_fallback=True), None


def check_cuda_decoder() -> None:
    """Checks that this machine has a GPU that decodes, and the libraries for it. It takes some tenths of a second.

    Raises:
        ConfigError: it has none.
    """
    try:
        if "cuda" not in hwdevices_available():
            raise OSError("PyAV was built without it")
        ctypes.CDLL("libnvcuvid.so.1")
        av.CodecContext.create("h264", "r", HWAccel("cuda"))
    except DAMAGE as error:
        raise ConfigError(
            f"decode.hardware is cuda, and here is no such decoder ({in_words(error)}): run on a machine with an NVIDIA"
            " GPU and libnvcuvid (a container needs NVIDIA_DRIVER_CAPABILITIES=compute,utility,video), or give"
            " --extract.decode.hardware none"
        ) from error


def clock_of(container: InputContainer, stream: VideoStream, repairs: Mapping[int, int] | None = None) -> Clock:
    """Returns the clock of a stream, at its beginning."""
    time_base = stream.time_base or Fraction(1, 1000)
    return Clock(
        stream_index=stream.index,
        time_base=time_base,
        has_discontinuities=bool(container.format.flags & TS_DISCONT),
        wraps=container.format.name in WRAPPING,
        nominal_step=max(1, round(1 / (time_base * (stream.average_rate or FALLBACK_FPS)))),
        repairs=repairs or {},
    )


@dataclass
class PacketReader:
    """Packets of a container in file order, going on after read errors; `num_errors` counts those."""

    container: InputContainer
    streams: tuple[VideoStream, ...] = ()
    """Streams to read; none reads all."""
    beat: Callable[[], None] = lambda: None
    """Called after every packet and error."""
    clock: Clock | None = None
    """Corrects the timestamps of its stream's packets; None leaves them as they are."""
    num_errors: int = field(default=0, init=False)
    last_key_pts: int | None = field(default=None, init=False)
    """Timestamp of the keyframe that was read last."""

    def __iter__(self) -> Iterator[Packet[VideoStream]]:
        errors_in_a_row = 0
        while True:
            packets = self.container.demux(*self.streams)
            while True:
                try:
                    self.beat()
                    packet = next(packets, None)
                except IndexError:
                    # PyAV stumbles at the end over streams that turned up while reading; the packets are all read.
                    return
                except DAMAGE:
                    self.num_errors += 1
                    errors_in_a_row += 1
                    break
                if packet is None:
                    return
                errors_in_a_row = 0
                self._correct(packet)
                if packet.is_keyframe and packet.stream in self.streams:
                    self.last_key_pts = packet.pts
                if packet.size or packet.dts is not None:
                    yield packet  # type: ignore[misc]  # PyAV types the stream more widely than was asked for
            if errors_in_a_row > MAX_READ_ERRORS:
                return

    def _correct(self, packet: Packet[Any]) -> None:
        if self.clock is None or packet.stream_index != self.clock.stream_index:
            return
        if not packet.size and packet.dts is None:
            return
        duration, is_keyframe = packet.duration or 0, bool(packet.is_keyframe)
        pts, dts = self.clock.correct(packet.pts, packet.dts, duration, is_keyframe=is_keyframe)
        if (pts, dts) != (packet.pts, packet.dts):
            packet.pts, packet.dts = pts, dts


def decode_packet(decoder: VideoCodecContext, packet: Packet[VideoStream] | None) -> list[VideoFrame | Damage]:
    """Returns the frames that `packet` completes, or the error in their place. None as packet flushes the decoder."""
    if packet is not None and not packet.size:
        # An empty packet repeats the frame before; FFmpeg would take it for the end of the video.
        return []
    try:
        return list(decoder.decode(packet))
    except EOFError:
        return []
    except DAMAGE as error:
        return [error]


def shows_no_picture(codec: str, packet: Packet[VideoStream]) -> bool:
    """Returns whether a packet only prepares later frames (a VP8 alternate reference frame)."""
    if codec != "vp8" or not packet.size:
        return False
    # RFC 6386, section 9.1: bit 4 of the frame tag is show_frame.
    return not memoryview(packet)[0] & 0x10


def in_words(error: Damage) -> str:
    """Returns FFmpeg's message without Python's decoration."""
    if isinstance(error, MemoryError):
        return "out of memory"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip().rstrip(".")
