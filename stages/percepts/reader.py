"""Reads percepts: `open_store(uri)` gives arrays, windows (`stages.percepts.windows`) and an Arrow table.

    store = open_store("s3://bucket/store/extract/0123456789abcdef")      # or a directory, or one .parquet file
    percepts_ND = store.percepts(store.videos[0])                         # float16, mapped, not read
    store.table().to_pandas()                                             # percept: a list of floats

Rows have global numbers, 0 to num_rows - 1: video after video in the order of `videos`, frame after frame. That order
does not depend on how rows are spread over files.

Shapes: N rows, D percept dimension.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import CorruptArtifact, SourceError
from pipeline.files import exists, filesystem, is_local, join, list_files, sha256_file, size_bytes
from stages.percepts import shards
from stages.percepts.ledger import read_records
from stages.percepts.mapping import MappedPercepts, map_decompressed, map_plain
from stages.percepts.node_cache import Entry, NodeCache, RemoteFile
from stages.percepts.schema import Extractor, read_extractor
from stages.percepts.takedowns import taken_down

ATTEMPTS: Final = 3
"""At finding the files of an artifact while somebody rewrites them."""

Percepts = npt.NDArray[np.float16]

TABLE_SCHEMA: Final = pa.schema(
    [
        ("video", pa.string()),
        ("frame", pa.int32()),
        ("pts_us", pa.int64()),
        ("segment", pa.int32()),
        ("percept", pa.list_(pa.float32())),
    ]
)
"""What `PerceptStore.table` gives."""

MAKE_AGAIN: Final = "remove it and run the recipe that made it again, which makes what is missing"


@dataclass(frozen=True)
class Rows:
    """Columns of N rows."""

    frame_N: npt.NDArray[np.int32]
    pts_us_N: npt.NDArray[np.int64]
    segment_N: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Extent:
    """Rows first to end - 1 of a file: those of one video."""

    file: int
    first: int
    end: int


@dataclass(frozen=True)
class Part:
    """A file of a store, the videos to take from it (None: all), and what its store promises about it."""

    uri: str
    videos: tuple[str, ...] | None = None
    num_bytes: int | None = None
    sha256: str | None = None
    promised_by: str | None = None


@dataclass
class ShardFile:
    """One Parquet file, opened: its small columns in memory, its percepts mapped.

    From then on it may be removed, as by a compaction: what was opened stays readable.
    """

    part: Part
    path: Path
    extractor: Extractor
    rows: Rows
    spans: dict[str, tuple[int, int]]
    """Video -> (first row, end row)."""
    plain: MappedPercepts | None
    """None where the column is compressed."""
    file: pq.ParquetFile | None
    """Of a compressed column only: an open one holds hundreds of kilobytes."""
    cache: NodeCache
    entry: Entry | None
    """Where `path` is a file of the node's cache: what keeps it there."""
    state: os.stat_result
    """Of the file when it was opened."""

    @classmethod
    def open(cls, part: Part, cache: NodeCache, entry: Entry | None = None) -> Self:
        """The file itself, or its copy `entry`.

        Raises: CorruptArtifact, FileNotFoundError, StoreError (see `stages.percepts.schema.read_extractor`).
        """
        path = entry.path if entry is not None else Path(filesystem(part.uri)[1])
        state = path.stat()
        try:
            file = pq.ParquetFile(path)
        except pa.ArrowInvalid as error:
            raise CorruptArtifact(
                f"{part.uri} is not a whole Parquet file ({error}); remove it and run the recipe again"
            ) from error
        extractor = read_extractor(file.schema_arrow.metadata, part.uri)
        table = file.read(columns=["video", "frame", "pts_us", "segment"]).unify_dictionaries()
        rows = Rows(*(table[name].to_numpy() for name in ("frame", "pts_us", "segment")))
        plain = map_plain(path, file.metadata, extractor.dim)
        kept = file if plain is None else None
        return cls(part, path, extractor, rows, _spans(table["video"], part.uri), plain, kept, cache, entry, state)

    @cached_property
    def percepts(self) -> MappedPercepts:
        """The percept column; where it is compressed, written out into the node's cache when it is first asked for."""
        if self.plain is not None:
            return self.plain
        assert self.file is not None
        state = f"{self.path} {self.state.st_size} {self.state.st_mtime_ns}"
        return map_decompressed(self.file, state, self.extractor.dim, self.cache)

    def check_unchanged(self) -> None:
        """Raises CorruptArtifact where a local file was written to, or another with other bytes has its name."""
        if self.entry is not None:
            return
        try:
            now = self.path.stat()
        except FileNotFoundError:
            return
        if (now.st_ino, now.st_size, now.st_mtime_ns) == (
            self.state.st_ino,
            self.state.st_size,
            self.state.st_mtime_ns,
        ):
            return
        if self.part.sha256 is None or sha256_file(self.part.uri) != self.part.sha256:
            raise CorruptArtifact(f"{self.part.uri} has changed while it was being read: {MAKE_AGAIN}")


