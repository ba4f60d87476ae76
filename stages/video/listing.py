"""Listings of videos: the one that a key is made of, and the sources and results of an index.

A key that depends on a folder or a bucket holds the digest of its listing. `SourceListing` keeps that listing in a
Parquet file, which travels to the stage, so that a file that arrives in between is not read under a key that does not
know of it.

Shapes: N sources.
"""

from __future__ import annotations

import itertools
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.disk_list import DiskList
from pipeline.core.files import CHUNK_BYTES, open_atomic, read_bytes, sha256_bytes
from pipeline.core.parquet import groups_of, iter_tables
from pipeline.core.printable import labels_in_words
from pipeline.core.rates import BYTES_PER_FRAME, PROBED_VIDEOS_PER_S
from pipeline.core.stage import Context, Estimate, Listing
from stages.video import probe_cache
from stages.video.ledger import VideoRecord
from stages.video.limits import Limits
from stages.video.lists.published import Note
from stages.video.lists.rows import STRANGERS, ListRules
from stages.video.lists.seen import SeenTexts
from stages.video.record_table import DIGEST_BYTES, DigestOrder, digests
from stages.video.sources import VideoSource, hash_sources, iter_videos, unique_sources, with_stamp

REQUESTS_AT_A_TIME: Final = 32
"""Requests to an object store at a time for URLs of which only the name is known: each takes some tens of
milliseconds."""

_TEXT_COLUMNS: Final = ("uri", "stamp", "label", "part", "group", "problem")
_SCHEMA: Final = pa.schema([("size_bytes", pa.int64()), *((name, pa.binary()) for name in _TEXT_COLUMNS)])
"""Columns of a listing. Text is binary, because file names need not be UTF-8."""
_LISTED_AT: Final = b"percepts.listed_at_ns"
_NOTES: Final = b"percepts.notes"


class ParquetListing(Listing):
    """A listing in a temporary file without a name: nothing of it is left, and no forked process removes it."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="percepts-")  # noqa: SIM115
        self._digest = ""
        self._notes: list[str] = []

    def __del__(self) -> None:
        self._file.close()

    @property
    def digest(self) -> str:
        """Digest of all that was listed."""
        return self._digest

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what was left out of the listing, or read in another way than may be expected."""
        return tuple(self._notes)

    def write(self, uri: str) -> None:
        """Copies the listing to `uri`, atomically."""
        self._file.seek(0)
        with open_atomic(uri) as target:
            shutil.copyfileobj(self._file, target, CHUNK_BYTES)


class SourceListing(ParquetListing):
    """A listing of videos, some tens of bytes each; its memory use is constant.

    Raises:
        SourceError: see `stages.video.sources.list_videos`.
    """

    def __init__(
        self,
        places: Sequence[str],
        rules: ListRules = STRANGERS,
        *,
        salt: str = "",
        label_of: Callable[[VideoSource], str | None] | None = None,
    ) -> None:
        """Lists the videos; the digest also depends on `salt`, which stands for further inputs of the key.

        label_of: returns the label of a video; labels are counted then, for the plan.
        """
        super().__init__()
        self._label_of = label_of
        self._labels: Counter[str | None] = Counter()
        self._seen = SeenTexts()
        self._num_videos = self._num_bytes = 0
        self.has_parts = False
        """True where a list says of some of its videos which part they belong to."""
        schema = _SCHEMA.with_metadata({_LISTED_AT: str(time.time_ns()).encode()})
        with pq.ParquetWriter(self._file, schema, compression="zstd") as writer:
            digest = hash_sources(self._written(iter_videos(places, rules, note=self._notes.append), writer))
            writer.add_key_value_metadata({_NOTES: json.dumps(self._notes).encode()})
        self._digest = sha256_bytes(f"{salt} {digest}".encode()) if salt else digest

    def _written(self, sources: Iterable[VideoSource], writer: pq.ParquetWriter) -> Iterator[VideoSource]:
        for batch in groups_of(sources):
            columns: dict[str, list[Any]] = {"size_bytes": [source.size_bytes for source in batch]}
            columns |= {name: [encoded(getattr(source, name)) for source in batch] for name in _TEXT_COLUMNS}
            writer.write_table(pa.Table.from_pydict(columns, schema=writer.schema))
            self._num_videos += len(batch)
            self.has_parts = self.has_parts or any(source.part is not None for source in batch)
            self._num_bytes += sum(source.size_bytes or 0 for source in batch)
            if self._label_of is not None:
                self._labels.update(self._label_of(source) for source in batch if self._seen.add(source.uri))
            yield from batch

    @property
    def estimate(self) -> Estimate:
        """Number and bytes of the videos, and about how many frames they have and how long probing them takes."""
        labels = Counter({label: number for label, number in self._labels.items() if label is not None})
        return Estimate(
            note=labels_in_words(labels, self._labels[None]) if self._labels else "",
            num_videos=self._num_videos,
            num_bytes=self._num_bytes,
            num_frames=self._num_bytes // BYTES_PER_FRAME,
            seconds=self._num_videos / PROBED_VIDEOS_PER_S,
        )


