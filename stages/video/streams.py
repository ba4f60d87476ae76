"""The choice of the video stream to decode, as ffmpeg makes it.

A cover picture never is. Moving pictures come before a still; then the larger frame counts, and the flag `default` as
much as five million pixels (`map_auto_video` in fftools/ffmpeg_mux_init.c; that a stream of many frames comes before
one of few is `av_find_best_stream`'s rule).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

DEFAULT_PIXELS: Final = 5_000_000
"""Pixels that the flag `default` counts for."""

PEEK_PACKETS: Final = 400
"""Most packets of a file that are read to tell a film from a still."""

DAMAGE = (av.FFmpegError, OSError, ValueError, MemoryError)
"""The exceptions of PyAV on bad bytes: FFmpeg's errors, the system's, unknown codecs and impossible sizes."""


class NoVideoError(Exception):
    """The file has no video stream to decode. Stays inside this package: callers get a rejected video."""


def choose_stream(container: InputContainer, number: int | None, again: InputContainer | None = None) -> VideoStream:
    """Returns the stream to decode: that with the number `number` in the file, or the one that ffmpeg would take.

    `again`: the same file, opened once more, whose first packets may be read; without it, no stream counts as a still.

    Raises:
        NoVideoError: there is no such stream, or no decoder for it.
    """
    candidates = films(container)
    if number is not None:
        chosen = [stream for stream in container.streams.video if stream.index == number]
        if not chosen:
            there = ", ".join(str(stream.index) for stream in container.streams.video) or "none"
            raise NoVideoError(f"stream {number} (video_stream) holds no video; streams with video: {there}")
        return _with_decoder(chosen)
    if not candidates:
        if container.streams.video:
            raise NoVideoError("holds no video stream, only a cover picture")
        kinds = sorted({stream.type for stream in container.streams})
        raise NoVideoError(f"holds no video stream, only {' and '.join(kinds)}" if kinds else "holds no streams at all")
    if len(candidates) > 1:
        num_packets = _peek(again) if again is not None else Counter()
        most = max(num_packets.values(), default=0)
        # Later streams win only where they are better: max() takes the first of equals, as ffmpeg does.
        candidates = [max(candidates, key=lambda stream: _rank(stream, num_packets[stream.index] > 1 or most <= 1))]
    return _with_decoder(candidates)


def films(container: InputContainer) -> list[VideoStream]:
    """Returns the video streams that are not cover pictures."""
    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


def others_in_words(container: InputContainer, chosen: VideoStream) -> str:
    """Returns a clause on the video streams that are not decoded; empty where there are none."""
    others = [_describe(stream) for stream in films(container) if stream.index != chosen.index]
    if not others:
        return ""
    return f"{_describe(chosen)} is taken, of {len(others) + 1} video streams; not taken: {', '.join(others)}"


def _describe(stream: VideoStream) -> str:
    decoder = getattr(stream, "codec_context", None)
    size = f" ({decoder.name}, {decoder.width}x{decoder.height})" if decoder is not None else " (no decoder)"
    return f"stream {stream.index}{size}"


def _rank(stream: VideoStream, is_moving: bool) -> tuple[bool, bool, int]:
    decoder = getattr(stream, "codec_context", None)
    pixels = decoder.width * decoder.height if decoder is not None else 0
    is_default = bool(stream.disposition & Disposition.default)
    return decoder is not None, is_moving, pixels + DEFAULT_PIXELS * is_default


def _peek(container: InputContainer) -> Counter[int]:
    """Returns the packets of each stream among the file's first, until every film has two."""
    num_packets: Counter[int] = Counter()
    wanted = {stream.index for stream in films(container)}
    try:
        for number, packet in enumerate(container.demux(video=())):
            if packet.size:
                num_packets[packet.stream_index] += 1
            if number > PEEK_PACKETS or all(num_packets[index] > 1 for index in wanted):
                break
    except (*DAMAGE, IndexError):
        pass  # what could be read decides; the damage itself is found when the file is scanned
    return num_packets


def _with_decoder(streams: Sequence[VideoStream]) -> VideoStream:
    # PyAV leaves the context out where FFmpeg has no decoder for the codec.
    if getattr(streams[0], "codec_context", None) is None:
        raise NoVideoError("holds a video stream that FFmpeg has no decoder for")
    return streams[0]
