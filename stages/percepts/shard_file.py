"""One Parquet file of percepts, opened: no row of it is in memory.

Shapes: N rows, D percept dimension, S segments, U videos of one file, K rows at which a segment begins behind another.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import CorruptArtifact
from pipeline.core.files import filesystem, sha256_file
from pipeline.core.parquet import read_table
from stages.percepts.memory_map import MappedPercepts, map_decompressed, map_file, map_plain
from stages.percepts.node_cache import CacheEntry, NodeCache
from stages.percepts.schema import Extractor, read_extractor

MAKE_AGAIN: Final = "remove it and run the recipe that made it again, which makes what is missing"


@dataclass(frozen=True)
class FrameColumns:
    """Columns of N rows."""

    frame_N: npt.NDArray[np.int32]
    pts_us_N: npt.NDArray[np.int64]
    segment_N: npt.NDArray[np.int32]


@dataclass(frozen=True)
class ShardLocation:
    """A file of a store, the videos to take from it (None: all), and what its store promises about it."""

    uri: str
    videos: tuple[str, ...] | None = None
    num_bytes: int | None = None
    sha256: str | None = None


Spans = dict[str, tuple[int, int]]
"""Video -> (first row, end row) in a file."""


@dataclass
class ShardFile:
    """A mapped Parquet file without rows in memory; frame numbers and times are read on demand.

    Once it is open it may be removed, as by a compaction: what was opened stays readable.
    """

    part: ShardLocation
    path: Path
    extractor: Extractor
    data: pa.Buffer
    """The whole file."""
    breaks: npt.NDArray[np.int32]
    """Rows, in order, whose segment is another one than that of the row before."""
    plain: MappedPercepts | None
    """None where the column is compressed."""
    cache: NodeCache
    entry: CacheEntry | None
    """The entry that keeps `path` in the node's cache, where it is a file of that cache."""
    state: os.stat_result
    """The status of the file when it was opened."""

    @classmethod
    def open(cls, part: ShardLocation, cache: NodeCache, entry: CacheEntry | None = None) -> tuple[Self, Spans]:
        """Opens the file itself, or its copy `entry`, and finds the rows of each video in it.

        Raises: CorruptArtifact, FileNotFoundError, StoreError (see `stages.percepts.schema.read_extractor`).
        """
        path = entry.path if entry is not None else Path(filesystem(part.uri)[1])
        state = path.stat()
        try:
            # Read, and not mapped: whatever is looked at in a map counts as memory of this process.
            with pq.ParquetFile(path) as file:
                extractor = read_extractor(file.schema_arrow.metadata, part.uri)
                metadata = file.metadata
                table = file.read(columns=["video", "segment"], use_threads=False).unify_dictionaries()
        except (pa.ArrowInvalid, OSError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise _not_whole(part.uri, error) from error
        breaks = np.flatnonzero(np.diff(table["segment"].to_numpy())) + 1
        data = map_file(path)
        plain = map_plain(data, metadata, extractor.dim)
        opened = cls(part, path, extractor, data, breaks.astype(np.int32), plain, cache, entry, state)
        return opened, _spans(table["video"], part.uri)

    def rows(self, first: int, end: int) -> FrameColumns:
        """Reads the small columns of rows first to end - 1. Raises CorruptArtifact."""
        row_groups, before = None, 0
        if self.plain is not None:
            group_rows = self.plain.group_rows
            row_groups = range(first // group_rows, -(-end // group_rows))
            before = row_groups.start * group_rows
        names = ["frame", "pts_us", "segment"]
        try:
            table = read_table(self.data, columns=names, row_groups=row_groups).slice(first - before, end - first)
        except (pa.ArrowInvalid, OSError) as error:
            raise _not_whole(self.part.uri, error) from error
        return FrameColumns(*(table[name].to_numpy() for name in names))

    @property
    def layout(self) -> tuple[npt.NDArray[np.int64], int]:
        """Bytes at which the row groups of `percepts` begin, and rows of each."""
        if self.plain is not None:
            return self.plain.offset_G, self.plain.group_rows
        return np.zeros(1, np.int64), 2**31  # written out, they are one

    @cached_property
    def percepts(self) -> MappedPercepts:
        """The percept column. A compressed one is written, plain, into the node's cache at the first use."""
        if self.plain is not None:
            return self.plain
        state = f"{self.path} {self.state.st_size} {self.state.st_mtime_ns}"
        return map_decompressed(pq.ParquetFile(pa.BufferReader(self.data)), state, self.extractor.dim, self.cache)

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


def _not_whole(uri: str, error: Exception) -> CorruptArtifact:
    return CorruptArtifact(f"{uri} is not a whole Parquet file ({error}); remove it and run the recipe again")


def _spans(videos: pa.ChunkedArray, uri: str) -> Spans:
    """Returns first and end row of every video; `videos` is dictionary-encoded, with one dictionary for all chunks."""
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


@dataclass(frozen=True)
class Segments:
    """In the order of a store's rows."""

    video_S: npt.NDArray[np.int64]
    """Number of the video in the store's `videos`."""
    first_S: npt.NDArray[np.int64]
    """First row, counted from the video's first."""
    num_rows_S: npt.NDArray[np.int64]

    @classmethod
    def of_file(
        cls,
        video_U: npt.NDArray[np.int64],
        offset_U: npt.NDArray[np.int64],
        num_rows_U: npt.NDArray[np.int64],
        break_K: npt.NDArray[np.int32],
    ) -> Self:
        """Cuts some videos of one file, which begin at rows `offset_U`; `break_K` are `ShardFile.breaks`."""
        begin_U = np.searchsorted(break_K, offset_U, "right")
        segments_U = np.searchsorted(break_K, offset_U + num_rows_U, "left") - begin_U + 1
        end_U = np.cumsum(segments_U)
        within_S = np.arange(segments_U.sum()) - np.repeat(end_U - segments_U, segments_U)
        # A video's first segment begins with it, each further one at a break.
        break_S = np.r_[break_K, 0][np.repeat(begin_U, segments_U) + within_S - 1]
        first_S = np.where(within_S == 0, 0, break_S - np.repeat(offset_U, segments_U))
        next_S = np.r_[first_S[1:], 0]
        next_S[end_U - 1] = num_rows_U
        return cls(np.repeat(video_U, segments_U), first_S, next_S - first_S)

    @classmethod
    def joined(cls, parts: "Sequence[Segments]") -> Self:
        """Joins segments in the order of their videos."""
        nothing = np.empty(0, np.int64)
        video_S = np.concatenate([nothing, *(part.video_S for part in parts)])
        first_S = np.concatenate([nothing, *(part.first_S for part in parts)])
        num_rows_S = np.concatenate([nothing, *(part.num_rows_S for part in parts)])
        order_S = np.argsort(video_S, kind="stable")
        return cls(video_S[order_S], first_S[order_S], num_rows_S[order_S])
