"""The artifact of a download: the clips as a corpus, the facts about each, and the ledger of the links.

`downloads.parquet` has a row for every clip, every link without one, and every line of a list that cannot be used.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Final, Self

import pyarrow as pa

from pipeline.core.errors import CorruptArtifact, SourceError
from pipeline.core.parquet import groups_of, iter_checked, write_groups
from pipeline.core.records import column_types
from stages.downloading.clip_rules import Span
from stages.video.artifacts import INDEX_NAME, TO_LOOK_AT, Corpus
from stages.video.ledger import VideoRecord, iter_records

DOWNLOADS_NAME: Final = "downloads.parquet"
FORMAT: Final = "1"


@dataclass(frozen=True, kw_only=True, slots=True)
class DownloadRecord:
    """A row of the ledger of links: a clip, or a link without one."""

    link: str
    """Hex digits that stand for video and seconds of the line; a pinned run is matched by them."""
    uri: str
    """The link, without a signature or password; the list's address and line where that cannot be used."""
    line: int
    """Number of the line in its list."""
    status: str
    """One of `stages.downloading.link_results.Status`; `duplicate` is a clip whose bytes came under another link."""
    reason: str
    asked_at: str = ""
    """Time in UTC, ISO 8601, at which the link was requested; empty where it was not."""
    attempts: int = 0
    bytes_fetched: int = 0
    """Bytes that came over the network for the link; at its first clip."""
    start_s: float | None = None
    """Start of the clip in its video, seconds; None is the whole file."""
    end_s: float | None = None
    sha256: str = ""
    """Hex digest of the clip's bytes; empty where there is none."""
    size_bytes: int = 0
    seconds: float = 0.0
    """Length of the clip."""
    is_used: bool = False
    """A flag of the clips of the corpus: it is no duplicate, and --hours were not reached before."""
    label: str | None = None
    part: str | None = None
    group: str | None = None
    licence: str | None = None


_TYPES: Final = {"string": pa.string(), "long": pa.int64(), "double": pa.float64(), "boolean": pa.bool_()}
_SCHEMA: Final = pa.schema(
    [(name, _TYPES[kind]) for name, kind in column_types(DownloadRecord).items()],
    metadata={"percepts.downloads": FORMAT},
)


def write_downloads(uri: str, records: Iterable[DownloadRecord]) -> None:
    """Writes the ledger of links as Parquet, atomically; in memory is a row group."""
    groups = groups_of(map(asdict, records))
    write_groups(uri, _SCHEMA, (pa.Table.from_pylist(group, schema=_SCHEMA) for group in groups))


def iter_downloads(uri: str) -> Iterator[DownloadRecord]:
    """Yields the rows of a ledger of links.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptArtifact: it is no ledger of links.
        StoreError: a newer version of percepts wrote it.
    """
    for table in iter_checked(uri, _SCHEMA, "a ledger of links"):
        for row in table.to_pylist():
            yield DownloadRecord(**row)


def read_pinned(uri: str) -> dict[str, tuple[Span, ...]]:
    """Returns the clips that an earlier run used: link -> spans, in their order.

    Raises:
        SourceError: there is no such ledger of links, or it has no clip.
    """
    pinned: dict[str, list[Span]] = {}
    try:
        for record in iter_downloads(uri):
            if record.is_used:
                span = None if record.start_s is None or record.end_s is None else (record.start_s, record.end_s)
                pinned.setdefault(record.link, []).append(span)
    except (FileNotFoundError, CorruptArtifact) as error:
        rule = f"--pin takes the {DOWNLOADS_NAME} of an earlier run, in its store below download/"
        raise SourceError(f"cannot read {uri!r}: {error}; {rule}") from error
    if not pinned:
        raise SourceError(f"{uri!r} has no clip that was used; give the {DOWNLOADS_NAME} of a run that has")
    return {link: tuple(spans) for link, spans in pinned.items()}


@dataclass(frozen=True)
class Downloads(Corpus):
    """Clips of links as a corpus, with `downloads.parquet`: what became of every link.

    Their files may be gone, once they were extracted; `index.parquet` has the facts that ingest would find.
    """

    columns = column_types(DownloadRecord)

    def iter_records(self) -> Iterator[VideoRecord]:
        """Yields the facts about each clip, in the order of the corpus."""
        return iter_records(self.path(INDEX_NAME))

    def num_to_look_at(self, facts: Mapping[str, int | float | str], *, all_rejected: bool = False) -> int:
        """Returns how many links are blocked or failed, where clips are still wanted; or how many gave no clip."""
        if all_rejected:
            return int(facts["num_asked"]) - int(facts.get("num_downloaded", 0))
        return int(facts.get(TO_LOOK_AT, 0))

    def has_same_videos(self, other: Self) -> bool:
        """Returns whether both have the same clips."""
        return all(a == b for a, b in itertools.zip_longest(self.iter_records(), other.iter_records()))

    def iter_links(self) -> Iterator[DownloadRecord]:
        """Yields what became of every link."""
        return iter_downloads(self.path(DOWNLOADS_NAME))