def _spans(videos: pa.ChunkedArray, uri: str) -> dict[str, tuple[int, int]]:
    """First and end row of every video; `videos` is dictionary-encoded, with one dictionary for all chunks."""
    if not len(videos):
        return {}
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in videos.chunks])
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    ends = np.r_[starts[1:], len(codes)]
    names = videos.chunk(0).dictionary.to_pylist()
    spans = {names[codes[first]]: (int(first), int(end)) for first, end in zip(starts, ends, strict=True)}
    if len(spans) != len(starts):
        raise CorruptArtifact(f"{uri}: the rows of a video do not lie together; remove the file and extract again")
    return spans


class PerceptStore:
    """Percepts of some videos, read-only. Not to be pickled: open it where it is used."""

    def __init__(
        self,
        files: Sequence[ShardFile],
        videos: Sequence[str],
        extents: dict[str, Extent],
        index: "Index | None" = None,
    ) -> None:
        assert len({file.extractor.fingerprint for file in files}) <= 1
        self.files = tuple(files)
        self.videos = tuple(videos)
        """sha256 of every video, in the order of the rows."""
        self.index = index
        self._extents = extents
        lengths = [extents[video].end - extents[video].first for video in self.videos]
        self.first_row_V: npt.NDArray[np.int64] = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        """(num_videos + 1,) global number of each video's first row; the last is num_rows."""

    @property
    def extractor(self) -> Extractor:
        """What made these percepts."""
        return self.files[0].extractor

    @property
    def dim(self) -> int:
        """D."""
        return self.extractor.dim

    @property
    def num_rows(self) -> int:
        """Frames of all videos."""
        return int(self.first_row_V[-1])

    def extent(self, video: str) -> Extent:
        """Where the rows of a video lie. Raises KeyError."""
        return self._extents[video]

    def rows(self, video: str) -> Rows:
        """Frame numbers, times and segments of a video. Raises KeyError."""
        extent = self._extents[video]
        rows, part = self.files[extent.file].rows, slice(extent.first, extent.end)
        return Rows(rows.frame_N[part], rows.pts_us_N[part], rows.segment_N[part])

    def percepts(self, video: str) -> Percepts:
        """(N, D) of a video: a view of the mapped file where its rows lie in one row group, else a copy.

        Raises KeyError.
        """
        extent = self._extents[video]
        return self.files[extent.file].percepts.slice(extent.first, extent.end)

    def pieces(self) -> Iterator[Percepts]:
        """(N, D) views that together hold every row once, in order: a sequential scan without copies."""
        for video in self.videos:
            extent = self._extents[video]
            yield from self.files[extent.file].percepts.pieces(extent.first, extent.end)

    def select(self, videos: Sequence[str]) -> "PerceptStore":
        """The same percepts for some of the videos, in the order given. Videos without rows are left out."""
        return PerceptStore(
            self.files, [video for video in videos if video in self._extents], self._extents, self.index
        )

    def check_unchanged(self) -> None:
        """Cheap: looks at no percepts.

        Raises:
            CorruptArtifact: a file, or the list of files, is no longer what it was when this was opened.
        """
        for file in self.files:
            file.check_unchanged()
        if self.index is not None:
            self.index.check_unchanged()

    def table(self, videos: Sequence[str] | None = None) -> pa.Table:
        """Rows as an Arrow table that pandas, DuckDB and Polars read: video string, percept list<float>. A copy."""
        tables = [self._table(video) for video in (self.videos if videos is None else videos)]
        return pa.concat_tables([TABLE_SCHEMA.empty_table(), *tables])

    def _table(self, video: str) -> pa.Table:
        rows, percepts_ND = self.rows(video), self.percepts(video)
        ends = np.arange(len(percepts_ND) + 1, dtype=np.int32) * self.dim
        lists = pa.ListArray.from_arrays(ends, percepts_ND.astype(np.float32).ravel())
        videos = pa.array([video] * len(percepts_ND), pa.string())
        columns = [videos, *map(pa.array, (rows.frame_N, rows.pts_us_N, rows.segment_N)), lists]
        return pa.Table.from_arrays(columns, schema=TABLE_SCHEMA)


@dataclass(frozen=True)
class Index:
    """The `shards.json` that was read."""

    uri: str
    sha256: str

    def check_unchanged(self) -> None:
        """Raises CorruptArtifact."""
        if not exists(self.uri) or sha256_file(self.uri) != self.sha256:
            raise CorruptArtifact(f"{self.uri} has changed while its percepts were being read: {MAKE_AGAIN}")


