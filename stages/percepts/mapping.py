"""The percept column of a Parquet file as memory: mapped, never read, wherever the file allows it.

`stages.percepts.schema` puts the percepts of a row group into one page. In an uncompressed file that page is a small
header and then the plain (rows, 2 * D) bytes; where they begin follows from the chunk's size, which is in the footer.

Shapes: N rows, D percept dimension, any other letters: the shape of an array of row numbers.
"""

import itertools
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from stages.percepts.schema import COLUMNS

PERCEPT_COLUMN: Final = COLUMNS.index("percept")
MAX_PAGE_HEADER_BYTES: Final = 64
"""A page header without statistics takes about 25; more would mean a second page."""

Percepts = npt.NDArray[np.float16]


@dataclass(frozen=True)
class MappedPercepts:
    """Row n of row group g begins at byte `offset_G[g] + (n - first_G[g]) * 2 * dim` of `data`."""

    data: npt.NDArray[np.uint8]
    first_G: npt.NDArray[np.int64]
    """(num_groups + 1,) first row of each row group; the last is the number of rows."""
    offset_G: npt.NDArray[np.int64]
    """(num_groups,)"""
    dim: int

    @property
    def num_rows(self) -> int:
        """Of all row groups."""
        return int(self.first_G[-1])

    @property
    def _records(self) -> npt.NDArray[np.void]:
        """A row beginning at every byte: overlapping records that numpy gathers with one memcpy each."""
        row_bytes = 2 * self.dim
        shape = (max(0, self.data.size - row_bytes + 1),)
        return np.ndarray(shape, dtype=f"V{row_bytes}", buffer=self.data, strides=(1,))

    def gather(self, rows: npt.NDArray[np.int64]) -> Percepts:
        """A copy of any rows, in any order: (...) row numbers -> (..., D)."""
        # Flat: with more axes NumPy may lay the result out in another order.
        row_N = rows.ravel()
        group_N = np.searchsorted(self.first_G, row_N, side="right") - 1
        offset_N = self.offset_G[group_N] + (row_N - self.first_G[group_N]) * (2 * self.dim)
        records: npt.NDArray[np.void] = self._records[offset_N]
        return records.view("<f2").reshape(*rows.shape, self.dim)

    def pieces(self, first: int, end: int) -> list[Percepts]:
        """Rows first to end - 1 as views, (N, D) each, cut where a row group ends. They may be unaligned."""
        if first == end:
            return []
        inner = self.first_G[(self.first_G > first) & (self.first_G < end)]
        return [self._view(start, stop) for start, stop in itertools.pairwise([first, *map(int, inner), end])]

    def _view(self, first: int, end: int) -> Percepts:
        group = int(np.searchsorted(self.first_G, first, side="right")) - 1
        offset = int(self.offset_G[group]) + (first - int(self.first_G[group])) * 2 * self.dim
        return np.ndarray((end - first, self.dim), dtype="<f2", buffer=self.data, offset=offset)

    def slice(self, first: int, end: int) -> Percepts:
        """Rows first to end - 1: a view where they lie in one row group, else a copy."""
        pieces = self.pieces(first, end)
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate([np.empty((0, self.dim), np.float16), *pieces])


def map_plain(data: npt.NDArray[np.uint8], metadata: pq.FileMetaData, dim: int) -> MappedPercepts | None:
    """The percepts of a Parquet file, given as its bytes, or None where they are compressed."""
    firsts, offsets = [0], []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunk = group.column(PERCEPT_COLUMN)
        header_bytes = chunk.total_compressed_size - group.num_rows * 2 * dim
        if chunk.compression != "UNCOMPRESSED" or not 0 < header_bytes <= MAX_PAGE_HEADER_BYTES:
            return None
        firsts.append(firsts[-1] + group.num_rows)
        offsets.append(chunk.data_page_offset + header_bytes)
    return MappedPercepts(data, np.array(firsts, np.int64), np.array(offsets, np.int64), dim)


def map_decompressed(file: pq.ParquetFile, dim: int, target: Path) -> MappedPercepts:
    """The percepts of a file with a compressed column, written out, plain, to `target` unless that is there."""
    if not target.exists():
        _write_plain(file, dim, target)
    data = map_file(target)
    return MappedPercepts(data, np.array([0, data.size // (2 * dim)], np.int64), np.zeros(1, np.int64), dim)


def map_file(path: Path) -> npt.NDArray[np.uint8]:
    """A file as memory. It stays readable when the file is removed, and takes no file descriptor."""
    if path.stat().st_size == 0:
        return np.empty(0, np.uint8)
    # np.memmap keeps a descriptor open for each file, and a large store has more files than a process may open.
    with pa.memory_map(str(path)) as file:
        return np.frombuffer(file.read_buffer(), np.uint8)


def _write_plain(source: pq.ParquetFile, dim: int, target: Path) -> None:
    temporary = target.with_name(f"{target.name}.tmp-{uuid.uuid4().hex[:8]}")
    with open(temporary, "wb") as file:
        for batch in source.iter_batches(columns=["percept"]):
            column = batch.column(0)
            begin = 2 * dim * column.offset
            file.write(memoryview(column.buffers()[1])[begin : begin + 2 * dim * len(column)])
    os.replace(temporary, target)
