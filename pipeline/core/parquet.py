"""Parquet files, read whole or in batches of rows, always by the calling thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq


def read_table(
    data: bytes | pa.Buffer, *, columns: Sequence[str] | None = None, row_groups: Sequence[int] | None = None
) -> pa.Table:
    """Reads a Parquet file from its bytes: the given columns of the given row groups, by default all.

    It uses one thread: if a thread of Arrow's were the last to release Python's `data`, it would abort an interpreter
    that is shutting down.

    Raises:
        pa.ArrowInvalid: these are not the bytes of a whole Parquet file.
    """
    file = pq.ParquetFile(pa.BufferReader(data))
    names = None if columns is None else list(columns)
    if row_groups is None:
        return file.read(columns=names, use_threads=False)
    return file.read_row_groups(list(row_groups), columns=names, use_threads=False)


def iter_tables(data: bytes | pa.Buffer, *, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yields each row group of a Parquet file as a table; raises as `read_table`."""
    yield from iter_row_groups(pq.ParquetFile(pa.BufferReader(data)), columns=columns)


def iter_row_groups(file: pq.ParquetFile, *, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yields each row group of an open Parquet file as a table, so that one of them is in memory."""
    for number in range(file.num_row_groups):
        yield file.read_row_group(number, columns=None if columns is None else list(columns), use_threads=False)