def open_store(uri: str, *, cache: NodeCache | None = None, videos: Collection[str] | None = None) -> PerceptStore:
    """Percepts at `uri`: an artifact of the extract stage, a directory of Parquet files, or one file; any fsspec URL.

    An artifact's videos come in the order of its index, a directory's in the order of their sha256. Local files are
    mapped where they are; others are read into the node's cache first (`cache`, or the one of the environment).
    Videos that were taken down are left out. videos: files that hold none of these are not read.

    Raises:
        SourceError: nothing there to read, or a file is missing.
        CorruptArtifact: a file is not whole, is not the one that its artifact names, or lacks a video it should hold.
        ConfigError, StoreError: the cache is too small, full, or cannot be used; a newer version wrote a file.
    """
    cache = cache or NodeCache.of_environment()
    for _ in range(ATTEMPTS):
        try:
            return _open(uri, cache, videos)
        except FileNotFoundError as error:
            # Between the look and the opening, a compaction put another file in its place: look again.
            gone = error
    raise CorruptArtifact(f"{uri} uses a file that is not there: {gone}; run the recipe again") from gone


def _open(uri: str, cache: NodeCache, videos: Collection[str] | None) -> PerceptStore:
    parts, order, index = _parts(uri)
    if videos is not None:
        wanted = set(videos)
        parts = [part for part in parts if part.videos is None or wanted.intersection(part.videos)] or parts[:1]
    files: list[ShardFile] = []
    extents: dict[str, Extent] = {}
    for part, entry in zip(parts, _entries(parts, cache), strict=True):
        file = ShardFile.open(part, cache, entry)
        if files and file.extractor.fingerprint != files[0].extractor.fingerprint:
            raise CorruptArtifact(f"{part.uri} and {parts[0].uri} have different extractors; open one directory")
        for video in file.spans if part.videos is None else part.videos:
            if video not in file.spans:
                raise CorruptArtifact(f"{part.uri} lacks the video {video}; remove that file and run the recipe again")
            extents.setdefault(video, Extent(len(files), *file.spans[video]))
        files.append(file)
    return PerceptStore(files, [video for video in order or sorted(extents) if video in extents], extents, index)


def read_store_extractor(uri: str) -> Extractor:
    """What made the percepts at `uri`; reads the end of one file, and no percepts. Raises as `open_store`."""
    part = _parts(uri)[0][0]
    fs, path = filesystem(part.uri)
    try:
        with fs.open(path, "rb") as file:
            return read_extractor(pq.read_schema(file).metadata, part.uri)
    except FileNotFoundError as error:
        raise SourceError(f"{part.uri} is missing: {MAKE_AGAIN}") from error
    except pa.ArrowInvalid as error:
        raise CorruptArtifact(f"{part.uri} is not a whole Parquet file ({error}): {MAKE_AGAIN}") from error


def _entries(parts: Sequence[Part], cache: NodeCache) -> list[Entry | None]:
    """Copies of remote files in the cache; None for local ones, which are compared with what is promised."""
    if is_local(parts[0].uri):
        for part in parts:
            _check_local(part)
        return [None] * len(parts)
    files = [
        RemoteFile(part.uri, size_bytes(part.uri) if part.num_bytes is None else part.num_bytes, part.sha256)
        for part in parts
    ]
    return list(cache.fetch_all(files))


def _check_local(part: Part) -> None:
    """Size always; the digest only where the file was written later than what promises it."""
    if part.num_bytes is None or part.promised_by is None:
        return
    found = os.stat(filesystem(part.uri)[1])
    later = found.st_mtime_ns > os.stat(filesystem(part.promised_by)[1]).st_mtime_ns
    if found.st_size != part.num_bytes or (later and sha256_file(part.uri) != part.sha256):
        raise CorruptArtifact(f"{part.uri} is not the file that {part.promised_by} names: {MAKE_AGAIN}")


def _parts(uri: str) -> tuple[list[Part], list[str], Index | None]:
    """The Parquet files at `uri`, and the order of videos and the list of files where there are such."""
    listed = join(uri, shards.SHARDS_FILE)
    if exists(listed):
        uses = shards.read_uses(uri)
        root = shards.store_root(uri, uses)
        uses = shards.locate(root, uses, taken_down(root))
        if not uses:
            raise SourceError(f"every video of {uri} was taken down; run its recipe again, with other videos")
        order = dict.fromkeys(record.sha256 for record in read_records(join(uri, shards.LEDGER_FILE)))
        return [_part(root, use, listed) for use in uses], list(order), Index(listed, sha256_file(listed))
    if uri.endswith(".parquet") and exists(uri):
        return [Part(uri)], [], None
    names = [name for name in list_files(uri) if name.endswith(".parquet")]
    if not names:
        raise SourceError(f"there are no percepts at {uri}; give an extract artifact, a directory or a .parquet file")
    return [Part(join(uri, name)) for name in names], [], None


def _part(root: str, use: shards.ShardUse, listed: str) -> Part:
    """Promised by its sidecar, which is written last; where there is none, by the artifact's own list."""
    own = join(root, shards.sidecar(use.path))
    promised_by = own if is_local(root) and exists(own) else listed
    return Part(join(root, use.path), use.videos, use.bytes, use.sha256, promised_by)