def encoded(value: Any) -> Any:
    """Returns a text as the bytes of a column: names that are not UTF-8 reach Python as lone surrogates."""
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value


def decoded(value: Any) -> Any:
    """Returns the text of the bytes that `encoded` made."""
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value


def iter_listed(
    context: Context, videos: Sequence[str], rules: ListRules = STRANGERS, *, note: Note
) -> Iterator[tuple[VideoSource, int]]:
    """Yields the videos that the stage's key knows, each with the time at which it was listed, in nanoseconds.

    Without a plan there is no listing yet, and `videos` are listed now.

    note: called with the sentences of `SourceListing.notes`.

    Raises:
        SourceError: see `stages.video.sources.list_videos`.
    """
    if context.listing_uri is None:
        listed_at_ns = time.time_ns()
        for source in iter_videos(videos, rules, note=note):
            yield source, listed_at_ns
        return
    data = read_bytes(context.listing_uri)
    metadata = pq.read_metadata(pa.BufferReader(data)).metadata
    for sentence in json.loads(metadata.get(_NOTES, b"[]")):
        note(sentence)
    for table in iter_tables(data):
        for row in table.to_pylist():
            # A listing that an earlier version wrote has no column `problem`.
            texts = {name: decoded(row[name]) for name in _TEXT_COLUMNS if name in row}
            yield VideoSource(size_bytes=row["size_bytes"], **texts), int(metadata[_LISTED_AT])


def _with_known_stamps(sources: Iterable[tuple[VideoSource, int]]) -> Iterator[tuple[VideoSource, int]]:
    remaining = iter(sources)
    with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as threads:
        while batch := list(itertools.islice(remaining, 8 * REQUESTS_AT_A_TIME)):
            has_stamps = all(source.stamp or source.problem or "://" not in source.uri for source, _ in batch)
            if has_stamps:
                yield from batch
            else:
                stamped = threads.map(with_stamp, [source for source, _ in batch])
                yield from zip(stamped, [listed_at_ns for _, listed_at_ns in batch], strict=True)


class IndexSources:
    """The sources of an index, on this machine's disk, with a few numbers of each in memory."""

    def __init__(self, listed: Iterable[tuple[VideoSource, int]], limits: Limits) -> None:
        """Keeps each source once. `listed` has sources and the times at which they were listed, in nanoseconds."""
        self.sources: DiskList[VideoSource] = DiskList()
        raw, is_cacheable, has_no_part = bytearray(), bytearray(), bytearray()
        for source, listed_at_ns in _with_known_stamps(unique_sources(listed, lambda pair: pair[0])):
            self.sources.append(source)
            raw += probe_cache.source_digest(source, limits)
            is_cacheable.append(probe_cache.is_cacheable(source, listed_at_ns))
            has_no_part.append(source.part is None)
        self.digest_N = np.frombuffer(raw, f"S{DIGEST_BYTES}")
        self.is_cacheable_N = np.frombuffer(is_cacheable, np.bool_)
        self.has_no_part_N = np.frombuffer(has_no_part, np.bool_)

    def __len__(self) -> int:
        return len(self.sources)

    def key(self, place: int) -> bytes:
        """Returns the digest of a source, by its place in the listing."""
        return self.digest_N[place : place + 1].tobytes()


class ProbeResults:
    """The records of an index's sources, on this machine's disk as they come, with a few numbers of each in memory."""

    def __init__(self, num_sources: int) -> None:
        self._records: DiskList[VideoRecord] = DiskList()
        self._record_N = np.full(num_sources, -1, np.int64)
        self.sha256_N = np.zeros(num_sources, f"S{DIGEST_BYTES}")
        self.is_rejected_N = np.zeros(num_sources, np.bool_)
        self.is_new_N = np.zeros(num_sources, np.bool_)
        """Flags of the sources whose record is not in the store's probe cache yet."""

    def add(self, place: int, record: VideoRecord, *, is_new: bool) -> None:
        """Adds the record of the source at a place of the listing."""
        self._record_N[place] = len(self._records)
        self._records.append(record)
        self.sha256_N[place : place + 1] = digests([record.sha256])
        self.is_rejected_N[place] = record.verdict == "rejected"
        self.is_new_N[place] = is_new

    def __getitem__(self, place: int) -> VideoRecord:
        return self._records[int(self._record_N[place])]

    def missing(self) -> list[int]:
        """Returns the places without a record."""
        return np.flatnonzero(self._record_N < 0).tolist()

    def first(self) -> npt.NDArray[np.int64]:
        """Returns (N,) the place of the first source with the same bytes; a source without bytes equals no other.

        Every place must have a record.
        """
        first_N = DigestOrder(self.sha256_N).find(self.sha256_N)
        return np.where(self.sha256_N == digests([""]), np.arange(len(first_N)), first_N)
