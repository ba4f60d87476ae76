"""The arrow of time as a task: every class a second time, its clips played backwards.

Opening and closing, sitting down and standing up have the same frames and differ in their order alone. What
pools the frames of a clip is at chance between a clip and its reversal, whatever the frames are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Final

from pipeline.core.errors import SourceError
from stages.video.ledger import VideoRecord

REVERSED: Final = ", reversed"
"""End of the name of a class whose clips are played backwards."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReversedClip(VideoRecord):
    """A clip that is read from its last frame to its first."""


def with_reversals(clips: Iterable[VideoRecord]) -> list[VideoRecord]:
    """Returns labelled clips, each followed by its reversal, which is of a class of its own.

    Raises:
        SourceError: a class has the name of a reversal already.
    """
    both: list[VideoRecord] = []
    for clip in clips:
        if str(clip.label).endswith(REVERSED):
            raise SourceError(f"{clip.uri} is of class {clip.label!r}, and {REVERSED!r} marks reversals: rename it")
        facts = {field.name: getattr(clip, field.name) for field in fields(VideoRecord)}
        both += [clip, ReversedClip(**{**facts, "label": f"{clip.label}{REVERSED}"})]
    return both


def with_reversed_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of classes and of their reversals, sorted."""
    return tuple(sorted([*class_names, *(f"{name}{REVERSED}" for name in class_names)]))


def reversal_pairs(class_names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Returns (class, its reversal) for every class that has one."""
    names = set(class_names)
    return tuple((name, f"{name}{REVERSED}") for name in class_names if f"{name}{REVERSED}" in names)


def clip_identity(clip: VideoRecord) -> str:
    """Returns a name that a clip shares with no other, and not with its reversal."""
    return f"{clip.sha256}{REVERSED}" if isinstance(clip, ReversedClip) else clip.sha256
