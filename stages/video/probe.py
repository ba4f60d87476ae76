"""Facts about a video file, found without decoding more of it than its first frame.

Every packet is read once, which is cheap and gives the video's timeline: how many frames it promises and when each of
them is shown. Bad bytes never raise: they give a `Probe` whose verdict is `rejected` and whose reason says why.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from pipeline.core.error_words import NO_FILE
from stages.video.container import in_words, open_video
from stages.video.fetch import is_answer_in_words, unreadable_reason
from stages.video.filters import Orientation, orientation_of, rotation_degrees
from stages.video.ledger import NOT_READ, Verdict, VideoRecord
from stages.video.limits import Limits
from stages.video.processes import watchdog
from stages.video.scan import Scan
from stages.video.sources import VideoSource, is_plain_path, local_video
from stages.video.streams import DAMAGE, NoVideoError, others_in_words
from stages.video.timeline import Timeline

HASH_BYTES: Final = 1 << 20

PROBED: Final = (
    *("container", "codec", "pixel_format", "width", "height", "rotation_degrees", "fps", "duration_us"),
    *("frames_expected", "verdict"),
)
"""The facts of a `Probe` that a record has by the same names."""

EMPTY = Timeline(np.empty(0, np.int64), np.empty(0, np.bool_), None)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The facts that one reading of a file's packets gives. A field is None where nothing could be found out."""

    container: str | None = None
    codec: str | None = None
    pixel_format: str | None = None
    width: int | None = None
    """Pixels, as displayed: after rotation; non-square pixels are not stretched."""
    height: int | None = None
    rotation_degrees: int = 0
    """Clockwise: 0, 90, 180 or 270."""
    fps: float | None = None
    duration_us: int | None = None
    """From the first frame's timestamp to the end of the last; what the header says where no frame can be read."""
    verdict: Verdict
    """Provisional: a video that is `ok` here may still turn out `partial` or `rejected` when it is decoded."""
    reason: str = ""
    other_streams: str = ""
    """A clause on the video streams that are not decoded; empty where there are none."""
    timeline: Timeline = field(default=EMPTY, repr=False)
    orientation: Orientation | None = field(default=None, repr=False)
    """The orientation of the first frame that decodes."""

    @property
    def frames_expected(self) -> int:
        """Frames that the file says it holds (see `stages.video.ledger`)."""
        return self.timeline.num_expected


def probe(path: str | os.PathLike[str], limits: Limits | None = None) -> Probe:
    """Probes a local file. Never raises on what the file holds.

    Takes at most `limits.min_decode_s` plus one packet; a decoder that never returns is for
    `stages.video.processes.watchdog`.
    """
    limits = limits or Limits()
    try:
        if os.stat(path).st_size == 0:
            return Probe(verdict="rejected", reason="the file is empty (0 bytes)")
        with watchdog.watched(str(path)) as heartbeat, open_video(path, limits) as (container, stream):
            return _judge(Scan(container, stream, limits, heartbeat.beat), limits)
    except NoVideoError as error:
        return Probe(verdict="rejected", reason=str(error))
    except DAMAGE as error:
        is_other = getattr(error, "errno", None) == errno.EINVAL  # so FFmpeg refuses what `FORMATS` does not name
        why = "its format is none of those that are read as videos" if is_other else in_words(error)
        return Probe(verdict="rejected", reason=f"cannot be opened as a video: {why}")


def _judge(scan: Scan, limits: Limits) -> Probe:
    """Returns the probe of a scanned video, with a verdict."""
    stream, decoder = scan.stream, scan.stream.codec_context
    result = Probe(
        container=scan.container.format.name,
        codec=decoder.name,
        pixel_format=decoder.pix_fmt,
        width=scan.header_size[0] or None,
        height=scan.header_size[1] or None,
        fps=float(stream.average_rate) if stream.average_rate else None,
        duration_us=scan.duration_us or scan.container.duration,
        verdict="ok",
        other_streams=others_in_words(scan.container, stream),
    )
    if scan.first is not None:
        orientation = orientation_of(scan.first)
        turned = rotation_degrees(orientation.matrix)
        width, height = scan.first.width, scan.first.height
        result = replace(
            result,
            pixel_format=scan.first.format.name,
            width=height if turned in (90, 270) else width,
            height=width if turned in (90, 270) else height,
            rotation_degrees=turned,
            orientation=orientation,
        )
    if (result.width or 0) * (result.height or 0) > limits.max_pixels:
        reason = f"has {result.width}x{result.height} frames, more than max_pixels = {limits.max_pixels}"
        return replace(result, verdict="rejected", reason=reason)
    if scan.stopped:
        return replace(result, verdict="rejected", reason=scan.stopped)
    result = replace(result, timeline=scan.timeline())
    if scan.first is None:
        why = f"no frame can be decoded: {scan.error}" if scan.error else "no frame can be decoded"
        return replace(result, verdict="rejected", reason=why if scan.num_packets else "holds no readable frame")
    if result.timeline.num_unreadable:
        reason = f"{result.timeline.num_unreadable} of {result.timeline.num_expected} frames are not in the file"
        return replace(result, verdict="partial", reason=reason)
    if scan.num_errors:
        return replace(result, verdict="partial", reason=f"{scan.num_errors} errors while reading the file")
    return result


def probe_source(source: VideoSource, limits: Limits, probe: Callable[[Path, Limits], Probe] = probe) -> VideoRecord:
    """Hashes and probes one video; whatever is wrong with it ends up in the record."""
    rejected = partial(_record, source, sha256="", size_bytes=source.size_bytes or 0, verdict="rejected")
    if source.problem:
        return rejected(reason=source.problem)
    if (uri := readable_name(source.uri)) != source.uri:
        return replace(rejected(reason="its name is not UTF-8; rename it"), uri=uri)
    try:
        with local_video(source.uri, max_bytes=limits.max_bytes) as path:
            digest = hashlib.sha256()
            size_bytes = 0
            with open(path, "rb") as file:
                while piece := file.read(HASH_BYTES):
                    digest.update(piece)
                    size_bytes += len(piece)
            result = probe(path, limits)
            if result.verdict == "rejected" and is_answer_in_words(source.uri, path):
                return rejected(reason=f"{NOT_READ}the server sends a page of text, and no video")
    except OSError as error:
        is_gone = isinstance(error, FileNotFoundError) and is_plain_path(source.uri)
        return rejected(reason=NO_FILE if is_gone else unreadable_reason(error, source.uri))
    return _record(
        source,
        sha256=digest.hexdigest(),
        size_bytes=size_bytes,
        **{name: getattr(result, name) for name in PROBED},
        reason="; ".join(filter(None, (result.reason, result.other_streams))),
    )


def readable_name(uri: str) -> str:
    """Returns the URI, with escapes for what is not UTF-8 in it."""
    return uri.encode("utf-8", "backslashreplace").decode()


def _record(source: VideoSource, **facts: Any) -> VideoRecord:
    return VideoRecord(uri=source.uri, label=source.label, part=source.part, group=source.group, **facts)
