"""Clips cut out of a video without encoding anew: the packets of its seconds, behind those that they need.

A clip begins with the keyframe before its first second. MP4 has an edit list for that: the frames before are decoded
and not shown, and count as dropped. Codecs that MP4 cannot hold go to Matroska, which has none; there a clip begins at
its keyframe. A frame or two behind the end may come along, which others lean on.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from stages.downloading.http_files import too_large
from stages.downloading.problems import LinkError, Problem
from stages.downloading.range_file import RangeFile
from stages.video.container import FORMATS, in_words
from stages.video.limits import Limits
from stages.video.streams import DAMAGE, NoVideoError, choose_stream

US: Final = 1_000_000


@dataclass(frozen=True)
class CutClip:
    """A clip that was cut: a file, and the seconds of the video that it shows."""

    path: Path
    span: tuple[float, float]


@contextmanager
def opened(source: Path | RangeFile, limits: Limits) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens a video to be cut.

    Raises:
        LinkError: it is no video; what a server breaks off with.
    """
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
    name: Any = f"file:{source}" if isinstance(source, Path) else source
    try:
        with closing(av.open(name, mode="r", options=options, metadata_errors="replace")) as container:
            yield container, choose_stream(container, limits.video_stream)
    except NoVideoError as error:
        raise LinkError(Problem(status="unusable", reason=str(error))) from error
    except DAMAGE as error:
        raise LinkError(Problem(status="unusable", reason=f"cannot be read as a video: {in_words(error)}")) from error


def duration_s(container: InputContainer, stream: VideoStream) -> float | None:
    """Returns a video's length in seconds, as its header says."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / US if container.duration else None


def cut(
    container: InputContainer,
    stream: VideoStream,
    spans: Sequence[tuple[float, float]],
    directory: Path,
    *,
    max_bytes: int,
    beat: Callable[[], None],
) -> list[CutClip]:
    """Writes the clips of an open video, in their order; equal videos and spans give equal bytes.

    Raises:
        LinkError: they have more than `max_bytes`, or the video has no packets there.
    """
    clips: list[CutClip] = []
    left = max_bytes
    directory.mkdir(parents=True, exist_ok=True)
    for number, span in enumerate(spans):
        path = directory / f"clip-{number}"
        with open(path, "wb") as file:
            try:
                shown = _cut_one(container, stream, span, file, left, beat)
            except DAMAGE as error:
                reason = f"cannot be cut: {in_words(error)}"
                raise LinkError(Problem(status="unusable", reason=reason)) from error
        if shown is not None:
            clips.append(CutClip(path, shown))
        left -= path.stat().st_size
    return clips


def _cut_one(
    container: InputContainer,
    stream: VideoStream,
    span: tuple[float, float],
    file: BinaryIO,
    max_bytes: int,
    beat: Callable[[], None],
) -> tuple[float, float] | None:
    """Writes one clip; returns the seconds that it shows, or None where the video has no packet there."""
    time_base = stream.time_base
    assert time_base is not None
    origin = stream.start_time or 0
    first, end = (origin + round(seconds / time_base) for seconds in span)
    container.seek(first, stream=stream, backward=True)
    form = _format_for(stream)
    has_edit_lists = form == "mp4"
    options = {"fflags": "+bitexact"}
    zero: int | None = first if has_edit_lists else None
    has_shown = False
    with av.open(file, "w", format=form, options=options) as output:
        copied = output.add_stream_from_template(stream)
        for packet in container.demux(stream):
            beat()
            if packet.dts is None or packet.pts is None:
                continue
            if packet.dts >= end:
                break
            has_shown = has_shown or packet.pts >= first
            if zero is None:
                zero = packet.pts
            packet.pts, packet.dts, packet.stream = packet.pts - zero, packet.dts - zero, copied
            output.mux(packet)
            if file.tell() > max_bytes:
                raise too_large(max_bytes)
    if not has_shown or zero is None:
        return None
    return (span[0] if has_edit_lists else max(0.0, float((zero - origin) * time_base)), span[1])


def _format_for(stream: VideoStream) -> str:
    """Returns the container format of a stream's clips: MP4 if it takes the codec."""
    with av.open(io.BytesIO(), "w", format="mp4") as trial:
        try:
            trial.add_stream_from_template(stream)
        except ValueError:
            return "matroska"
    return "mp4"
