"""Reads percepts: `open_store(uri)` gives arrays, windows (`stages.percepts.windows`) and an Arrow table.

    store = open_store("s3://bucket/store/extract/0123456789abcdef")      # or a directory, or one .parquet file
    percepts_ND = store.percepts(store.videos[0])                         # float16, mapped, not read
    store.table().to_pandas()                                             # percept: a list of floats

Rows have global numbers, 0 to num_rows - 1: video after video in the order of `videos`, frame after frame. That order
does not depend on how rows are spread over files.

Shapes: N rows, D percept dimension.
"""

import itertools
import os
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import CorruptArtifact, SourceError
from pipeline.core.files import (
    exists,
    filesystem,
    is_local,
    join,
    list_files,
    reaching,
    sha256_bytes,
    sha256_file,
    size_bytes,
)
from stages.percepts import shards
from stages.percepts.file_digests import STAMP, has_digest
from stages.percepts.memory_map import Percepts
from stages.percepts.node_cache import NUM_READERS, CacheEntry, NodeCache, RemoteFile
from stages.percepts.schema import Extractor, read_extractor
from stages.percepts.shard_file import MAKE_AGAIN, FrameColumns, Segments, ShardFile, ShardLocation
from stages.percepts.takedowns import taken_down
from stages.video.ledger import read_tables

ATTEMPTS: Final = 3
"""Number of attempts at finding the files of an artifact while a compaction rewrites them."""

STAMPED_BYTES: Final = 1 << 20
"""The size from which the digest of a local file is kept; a smaller one is hashed in a millisecond."""

TABLE_SCHEMA: Final = pa.schema(
    [
        ("video", pa.string()),
        ("frame", pa.int32()),
        ("pts_us", pa.int64()),
        ("segment", pa.int32()),
        ("percept", pa.list_(pa.float32())),
    ]
)
"""The columns of `PerceptStore.table`."""


@dataclass(frozen=True)
class Extents:
    """The extents of videos: rows first_E to end_E - 1 of file file_E. E: number of videos."""

    number: dict[str, int]
    """sha256 of the video -> its place in the arrays, which is its place here, too."""
    file_E: npt.NDArray[np.int32]
    first_E: npt.NDArray[np.int32]
    end_E: npt.NDArray[np.int32]


