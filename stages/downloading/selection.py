"""The clips of a download that are used, and the rows of its ledger, both in the order of the links."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from stages.downloading.artifacts import DownloadRecord
from stages.downloading.link_results import ClipResult, LinkResult, link_id
from stages.downloading.listing import LinkTable
from stages.video.ledger import VideoRecord

REASONS: Final = {"duplicate": "its bytes came before", "beyond": "the hours were reached before"}


@dataclass
class ClipSelection:
    """The clips that are used: no content twice, and none beyond the hours."""

    target_s: float | None
    seconds: float = 0.0
    _seen: set[bytes] = field(default_factory=set)

    @property
    def is_full(self) -> bool:
        """True if the hours are reached."""
        return self.target_s is not None and self.seconds >= self.target_s - 1e-6

    def take(self, clip: ClipResult) -> str:
        """Takes the next clip in order; returns `downloaded`, `duplicate`, or `beyond` the hours."""
        if self.is_full:
            return "beyond"
        content = bytes.fromhex(clip.record.sha256)[:16]
        if content in self._seen:
            return "duplicate"
        self._seen.add(content)
        self.seconds += seconds_of(clip)
        return "downloaded"


def seconds_of(clip: ClipResult) -> float:
    """Returns the seconds that a clip counts for: what was requested, or the length of a whole file."""
    return round(clip.span[1] - clip.span[0], 6) if clip.span is not None else (clip.record.duration_us or 0) / 1e6


def ledger_rows(
    table: LinkTable,
    result_of: Callable[[int], LinkResult | None],
    target_s: float | None,
    is_used: Callable[[VideoRecord], object],
) -> Iterator[DownloadRecord]:
    """Yields the row of every clip, link and wrong line, in the order in which the links were requested.

    Args:
        table: the links.
        result_of: what became of a link, by its number.
        target_s: seconds of video that are enough; None takes all.
        is_used: called with the facts about each clip that is used, before its row.
    """
    selection = ClipSelection(target_s)
    for number in table.order_N.tolist():
        result, row = result_of(number), table[number]
        if result is None:
            continue
        about_link = DownloadRecord(
            link=link_id(row),
            uri=row.uri,
            line=row.line,
            status=result.status,
            reason=result.reason,
            asked_at=result.asked_at,
            attempts=result.num_requests,
            bytes_fetched=result.num_bytes,
            label=row.label,
            part=row.part,
            group=row.group,
            licence=row.licence,
        )
        if not result.clips:
            yield about_link
        for place, clip in enumerate(result.clips):
            verdict, record = selection.take(clip), clip.record
            if verdict == "downloaded":
                group = row.group or _group(row.uri, clip)
                is_used(replace(record, label=row.label, part=row.part, group=group))
            start_s, end_s = clip.span if clip.span is not None else (None, None)
            yield replace(
                about_link,
                status="duplicate" if verdict == "duplicate" else result.status,
                reason=REASONS.get(verdict, result.reason),
                bytes_fetched=0 if place else result.num_bytes,
                start_s=start_s,
                end_s=end_s,
                sha256=record.sha256,
                size_bytes=record.size_bytes,
                seconds=seconds_of(clip),
                is_used=verdict == "downloaded",
            )
    for row in table.wrong:
        yield DownloadRecord(link="", uri=row.uri, line=row.line, status="unusable", reason=row.problem)


def _group(uri: str, clip: ClipResult) -> str | None:
    """Returns the group that all clips of a video share, so that no split parts them; None for a whole file."""
    return None if clip.span is None else hashlib.sha256(uri.encode("utf-8", "surrogatepass")).hexdigest()[:16]
