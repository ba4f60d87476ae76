"""The ledger: one row a video, and where every one of its frames went.

`ingest` writes an index (`index.parquet`) with rows whose frame counts are still promises; `extract` writes a ledger
(`ledger.parquet`) with the same columns and the counts it found. In a finished row the account closes:

    frames_expected = frames_decoded + frames_dropped + frames_missing

expected  frames that the file says it holds: those its container declares or, where it declares none, those its
          packets would show.
decoded   frames that came out and were handed on: as many rows has the video in the percept store.
dropped   frames that were left out on purpose: cut away by an edit list, repeats of the frame before (empty packets
          of AVI), packets that show no picture of their own, and frames between the ticks of a target frame rate.
missing   frames that should have come out and did not: undecodable, unreadable, or behind the end of a truncated file.

`ok` means nothing is missing; `partial` that some frames are usable and something is wrong, as `reason` says;
`rejected` that no frame is used (frames_decoded is 0).
"""

from __future__ import annotations

import itertools
import posixpath
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Final, Literal

import pyarrow as pa

from pipeline.core.files import absolute, join
from pipeline.core.parquet import groups_of, iter_checked, write_groups
from pipeline.core.records import column_types

Verdict = Literal["ok", "partial", "rejected"]

NOT_READ: Final = "could not be read: "
"""The beginning of the reason of a video that was rejected for a cause outside its bytes: a network, credentials, a
server. The next run looks at it again."""

COPY_OF: Final = "same bytes as "
"""The beginning of what is said of a video that repeats an earlier one's bytes, after its reason."""

KINDS_OF_FRAMES: Final = ("expected", "decoded", "dropped", "missing")
"""The kinds of frames of an account."""

NUM_REASONS: Final = 5
"""The number of reasons that a sentence on rejected videos has."""

FORMAT = "1"
"""Version of the columns, in the file's metadata under `percepts.ledger`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoRecord:
    """The facts about one video. A field is None where nothing could be found out."""

    uri: str
    """Local path or fsspec URL."""
    sha256: str
    """Hex digest of the file's bytes; empty where they could not be read."""
    size_bytes: int
    container: str | None = None
    """FFmpeg's name of the container format."""
    codec: str | None = None
    """FFmpeg's name of the codec."""
    pixel_format: str | None = None
    """FFmpeg's name of the decoded frames' format, such as yuv420p10le."""
    width: int | None = None
    """Pixels, as displayed: after rotation. Non-square pixels are not stretched."""
    height: int | None = None
    """Pixels, as displayed: after rotation."""
    rotation_degrees: int = 0
    """Clockwise turn that brings stored frames upright: 0, 90, 180 or 270."""
    fps: float | None = None
    """Average frame rate."""
    duration_us: int | None = None
    """From the first frame's timestamp to the end of the last one."""
    frames_expected: int = 0
    frames_decoded: int | None = None
    """None in an index: nothing has been decoded yet."""
    frames_dropped: int | None = None
    frames_missing: int | None = None
    verdict: Verdict
    """Provisional in an index."""
    reason: str = ""
    """One sentence; empty where there is nothing to say."""
    label: str | None = None
    """Class of the video; None when unlabelled."""
    part: str | None = None
    """The side of a split that the source's manifest puts it on (such as pretrain, train, test)."""
    group: str | None = None
    """Videos of one group share a source and must stay on one side of any split."""

    def __post_init__(self) -> None:
        assert self.verdict in ("ok", "partial", "rejected"), self.verdict
        assert self.frames_expected >= 0
        if self.frames_decoded is None:
            return
        assert self.frames_dropped is not None
        assert self.frames_missing is not None
        total = self.frames_decoded + self.frames_dropped + self.frames_missing
        assert total == self.frames_expected, f"{self.uri}: {self.frames_expected} expected, {total} found"
        assert (self.frames_decoded == 0) == (self.verdict == "rejected"), f"{self.uri}: {self.verdict}"

    @property
    def may_pass(self) -> bool:
        """The answer to whether a cause outside its bytes rejected the video, so that another look may find it well."""
        return self.verdict == "rejected" and self.reason.startswith(NOT_READ)


_TYPES: Final = {"string": pa.string(), "long": pa.int64(), "double": pa.float64()}
_NARROW: Final = ("width", "height", "rotation_degrees")
SCHEMA = pa.schema(
    [
        pa.field(
            field.name,
            pa.int32() if field.name in _NARROW else _TYPES[column_types(VideoRecord)[field.name]],
            nullable=str(field.type).endswith("| None"),
        )
        for field in fields(VideoRecord)
    ],
    metadata={"percepts.ledger": FORMAT},
)

REPEATED: Final = ("container", "codec", "pixel_format", "verdict", "reason", "label", "part", "group")
"""Columns with texts that many rows have."""


@dataclass(kw_only=True)
class VideoTotals:
    """The sums of videos: how many there are of each verdict, and the frames of those whose frames were counted."""

    num_videos: int = 0
    num_extracted: int = 0
    """The videos whose frames were counted."""
    _verdicts: Counter[str] = field(default_factory=Counter)
    _frames: Counter[str] = field(default_factory=Counter)

    def add(self, record: VideoRecord) -> None:
        """Adds a video."""
        self.num_videos += 1
        self._verdicts[record.verdict] += 1
        if record.frames_decoded is not None:
            self.num_extracted += 1
            self._frames.update({kind: getattr(record, f"frames_{kind}") or 0 for kind in KINDS_OF_FRAMES})

    def count(self, verdict: str) -> int:
        """Counts the videos with a verdict."""
        return self._verdicts[verdict]

    def frames(self, kind: str) -> int:
        """Sums frames of a kind over the videos whose frames were counted."""
        return self._frames[kind]