class PerceptStore:
    """Percepts of some videos, read-only. Not to be pickled: open it where it is used.

    In memory it takes some 250 bytes a video, most of them for its name and to find it by that, and nothing a row.
    """

    def __init__(
        self, files: Sequence[ShardFile], videos: Iterable[str], extents: Extents, index: "ShardList | None" = None
    ) -> None:
        assert len({file.extractor.fingerprint for file in files}) <= 1
        self.files = tuple(files)
        self.index = index
        self._extents = extents
        number_V = np.array([extents.number[video] for video in videos if video in extents.number], np.int64)
        names = list(extents.number)
        self.videos = tuple(names[number] for number in number_V)
        """sha256 of every video, in the order of the rows."""
        self.file_V: npt.NDArray[np.int64] = extents.file_E[number_V].astype(np.int64)
        """(num_videos,) number of the file, among `files`, that holds a video."""
        self.offset_V: npt.NDArray[np.int64] = extents.first_E[number_V].astype(np.int64)
        """(num_videos,) row of that file at which the video begins."""
        num_rows_V = extents.end_E[number_V] - self.offset_V
        self.first_row_V: npt.NDArray[np.int64] = np.concatenate([[0], np.cumsum(num_rows_V, dtype=np.int64)])
        """(num_videos + 1,) global number of each video's first row; the last is num_rows."""

    @property
    def extractor(self) -> Extractor:
        """The extractor that made these percepts."""
        return self.files[0].extractor

    @property
    def dim(self) -> int:
        """The percept dimension D."""
        return self.extractor.dim

    @property
    def num_rows(self) -> int:
        """Frames of all videos."""
        return int(self.first_row_V[-1])

    def rows(self, video: str) -> FrameColumns:
        """Reads frame numbers, times and segments of a video from its file. Raises KeyError, CorruptArtifact."""
        file, first, end = self._extent(video)
        return file.rows(first, end)

    def percepts(self, video: str) -> Percepts:
        """Returns (N, D) of a video: a view of the mapped file where its rows lie in one row group, else a copy.

        Raises KeyError.
        """
        file, first, end = self._extent(video)
        return file.percepts.slice(first, end)

    def pieces(self) -> Iterator[Percepts]:
        """Yields (N, D) views that together hold every row once, in order: a sequential scan without copies."""
        for video in self.videos:
            file, first, end = self._extent(video)
            yield from file.percepts.pieces(first, end)

    def byte_offsets(self, file_R: npt.NDArray[np.int64], row_R: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Returns the bytes at which rows of files begin in what `ShardFile.percepts` maps.

        The two arrays have, or broadcast to, one shape.
        """
        group_rows_F, first_group_F, offset_G = self._groups
        group_rows_R = group_rows_F[file_R]
        group_R = row_R // group_rows_R
        result: npt.NDArray[np.int64] = offset_G[first_group_F[file_R] + group_R]
        result += (row_R - group_R * group_rows_R) * (2 * self.dim)
        return result

    @cached_property
    def _groups(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The row groups of all files.

        Of each file: rows of a row group, and which one of the row groups of all files is its first; of each row
        group: the byte at which its percepts begin.
        """
        layouts = [file.layout for file in self.files]
        group_rows_F = np.array([group_rows for _, group_rows in layouts], np.int64)
        end_F = np.cumsum([len(offset_G) for offset_G, _ in layouts])
        first_group_F = np.r_[0, end_F[:-1]].astype(np.int64)
        return group_rows_F, first_group_F, np.concatenate([offset_G for offset_G, _ in layouts])

    def segments(self) -> Segments:
        """Returns the segments of all videos."""
        num_rows_V = np.diff(self.first_row_V)
        order_V = np.argsort(self.file_V, kind="stable")
        bounds = np.searchsorted(self.file_V[order_V], np.arange(len(self.files) + 1)).tolist()
        segments = []
        for file, (start, stop) in zip(self.files, itertools.pairwise(bounds), strict=True):
            if start < stop:
                video_U = order_V[start:stop]
                segments.append(Segments.of_file(video_U, self.offset_V[video_U], num_rows_V[video_U], file.breaks))
        return Segments.joined(segments)

    def segment_of_rows(self, video: str) -> npt.NDArray[np.int32]:
        """Returns (N,) the number, from 0, of the segment that each row of a video is in. Raises KeyError."""
        file, first, end = self._extent(video)
        break_K = file.breaks[slice(*np.searchsorted(file.breaks, [first + 1, end]))] - first
        is_first_N = np.zeros(end - first, np.int32)
        is_first_N[break_K] = 1
        return np.cumsum(is_first_N, dtype=np.int32)

    def _extent(self, video: str) -> tuple[ShardFile, int, int]:
        """Returns file, first row and end row of a video. Raises KeyError."""
        extents, number = self._extents, self._extents.number[video]
        first, end = int(extents.first_E[number]), int(extents.end_E[number])
        return self.files[extents.file_E[number]], first, end

    def select(self, videos: Iterable[str]) -> "PerceptStore":
        """Returns the same percepts for some of the videos, in the order given, without those that have no rows."""
        return PerceptStore(self.files, videos, self._extents, self.index)

    def check_unchanged(self) -> None:
        """Checks the files, but no percepts, which is cheap.

        Raises:
            CorruptArtifact: a file, or the list of files, is no longer what it was when this was opened.
        """
        for file in self.files:
            file.check_unchanged()
        if self.index is not None:
            self.index.check_unchanged()

    def table(self, videos: Sequence[str] | None = None) -> pa.Table:
        """Returns rows as an Arrow table for pandas, DuckDB and Polars: video string, percept list<float>. A copy."""
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
class ShardList:
    """The `shards.json` that was read."""

    uri: str
    sha256: str

    def check_unchanged(self) -> None:
        """Checks that the list is as it was when it was read. Raises CorruptArtifact."""
        if not exists(self.uri) or sha256_file(self.uri) != self.sha256:
            raise CorruptArtifact(f"{self.uri} has changed while its percepts were being read: {MAKE_AGAIN}")


def open_store(uri: str, *, cache: NodeCache | None = None, videos: Collection[str] | None = None) -> PerceptStore:
    """Opens the percepts at `uri`: an extract artifact, a directory of Parquet files, or one file; any fsspec URL.

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
            missing = error
    raise CorruptArtifact(f"{uri} uses a file that is not there: {missing}; run the recipe again") from missing


def _open(uri: str, cache: NodeCache, videos: Collection[str] | None) -> PerceptStore:
    parts, order, index = _parts(uri)
    if videos is not None:
        wanted = set(videos)
        parts = [part for part in parts if part.videos is None or wanted.intersection(part.videos)] or parts[:1]
    files: list[ShardFile] = []
    number: dict[str, int] = {}
    # Of plain numbers: lists of Python's would take ten times as much.
    extents = {name: array("i") for name in ("file_E", "first_E", "end_E")}
    for part, entry in zip(parts, _entries(parts, cache), strict=True):
        file, spans = ShardFile.open(part, cache, entry)
        if files and file.extractor.fingerprint != files[0].extractor.fingerprint:
            raise CorruptArtifact(f"{part.uri} and {parts[0].uri} have different extractors; open one directory")
        for video in spans if part.videos is None else part.videos:
            if video not in spans:
                raise CorruptArtifact(f"{part.uri} lacks the video {video}; remove that file and run the recipe again")
            if number.setdefault(video, len(number)) == len(extents["file_E"]):
                for column, value in zip(extents.values(), (len(files), *spans[video]), strict=True):
                    column.append(value)
        files.append(file)
    arrays = {name: np.array(column, np.int32) for name, column in extents.items()}
    return PerceptStore(files, order or sorted(number), Extents(number, **arrays), index)


def read_store_extractor(uri: str) -> Extractor:
    """Returns the extractor of the percepts at `uri`; reads the end of one file. Raises as `open_store`."""
    part = _parts(uri)[0][0]
    fs, path = filesystem(part.uri)
    try:
        with reaching(part.uri, but=(pa.ArrowInvalid,)), fs.open(path, "rb") as file:
            return read_extractor(pq.read_schema(file).metadata, part.uri)
    except FileNotFoundError as error:
        raise SourceError(f"{part.uri} is missing: {MAKE_AGAIN}") from error
    except pa.ArrowInvalid as error:
        raise CorruptArtifact(f"{part.uri} is not a whole Parquet file ({error}): {MAKE_AGAIN}") from error


def _entries(parts: Sequence[ShardLocation], cache: NodeCache) -> list[CacheEntry | None]:
    """Returns copies of remote files in the cache; None for local files, which are compared with their promises."""
    if is_local(parts[0].uri):
        _check_local(parts, cache)
        return [None] * len(parts)
    files = [
        RemoteFile(part.uri, size_bytes(part.uri) if part.num_bytes is None else part.num_bytes, part.sha256)
        for part in parts
    ]
    return list(cache.fetch_all(files))


def _check_local(parts: Sequence[ShardLocation], cache: NodeCache) -> None:
    """Compares local files with their promises, several at a time; a digest once a start of this machine."""
    stamps = cache.stamps

    def check(part: ShardLocation) -> None:
        if part.num_bytes is None:
            return
        path = filesystem(part.uri)[1]
        is_large = part.num_bytes >= STAMPED_BYTES
        stamp = stamps / f"{sha256_bytes(os.fsencode(path))}{STAMP}" if is_large and stamps is not None else None
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != part.num_bytes or not has_digest(path, file.fileno(), part.sha256, stamp):
                root = part.uri.rpartition(f"/{shards.PERCEPTS}/")[0]
                raise CorruptArtifact(
                    f"{part.uri} is damaged: it is not the file that its store promises; run "
                    f"`percepts verify --repair --store {root}` and this command again"
                )

    # Processes of a node begin at different files, and find what the others have hashed.
    first = os.getpid() % len(parts)
    with ThreadPoolExecutor(NUM_READERS, "digests") as threads:
        for _ in threads.map(check, [*parts[first:], *parts[:first]]):
            pass


def _parts(uri: str) -> tuple[list[ShardLocation], list[str], ShardList | None]:
    """Finds the Parquet files at `uri`, the order of videos and the list of files, where there are such."""
    listed = join(uri, shards.SHARDS_FILE)
    if exists(listed):
        references = shards.read_references(uri)
        root = shards.store_root(uri, references)
        references = shards.locate(root, references, taken_down(root))
        if not references:
            raise SourceError(f"every video of {uri} was taken down; run its recipe again, with other videos")
        tables = read_tables(join(uri, shards.LEDGER_FILE), ["sha256"])
        order = dict.fromkeys(video for table in tables for video in table["sha256"].to_pylist())
        return (
            [
                ShardLocation(join(root, reference.path), reference.videos, reference.bytes, reference.sha256)
                for reference in references
            ],
            list(order),
            ShardList(listed, sha256_file(listed)),
        )
    if uri.endswith(".parquet") and exists(uri):
        return [ShardLocation(uri)], [], None
    names = [name for name in list_files(uri) if name.endswith(".parquet")]
    if not names:
        raise SourceError(f"there are no percepts at {uri}; give an extract artifact, a directory or a .parquet file")
    return [ShardLocation(join(uri, name)) for name in names], [], None
