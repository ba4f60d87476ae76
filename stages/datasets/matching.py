"""Which video of an index is which clip of a data set.

Clips are matched by file name, whatever the folder, the suffix or the case of the file: copies of UCF-101 spell
`HandStandPushups` both ways, and clips are often converted to other containers.
"""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.core.errors import SourceError
from stages.datasets.official import OfficialClip
from stages.video.ledger import VideoRecord


@dataclass(frozen=True, kw_only=True)
class Match:
    """What became of each clip of the lists, and of each video of the index."""

    found: dict[str, VideoRecord]
    """Usable videos, by the clip's name; in the lists' order."""
    unreadable: dict[str, VideoRecord]
    """Videos that are there and were rejected, by the clip's name."""
    missing: tuple[str, ...]
    """Names of the clips that no video has."""
    extra: tuple[VideoRecord, ...]
    """Videos that the lists do not name."""
    twins: tuple[tuple[str, ...], ...]
    """Names of clips whose files hold the same bytes: two or more each."""


def name_of(uri: str) -> str:
    """What a video is matched by."""
    return posixpath.splitext(posixpath.basename(uri))[0].casefold()


def match(clips: Sequence[OfficialClip], records: Sequence[VideoRecord]) -> Match:
    """Match videos with clips.

    Raises:
        SourceError: two videos with different bytes have the name of one clip.
    """
    known = {clip.name.casefold() for clip in clips}
    videos: dict[str, VideoRecord] = {}
    extra: list[VideoRecord] = []
    for record in records:
        name = name_of(record.uri)
        if name not in known:
            extra.append(record)
            continue
        other = videos.setdefault(name, record)
        if other.sha256 != record.sha256:
            raise SourceError(
                f"{other.uri} and {record.uri} have one clip's name and different bytes; leave one of them out"
            )
    there = {clip.name: videos[clip.name.casefold()] for clip in clips if clip.name.casefold() in videos}
    found = {name: record for name, record in there.items() if record.verdict != "rejected"}
    return Match(
        found=found,
        unreadable={name: record for name, record in there.items() if record.verdict == "rejected"},
        missing=tuple(clip.name for clip in clips if clip.name not in there),
        extra=tuple(extra),
        twins=twins_of(found),
    )


def twins_of(found: dict[str, VideoRecord]) -> tuple[tuple[str, ...], ...]:
    """Names whose videos hold the same bytes, in the order of `found`."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    for name, record in found.items():
        names[record.sha256].append(name)
    return tuple(tuple(same) for same in names.values() if len(same) > 1)
