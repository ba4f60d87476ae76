"""The percept column of a Parquet file as memory: mapped, never read, wherever the file allows it.

`stages.percepts.schema` puts the percepts of a row group into one page. In an uncompressed file that page is a small
header and then the plain (rows, 2 * D) bytes; where they begin follows from the chunk's size, which is in the footer.

Shapes: N rows of a file, R rows to gather, D percept dimension.
"""

import hashlib
import itertools
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from pipeline.files import sha256_bytes
from stages.percepts.node_cache import Entry, NodeCache
from stages.percepts.schema import COLUMNS

PERCEPT_COLUMN: Final = COLUMNS.index("percept")
MAX_PAGE_HEADER_BYTES: Final = 64
"""A page header without statistics takes about 25; more would mean a second page."""

Percepts = npt.NDArray[np.float16]


@dataclass(frozen=True)
class MappedPercepts:
    """Row n of a file begins at byte `offset_N[n]` of `data`."""

    data: npt.NDArray[np.uint8]
    offset_N: npt.NDArray[np.int64]
    dim: int
    keep: Entry | None = None
    """What keeps the mapped file in the node's cache."""

    @cached_property
    def _byte_runs(self) -> Tensor:
        """A row's bytes beginning at every byte: overlapping runs that torch gathers with one memcpy each."""
        row_bytes = 2 * self.dim
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is not writable")  # and nobody writes to it
            data = torch.from_numpy(self.data)
        return torch.as_strided(data, (max(0, len(data) - row_bytes + 1), row_bytes), (1, 1))

    def gather(self, row_R: npt.NDArray[np.int64]) -> Percepts:
        """A copy of any rows, in any order: (R,) row numbers -> (R, D)."""
        percepts_RD = np.empty((len(row_R), self.dim), np.float16)
        self.gather_into(torch.from_numpy(percepts_RD), row_R)
        return percepts_RD

    def gather_into(self, out_RD: Tensor, row_R: npt.NDArray[np.int64]) -> None:
        """As `gather`, into contiguous float16 memory of the caller's: one memcpy a row, without Python's lock."""
        if len(row_R):
            offset_R = torch.from_numpy(self.offset_N[row_R])
            torch.index_select(self._byte_runs, 0, offset_R, out=out_RD.view(torch.uint8))

    def pieces(self, first: int, end: int) -> list[Percepts]:
        """Rows first to end - 1 as views, (N, D) each, cut where a row group ends. They may be unaligned."""
        if first == end:
            return []
        steps = np.diff(self.offset_N[first:end])
        cuts = np.flatnonzero(steps != 2 * self.dim) + 1
        bounds = [first, *(first + int(cut) for cut in cuts), end]
        return [self._view(start, stop) for start, stop in itertools.pairwise(bounds)]

    def _view(self, first: int, end: int) -> Percepts:
        shape, offset = (end - first, self.dim), int(self.offset_N[first])
        return np.ndarray(shape, dtype="<f2", buffer=self.data, offset=offset)

    def slice(self, first: int, end: int) -> Percepts:
        """Rows first to end - 1: a view where they lie in one row group, else a copy."""
        pieces = self.pieces(first, end)
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate([np.empty((0, self.dim), np.float16), *pieces])


def map_plain(path: Path, metadata: pq.FileMetaData, dim: int) -> MappedPercepts | None:
    """The percepts of a local Parquet file, or None where they are compressed. What is mapped stays readable when the
    file is removed, and takes no file descriptor."""
    offsets = _plain_offsets(metadata, dim)
    return None if offsets is None else MappedPercepts(_mapped(path), offsets, dim)


def map_decompressed(file: pq.ParquetFile, state: str, dim: int, cache: NodeCache) -> MappedPercepts:
    """The same of a file with a compressed column, written out, plain, into the node's cache, once for each `state`."""
    name = sha256_bytes(state.encode()) + ".f16"
    num_bytes = file.metadata.num_rows * 2 * dim
    plain = cache.entry(
        name, num_bytes, lambda target: _write_plain(file, dim, target), what="plain percepts of a compressed file"
    )
    data = _mapped(plain.path)
    return MappedPercepts(data, np.arange(data.size // (2 * dim), dtype=np.int64) * (2 * dim), dim, plain)


def _mapped(path: Path) -> npt.NDArray[np.uint8]:
    if path.stat().st_size == 0:
        return np.empty(0, np.uint8)
    # np.memmap keeps a descriptor open for each file, and a large store has more files than a process may open.
    with pa.memory_map(str(path)) as file:
        return np.frombuffer(file.read_buffer(), np.uint8)


def _plain_offsets(metadata: pq.FileMetaData, dim: int) -> npt.NDArray[np.int64] | None:
    """Byte at which each row's percept begins in the file, or None where they are not there plainly."""
    pages: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunk = group.column(PERCEPT_COLUMN)
        header_bytes = chunk.total_compressed_size - group.num_rows * 2 * dim
        if chunk.compression != "UNCOMPRESSED" or not 0 < header_bytes <= MAX_PAGE_HEADER_BYTES:
            return None
        first = chunk.data_page_offset + header_bytes
        pages.append(first + np.arange(group.num_rows, dtype=np.int64) * (2 * dim))
    return np.concatenate(pages)


def _write_plain(source: pq.ParquetFile, dim: int, target: BinaryIO) -> str:
    """Returns the sha256 of what it wrote."""
    digest = hashlib.sha256()
    for batch in source.iter_batches(columns=["percept"]):
        column = batch.column(0)
        begin = 2 * dim * column.offset
        piece = memoryview(column.buffers()[1])[begin : begin + 2 * dim * len(column)]
        digest.update(piece)
        target.write(piece)
    return digest.hexdigest()