def rejections_in_words(records: Iterable[VideoRecord]) -> str:
    """Returns how many videos are rejected, with the most frequent reasons and their counts; empty: none is.

    Reasons that differ in numbers alone are one, in the words of the first video. A single video is named.
    """
    counts: Counter[str] = Counter()
    first: dict[str, VideoRecord] = {}
    for record in records:
        if record.verdict == "rejected":
            reason = record.reason.partition(f"; {COPY_OF}")[0]
            kind = re.sub(r"\d+", "0", reason)
            counts[kind] += 1
            first.setdefault(kind, replace(record, reason=reason))
    if counts.total() == 1:
        (record,) = first.values()
        return f"{record.uri}: {record.reason}"
    most = counts.most_common(NUM_REASONS)
    reasons = [f"{count:,}: {first[kind].reason}" for kind, count in most]
    if num_others := counts.total() - sum(count for _, count in most):
        reasons.append(f"{num_others:,}: other reasons")
    return f"{counts.total():,} rejected ({'; '.join(reasons)})" if counts else ""


def amounts_of(records: Iterable[VideoRecord], **used: Collection[str]) -> dict[str, int | float | str]:
    """Returns how much video a stage used, as facts: `training/num_videos`, `training/num_frames`, `training/hours`.

    Frames are those that became percepts; hours are of whole videos. `training/digest` says which videos they were, in
    any order.

    used: `training`, `validation` or `test` -> sha256 of its videos.
    """
    sums = {use: [0, 0, 0, 0] for use in used}
    for record in records:
        for use, videos in used.items():
            if record.sha256 in videos:
                amounts = (1, record.frames_decoded or 0, record.duration_us or 0, int(record.sha256[-16:], 16))
                sums[use] = [total + amount for total, amount in zip(sums[use], amounts, strict=True)]
    facts: dict[str, int | float | str] = {}
    for use, (num_videos, num_frames, duration_us, digest) in sums.items():
        facts |= {
            f"{use}/num_videos": num_videos,
            f"{use}/num_frames": num_frames,
            f"{use}/hours": round(duration_us / 3.6e9, 4),
            f"{use}/digest": f"{digest % (1 << 64):016x}",
        }
    return facts


def write_records(uri: str, records: Iterable[VideoRecord], *, store_uri: str | None = None) -> None:
    """Writes rows as Parquet, atomically, in the order given.

    Equal rows give equal bytes, and a row group of them is in memory.

    Videos that lie in the store itself (`store_uri`) are written relative to the file's directory, so that a store
    may be moved and two stores that hold the same are equal byte for byte.
    """
    tables: Iterable[pa.Table] = map(to_table, groups_of(records))
    if store_uri is not None:
        directory, root = posixpath.dirname(absolute(uri)), absolute(store_uri).rstrip("/")
        tables = (_with_stored_uris(table, directory, root) for table in tables)
    write_groups(uri, SCHEMA, tables)


def to_table(records: Sequence[VideoRecord]) -> pa.Table:
    """Returns rows of a ledger as a table with its columns."""
    columns = {name: [getattr(record, name) for record in records] for name in SCHEMA.names}
    return pa.Table.from_pydict(columns, schema=SCHEMA)


def read_records(uri: str) -> list[VideoRecord]:
    """Returns the rows of an index or ledger file, in its order, with absolute URIs. Raises as `iter_records`."""
    return list(iter_records(uri))


def iter_records(uri: str) -> Iterator[VideoRecord]:
    """Yields the rows one after the other; in memory is a row group of records.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptArtifact: the file is not Parquet or lacks columns.
        StoreError: a newer version of percepts wrote it.
    """
    directory = posixpath.dirname(absolute(uri))
    for table in read_tables(uri):
        for row in table.to_pylist():
            # Equal words of many rows are one string: a record that is kept takes half as much.
            shared = {name: sys.intern(row[name]) for name in REPEATED if row[name] is not None}
            yield VideoRecord(**{**row, **shared, "uri": _from_stored(row["uri"], directory)})


def read_tables(uri: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yields the row groups of an index or ledger file, with URIs as they are stored.

    In memory is one of them. Raises as `iter_records`.
    """
    return iter_checked(uri, SCHEMA, "a ledger of videos", columns=columns)


def same_but_words(records: Iterable[VideoRecord], others: Iterable[VideoRecord]) -> bool:
    """Returns whether rows are equal, except for the words in which videos are rejected."""
    pairs = itertools.zip_longest(map(_without_words, records), map(_without_words, others))
    return all(one == other for one, other in pairs)


def _without_words(record: VideoRecord) -> VideoRecord:
    return replace(record, reason="") if record.verdict == "rejected" else record


def _with_stored_uris(table: pa.Table, directory: str, root: str) -> pa.Table:
    uris = [_to_stored(uri, directory, root) for uri in table["uri"].to_pylist()]
    return table.set_column(0, SCHEMA.field("uri"), pa.array(uris, pa.string()))


def _to_stored(video_uri: str, directory: str, root: str) -> str:
    """Returns the URI relative to the file's directory where both lie below `root`; these two are absolute."""
    video = absolute_video(video_uri)
    if not video.startswith(root + "/") or not directory.startswith(root):
        return video_uri
    return posixpath.relpath(video[len(root) :], directory[len(root) :] or "/")


def _from_stored(stored: str, directory: str) -> str:
    if "://" in stored or stored.startswith("/"):
        return stored
    scheme, separator, path = directory.rpartition("://")
    return scheme + separator + posixpath.normpath(join(path, stored))


def absolute_video(uri: str) -> str:
    """Returns `uri` made absolute without fsspec, to which `::` and `~` in a file's name have a meaning."""
    return uri if "://" in uri or uri.startswith("/") else absolute(uri)
