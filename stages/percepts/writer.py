"""Writes one file of percepts (`stages.percepts.schema`): equal rows give equal bytes, however they arrive.

Shapes: N rows (frames) of one video, D percept dimension.
"""

from types import TracebackType
from typing import BinaryIO, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from stages.percepts.schema import ROW_GROUP_ROWS, Extractor

Compression = Literal["none", "zstd"]


class ShardWriter:
    """A writer that appends rows to a binary file, whole once closed.

    A context manager, to be used inside `open_atomic`: where the block raises, what is in the file by then must be
    thrown away.

    `compression` is for the percept column: "none" can be mapped, "zstd" is smaller (31 % for sparse VGG percepts).
    """

    def __init__(self, file: BinaryIO, extractor: Extractor, *, compression: Compression = "none") -> None:
        self._extractor = extractor
        self._schema = extractor.arrow_schema()
        self._writer = pq.ParquetWriter(
            file,
            self._schema,
            compression={"percept": compression},
            use_dictionary=["video"],
            write_statistics=["video", "frame", "pts_us", "segment"],
            # One page a column of a row group: the reader maps the percepts in it.
            data_page_size=2**31 - 1,
            write_batch_size=ROW_GROUP_ROWS,
        )
        self._columns: list[pa.Table] = []
        self._num_buffered = 0
        self.num_rows = 0

    def write(
        self,
        video: str,
        frames_N: npt.NDArray[np.int32],
        pts_us_N: npt.NDArray[np.int64],
        segments_N: npt.NDArray[np.int32],
        percepts_ND: npt.NDArray[np.float16],
    ) -> None:
        """Appends frames of one video. All frames of a video go to one file, one after the other."""
        num_rows, dim = percepts_ND.shape
        assert dim == self._extractor.dim
        assert len(frames_N) == len(pts_us_N) == len(segments_N) == num_rows
        # A copy: what is buffered must not change under us.
        data = np.array(percepts_ND, dtype="<f2", order="C")
        columns = [
            pa.DictionaryArray.from_arrays(pa.array(np.zeros(num_rows, np.int32)), pa.array([video])),
            pa.array(frames_N, pa.int32()),
            pa.array(pts_us_N, pa.int64()),
            pa.array(segments_N, pa.int32()),
            pa.FixedSizeBinaryArray.from_buffers(pa.binary(2 * dim), num_rows, [None, pa.py_buffer(data)]),
        ]
        self._columns.append(pa.Table.from_arrays(columns, schema=self._schema))
        self._num_buffered += num_rows
        self.num_rows += num_rows
        if self._num_buffered >= ROW_GROUP_ROWS:
            self._write_groups(self._num_buffered // ROW_GROUP_ROWS)

    def _write_groups(self, num_groups: int) -> None:
        buffered = pa.concat_tables(self._columns)
        for group in range(num_groups):
            rows = buffered.slice(group * ROW_GROUP_ROWS, ROW_GROUP_ROWS).combine_chunks().unify_dictionaries()
            self._writer.write_table(rows, row_group_size=ROW_GROUP_ROWS)
        rest = buffered.slice(num_groups * ROW_GROUP_ROWS)
        self._columns = [rest] if rest.num_rows else []
        self._num_buffered = rest.num_rows

    def close(self) -> None:
        """Writes what is buffered, and the footer."""
        if self._num_buffered:
            self._write_groups(1)
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            # pyarrow would otherwise do it when it is collected, into a file that is closed by then.
            self._writer.close()
