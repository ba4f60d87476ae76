"""Parquet files, read whole or in batches of rows, always by the calling thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq


def read_table(
    data: bytes | pa.Buffer, *, columns: Sequence[str] | None = None, row_groups: Sequence[int] | None = None
) -> pa.Table:
    """Some columns, or all, of some row groups, or all, of a Parquet file given as its bytes.

    By one thread: were one of Arrow's own the last to let go of Python's `data`, it would abort a Python that is
    ending.

    Raises:
        pa.ArrowInvalid: these are not the bytes of a whole Parquet file.
    """
    file = pq.ParquetFile(pa.BufferReader(data))
    wanted = None if columns is None else list(columns)
    if row_groups is None:
        return file.read(columns=wanted, use_threads=False)
    return file.read_row_groups(list(row_groups), columns=wanted, use_threads=False)


def iter_tables(data: bytes | pa.Buffer, *, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The same, a row group at a time. Raises as `read_table`."""
    for number in range(pq.read_metadata(pa.BufferReader(data)).num_row_groups):
        yield read_table(data, columns=columns, row_groups=[number])
