"""The percept column of a Parquet file as memory: mapped, never read, wherever the file allows it.

`stages.percepts.schema` puts the percepts of a row group into one page. In an uncompressed file that page is a small
header and then the plain (rows, 2 * D) bytes; where they begin follows from the chunk's size, which is in the footer.

Shapes: N rows of a file, G row groups, R rows to gather, D percept dimension.
"""

from __future__ import annotations

import hashlib
import itertools
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.files import sha256_bytes
from stages.percepts.node_cache import CacheEntry, NodeCache
from stages.percepts.schema import COLUMNS

if TYPE_CHECKING:  # torch takes a second to import, and whatever opens a store comes by here
    from torch import Tensor

PERCEPT_COLUMN: Final = COLUMNS.index("percept")
MAX_PAGE_HEADER_BYTES: Final = 64
"""A page header without statistics takes about 25; more would mean a second page."""

Percepts = npt.NDArray[np.float16]


@dataclass(frozen=True)
class MappedPercepts:
    """Row n begins at byte `offset_G[g] + (n - g * group_rows) * 2 * dim` of `data`, where g = n // group_rows."""

    data: npt.NDArray[np.uint8]
    offset_G: npt.NDArray[np.int64]
    """The byte at which the percepts of each row group begin."""
    group_rows: int
    """Number of rows of every row group; the last one may have fewer."""
    dim: int
    keep: CacheEntry | None = None
    """The entry that keeps the mapped file in the node's cache."""

    @cached_property
    def _byte_runs(self) -> Tensor:
        """A row's bytes beginning at every byte: overlapping runs that torch gathers with one memcpy each."""
        import torch

        row_bytes = 2 * self.dim
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is not writable")  # nothing writes to it
            data = torch.from_numpy(self.data)
        return torch.as_strided(data, (max(0, len(data) - row_bytes + 1), row_bytes), (1, 1))

    def copy_at(self, offset_R: Tensor, out_RD: Tensor) -> None:
        """Copies rows that begin at these bytes (R,) into the caller's contiguous float16 memory.

        It is one memcpy a row, without Python's lock.
        """
        import torch

        if len(offset_R):
            torch.index_select(self._byte_runs, 0, offset_R, out=out_RD.view(torch.uint8))

    def pieces(self, first: int, end: int) -> list[Percepts]:
        """Returns rows first to end - 1 as views (N, D), cut where a row group ends; they may be unaligned."""
        if first == end:
            return []
        cuts = range((first // self.group_rows + 1) * self.group_rows, end, self.group_rows)
        bounds = [first, *cuts, end]
        return [self._view(start, stop) for start, stop in itertools.pairwise(bounds)]

    def _view(self, first: int, end: int) -> Percepts:
        group, within = divmod(first, self.group_rows)
        offset = int(self.offset_G[group]) + within * 2 * self.dim
        return np.ndarray((end - first, self.dim), dtype="<f2", buffer=self.data, offset=offset)

    def slice(self, first: int, end: int) -> Percepts:
        """Returns rows first to end - 1: a view where they lie in one row group, else a copy."""
        pieces = self.pieces(first, end)
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate([np.empty((0, self.dim), np.float16), *pieces])


def map_plain(data: pa.Buffer, metadata: pq.FileMetaData, dim: int) -> MappedPercepts | None:
    """Maps the percepts of a Parquet file, given as its bytes.

    Returns None where they do not lie there plainly: they are compressed, or another program wrote the file.
    """
    offsets: list[int] = []
    rows: list[int] = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunk = group.column(PERCEPT_COLUMN)
        header_bytes = chunk.total_compressed_size - group.num_rows * 2 * dim
        if chunk.compression != "UNCOMPRESSED" or not 0 < header_bytes <= MAX_PAGE_HEADER_BYTES:
            return None
        offsets.append(chunk.data_page_offset + header_bytes)
        rows.append(group.num_rows)
    if len(set(rows[:-1])) > 1 or (rows and rows[-1] > rows[0]):
        return None
    group_rows = rows[0] if rows else 1
    return MappedPercepts(np.frombuffer(data, np.uint8), np.array(offsets, np.int64), max(1, group_rows), dim)


def map_decompressed(file: pq.ParquetFile, state: str, dim: int, cache: NodeCache) -> MappedPercepts:
    """Writes the percepts of any other file, plain, into the node's cache, once for each `state`, and maps them."""
    name = sha256_bytes(state.encode()) + ".f16"
    num_rows = file.metadata.num_rows
    plain = cache.entry(
        name, num_rows * 2 * dim, lambda target: _write_plain(file, dim, target), what="plain percepts of a file"
    )
    data = np.frombuffer(map_file(plain.path), np.uint8)
    return MappedPercepts(data, np.zeros(1, np.int64), max(1, num_rows), dim, plain)


def map_file(path: Path) -> pa.Buffer:
    """Maps a local file, which stays readable when it is removed, and takes no file descriptor."""
    if path.stat().st_size == 0:
        return pa.py_buffer(b"")
    # np.memmap keeps a descriptor open for each file, and a large store has more files than a process may open.
    with pa.memory_map(str(path)) as file:
        return file.read_buffer()


def _write_plain(source: pq.ParquetFile, dim: int, target: BinaryIO) -> str:
    """Returns the sha256 of what it wrote."""
    digest = hashlib.sha256()
    for batch in source.iter_batches(columns=["percept"], use_threads=False):
        column = batch.column(0)
        begin = 2 * dim * column.offset
        piece = memoryview(column.buffers()[1])[begin : begin + 2 * dim * len(column)]
        digest.update(piece)
        target.write(piece)
    return digest.hexdigest()
