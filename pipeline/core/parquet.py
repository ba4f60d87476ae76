"""Parquet files, read whole or in batches of rows, always by the calling thread."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import CorruptArtifact, StoreError
from pipeline.core.files import local_copy, open_atomic

Row = TypeVar("Row")
ROW_GROUP_ROWS: Final = 4096
"""Records that are in memory at a time: a few megabytes."""


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


def iter_checked(uri: str, schema: pa.Schema, kind: str, *, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yields the row groups of a Parquet file of ours; a remote one is copied to this machine's disk first.

    schema: its columns, and in the metadata the version that this percepts writes, if it has one.
    kind: the file in words, for messages, such as "a ledger of links".

    Raises:
        FileNotFoundError: there is no such file.
        CorruptArtifact: the file is not Parquet or has other columns.
        StoreError: a newer version of percepts wrote it.
    """
    with local_copy(uri) as path, open(path, "rb") as raw:
        try:
            file = pq.ParquetFile(raw, pre_buffer=False)
            has = file.schema_arrow
            for name, known in (schema.metadata or {}).items():
                version = (has.metadata or {}).get(name, b"").decode()
                if version.isdigit() and int(version) > int(known):
                    raise StoreError(
                        f"{uri} has format {version}, this percepts reads {known.decode()}; use a newer percepts"
                    )
            if has.names != schema.names:
                raise CorruptArtifact(f"{uri} has columns {has.names}, {kind} has {schema.names}; remove it")
            yield from iter_row_groups(file, columns=columns)
        except (pa.ArrowInvalid, OSError) as error:
            raise CorruptArtifact(
                f"{uri} is damaged or not a Parquet file ({error}); remove it and run again"
            ) from error


def groups_of(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yields rows in lists of `ROW_GROUP_ROWS`, the last of which may be shorter."""
    remaining = iter(rows)
    while group := list(itertools.islice(remaining, ROW_GROUP_ROWS)):
        yield group


def write_groups(uri: str, schema: pa.Schema, groups: Iterable[pa.Table]) -> None:
    """Writes tables as the row groups of a Parquet file, atomically; equal tables give equal bytes."""
    with open_atomic(uri) as target, pq.ParquetWriter(target, schema, compression="zstd") as writer:
        for group in groups:
            writer.write_table(group)
