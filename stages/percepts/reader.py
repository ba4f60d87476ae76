"""Reads percepts: `open_store(uri)` gives arrays, windows (`stages.percepts.windows`) and an Arrow table.

    store = open_store("s3://bucket/store/extract/0123456789abcdef")      # or a directory, or one .parquet file
    percepts_ND = store.percepts(store.videos[0])                         # float16, mapped, not read
    store.table().to_pandas()                                             # percept: a list of floats

Rows have global numbers, 0 to num_rows - 1: video after video in the order of `videos`, frame after frame. That order
does not depend on how rows are spread over files.

Shapes: N rows, D percept dimension.
"""

import os
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import CorruptArtifact, SourceError
from pipeline.files import exists, filesystem, is_local, join, list_files, sha256_bytes
from stages.percepts import shards
from stages.percepts.ledger import read_records
from stages.percepts.mapping import MappedPercepts, map_decompressed, map_file, map_plain
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


class Scratch:
    """A local directory for what cannot be mapped where it is; a temporary one goes when the last file of it does."""

    def __init__(self, directory: str | None) -> None:
        self._directory = directory

    @cached_property
    def path(self) -> Path:
        """The directory: made when it is first needed, which for plain local files is never."""
        if self._directory is not None:
            Path(self._directory).mkdir(parents=True, exist_ok=True)
            return Path(self._directory)
        made = Path(tempfile.mkdtemp(prefix="percepts-"))
        weakref.finalize(self, shutil.rmtree, made, ignore_errors=True)
        return made

    def local(self, uri: str) -> Path:
        """The file itself, or its copy here: made once for one state of the remote file."""
        fs, path = filesystem(uri)
        if is_local(uri):
            return Path(path)
        copy = self.path / f"{sha256_bytes(f'{uri} {fs.ukey(path)}'.encode())[:16]}.parquet"
        if not copy.exists():
            temporary = copy.with_name(f"{copy.name}.tmp-{uuid.uuid4().hex[:8]}")
            fs.get_file(path, str(temporary))
            os.replace(temporary, copy)
        return copy


@dataclass
class ShardFile:
    """One Parquet file, mapped; its columns are read from memory when they are first asked for.

    From the moment it is opened it may be removed, as by a compaction: what was opened stays readable.
    """

    file: pq.ParquetFile
    extractor: Extractor
    spans: dict[str, tuple[int, int]]
    """Video -> (first row, end row)."""
    plain: MappedPercepts | None
    """None where the column is compressed."""
    scratch: Scratch
    digest: str
    """Of the file's name and state."""

    @classmethod
    def open(cls, uri: str, scratch: Scratch) -> Self:
        """Raises: CorruptArtifact, FileNotFoundError, StoreError (see `stages.percepts.schema.read_extractor`)."""
        path = scratch.local(uri)
        state = path.stat()
        data = map_file(path)
        try:
            file = pq.ParquetFile(pa.BufferReader(pa.py_buffer(data)))
        except pa.ArrowInvalid as error:
            raise CorruptArtifact(
                f"{uri} is not a whole Parquet file ({error}); remove it and run the recipe again"
            ) from error
        extractor = read_extractor(file.schema_arrow.metadata, uri)
        spans = _spans(file.read(columns=["video"]).unify_dictionaries()["video"], uri)
        plain = map_plain(data, file.metadata, extractor.dim)
        digest = sha256_bytes(f"{path} {state.st_size} {state.st_mtime_ns}".encode())[:16]
        return cls(file, extractor, spans, plain, scratch, digest)

    @cached_property
    def rows(self) -> Rows:
        """The small columns."""
        table = self.file.read(columns=["frame", "pts_us", "segment"])
        return Rows(*(table[name].to_numpy() for name in ("frame", "pts_us", "segment")))

    def read_segments(self) -> npt.NDArray[np.int32]:
        """(N,) the column `segment`, read anew: windows need it once, and of every file."""
        segment_N: npt.NDArray[np.int32] = self.file.read(columns=["segment"])["segment"].to_numpy()
        return segment_N

    @cached_property
    def percepts(self) -> MappedPercepts:
        """The percept column; where it is compressed, written out when it is first asked for."""
        if self.plain is not None:
            return self.plain
        return map_decompressed(self.file, self.extractor.dim, self.scratch.path / f"{self.digest}.f16")


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

    def __init__(self, files: Sequence[ShardFile], videos: Sequence[str], extents: dict[str, Extent]) -> None:
        assert len({file.extractor.fingerprint for file in files}) <= 1
        self.files = tuple(files)
        self.videos = tuple(videos)
        """sha256 of every video, in the order of the rows."""
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
        return PerceptStore(self.files, [video for video in videos if video in self._extents], self._extents)

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


def open_store(uri: str, *, cache: str | None = None) -> PerceptStore:
    """Percepts at `uri`: an artifact of the extract stage, a directory of Parquet files, or one file; any fsspec URL.

    An artifact's videos come in the order of its index, a directory's in the order of their sha256. Files that are
    not local, or compressed, go into `cache`, a local directory (default: a temporary one that goes with the store).
    Videos that were taken down are left out.

    Raises:
        SourceError: nothing there.
        CorruptArtifact: a file is damaged, missing or of another extractor.
        StoreError: a newer version of percepts wrote it.
    """
    scratch = Scratch(cache)
    for _ in range(ATTEMPTS):
        try:
            return _open(*_parts(uri), scratch)
        except FileNotFoundError as error:
            # Between the look and the opening, a compaction put another file in its place: look again.
            gone = error
    raise CorruptArtifact(f"{uri} uses a file that is not there: {gone}; run the recipe again") from gone


def _open(parts: Sequence["_Part"], order: Sequence[str], scratch: Scratch) -> PerceptStore:
    files: list[ShardFile] = []
    extents: dict[str, Extent] = {}
    for part in parts:
        file = ShardFile.open(part.uri, scratch)
        if files and file.extractor.fingerprint != files[0].extractor.fingerprint:
            raise CorruptArtifact(f"{part.uri} and {parts[0].uri} have different extractors; open one directory")
        for video in file.spans if part.videos is None else part.videos:
            if video not in file.spans:
                raise CorruptArtifact(f"{part.uri} lacks the video {video}; remove that file and run the recipe again")
            extents.setdefault(video, Extent(len(files), *file.spans[video]))
        files.append(file)
    return PerceptStore(files, [video for video in order or sorted(extents) if video in extents], extents)


@dataclass(frozen=True)
class _Part:
    """A file, and the videos to take from it; None takes all."""

    uri: str
    videos: tuple[str, ...] | None = None


def _parts(uri: str) -> tuple[list[_Part], list[str]]:
    """The Parquet files at `uri`, and the order of videos where one is laid down."""
    if exists(join(uri, shards.SHARDS_FILE)):
        uses = shards.read_uses(uri)
        root = shards.store_root(uri, uses)
        uses = shards.locate(root, uses, taken_down(root))
        if not uses:
            raise SourceError(f"every video of {uri} was taken down; run its recipe again, with other videos")
        order = dict.fromkeys(record.sha256 for record in read_records(join(uri, shards.LEDGER_FILE)))
        return [_Part(join(root, use.path), use.videos) for use in uses], list(order)
    if uri.endswith(".parquet") and exists(uri):
        return [_Part(uri)], []
    names = [name for name in list_files(uri) if name.endswith(".parquet")]
    if not names:
        raise SourceError(f"there are no percepts at {uri}; give an extract artifact, a directory or a .parquet file")
    return [_Part(join(uri, name)) for name in names], []
