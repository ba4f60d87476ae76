"""The layout of the percept store by measurement: row group x compression x column type, and file size.

    python -m tests.bench.store_layout                            # 1280 dimensions, half of the values zero
    python -m tests.bench.store_layout --dim 4096 --zeros 0.75    # like VGG's fc6

For each layout: MB/s of a sequential scan, every value copied once, microseconds for a random 29-frame window of
a warm file (batches of 64), and bytes as a share of the raw float16. Plain fixed_size_binary is mapped, as the store
does it; whatever cannot be mapped is read by row groups, each that a batch needs once. Prints the tables, and a JSON
line that compares the store's layout with the best other one.

Shapes: N rows, D percept dimension, B windows of a batch, T frames of a window.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from stages.percepts.memory_map import MappedPercepts, map_file, map_plain
from stages.percepts.schema import ROW_GROUP_ROWS, Extractor

Column = Literal["fixed_size_binary", "fixed_size_list<half>", "list<float>"]
COLUMNS: tuple[Column, ...] = ("fixed_size_binary", "fixed_size_list<half>", "list<float>")
COMPRESSIONS = ("none", "lz4", "zstd")
ROW_GROUPS = (512, 2048, 8192, 32768)
LENGTH, BATCH = 29, 64

Half = npt.NDArray[np.float16]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way to lay percepts out."""

    column: Column
    compression: str
    group_rows: int
    file_rows: int


def column_of(percepts_ND: Half, column: Column) -> pa.Array:
    num_rows, dim = percepts_ND.shape
    if column == "fixed_size_binary":
        return pa.FixedSizeBinaryArray.from_buffers(pa.binary(2 * dim), num_rows, [None, pa.py_buffer(percepts_ND)])
    if column == "fixed_size_list<half>":
        return pa.FixedSizeListArray.from_arrays(pa.array(percepts_ND.ravel()), dim)
    ends = np.arange(num_rows + 1, dtype=np.int32) * dim
    return pa.ListArray.from_arrays(ends, percepts_ND.astype(np.float32).ravel())


def write(folder: Path, percepts_ND: Half, layout: Layout) -> list[Path]:
    """Files with all columns of the store, the percepts as `layout` says."""
    template = Extractor(settings={}, dim=percepts_ND.shape[1]).arrow_schema()
    paths = []
    for number, first in enumerate(range(0, len(percepts_ND), layout.file_rows)):
        part_ND = percepts_ND[first : first + layout.file_rows]
        index = np.arange(len(part_ND), dtype=np.int32)
        percepts = column_of(part_ND, layout.column)
        videos = pa.DictionaryArray.from_arrays(
            pa.array(index // 300), pa.array(map(str, range(len(index) // 300 + 1)))
        )
        columns = [videos, pa.array(index), pa.array(index * np.int64(40_000)), pa.array(index * 0), percepts]
        schema = template.set(4, pa.field("percept", percepts.type))
        path = folder / f"{number}.parquet"
        with pq.ParquetWriter(
            path,
            schema,
            compression=layout.compression,
            use_dictionary=["video"],
            data_page_size=2**31 - 1,
            write_batch_size=layout.group_rows,
            write_statistics=False,
        ) as writer:
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=layout.group_rows)
        paths.append(path)
    return paths


def gathered(part: MappedPercepts, row_R: npt.NDArray[np.int64]) -> npt.NDArray[np.float16]:
    """Any rows, in any order: (R,) row numbers -> (R, D)."""
    percepts_RD = np.empty((len(row_R), part.dim), np.float16)
    offset_R = part.offset_G[row_R // part.group_rows] + row_R % part.group_rows * (2 * part.dim)
    part.copy_at(torch.from_numpy(offset_R), torch.from_numpy(percepts_RD))
    return percepts_RD


class Mapped:
    """As the store reads."""

    def __init__(self, parts: Sequence[MappedPercepts], file_rows: int, num_rows: int) -> None:
        self.parts, self.file_rows, self.num_rows = parts, file_rows, num_rows

    def blocks(self) -> Iterator[npt.NDArray[Any]]:
        for part, first_row in zip(self.parts, range(0, self.num_rows, self.file_rows), strict=True):
            for piece_ND in part.pieces(0, min(self.file_rows, self.num_rows - first_row)):
                for first in range(0, len(piece_ND), 2048):
                    yield piece_ND[first : first + 2048]

    def gather(self, rows_TB: npt.NDArray[np.int64]) -> object:
        file_B, within_TB = rows_TB[0] // self.file_rows, rows_TB % self.file_rows
        return [gathered(self.parts[file], within_TB[:, file_B == file].ravel()) for file in np.unique(file_B)]


class ByGroups:
    """Whole row groups, decoded."""

    def __init__(self, paths: Sequence[Path], layout: Layout, dim: int) -> None:
        self.files = [pq.ParquetFile(path, memory_map=True) for path in paths]
        self.layout, self.dim = layout, dim

    def group(self, file: int, number: int) -> npt.NDArray[Any]:
        column = self.files[file].read_row_group(number, columns=["percept"], use_threads=False)["percept"]
        array = column.combine_chunks()
        array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
        if self.layout.column == "fixed_size_binary":
            return np.frombuffer(array.buffers()[1], np.float16).reshape(-1, self.dim)
        values: npt.NDArray[Any] = array.values.to_numpy().reshape(-1, self.dim)
        return values

    def blocks(self) -> Iterator[npt.NDArray[Any]]:
        for file, opened in enumerate(self.files):
            for number in range(opened.metadata.num_row_groups):
                yield self.group(file, number)

    def gather(self, rows_TB: npt.NDArray[np.int64]) -> object:
        file_TB, within_TB = np.divmod(rows_TB, self.layout.file_rows)
        group_TB = within_TB // self.layout.group_rows
        out_TBD = np.empty((*rows_TB.shape, self.dim), np.float32 if "float" in self.layout.column else np.float16)
        for file, number in sorted({*zip(file_TB.ravel().tolist(), group_TB.ravel().tolist(), strict=True)}):
            is_here_TB = (file_TB == file) & (group_TB == number)
            values_ND = self.group(file, number)
            out_TBD[is_here_TB] = values_ND[within_TB[is_here_TB] - number * self.layout.group_rows]
        return out_TBD


def seconds_of(work: Callable[[], object], repetitions: int) -> float:
    """The median after a first time that warms up."""
    times = []
    for _ in range(repetitions + 1):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def measure(percepts_ND: Half, layout: Layout, repetitions: int) -> dict[str, float]:
    num_rows, dim = percepts_ND.shape
    with tempfile.TemporaryDirectory() as folder:
        paths = write(Path(folder), percepts_ND, layout)
        num_bytes = sum(path.stat().st_size for path in paths)
        plain = [map_plain(map_file(path), pq.read_metadata(path), dim) for path in paths]
        mapped = [part for part in plain if part is not None]
        is_mapped = layout.column == "fixed_size_binary" and len(mapped) == len(paths)
        assert is_mapped == (layout.column == "fixed_size_binary" and layout.compression == "none")
        reader = Mapped(mapped, layout.file_rows, num_rows) if is_mapped else ByGroups(paths, layout, dim)
        block = np.empty(layout.group_rows * dim * (4 if "float" in layout.column else 2), np.uint8)

        def scan() -> None:
            for part_ND in reader.blocks():
                # As bytes: what is mapped may begin at an odd address, where NumPy copies half floats one by one.
                part = part_ND.reshape(-1).view(np.uint8)
                np.copyto(block[: len(part)], part)

        rng = np.random.default_rng(0)
        # A window lies in one file, as a video does.
        limit = min(num_rows, layout.file_rows) - LENGTH

        def windows() -> None:
            file_B = rng.integers(0, num_rows // layout.file_rows or 1, BATCH)
            reader.gather(np.arange(LENGTH)[:, None] + file_B * layout.file_rows + rng.integers(0, limit, BATCH))

        return {
            "scan_mb_per_s": num_rows * dim * 2 / seconds_of(scan, repetitions) / 1e6,
            "window_us": seconds_of(windows, 10 * repetitions if is_mapped else 1) / BATCH * 1e6,
            "bytes_share": num_bytes / percepts_ND.nbytes,
        }


def table(rows: Sequence[tuple[Layout, dict[str, float]]], dim: int) -> str:
    lines = ["| column | compression | rows a group | MB a file, raw | scan MB/s | window us | bytes / raw |"]
    lines.append("|---|---|---|---|---|---|---|")
    for layout, found in rows:
        megabytes = layout.file_rows * dim * 2 / 1e6
        lines.append(
            f"| {layout.column} | {layout.compression} | {layout.group_rows} | {megabytes:.0f} "
            f"| {found['scan_mb_per_s']:.0f} | {found['window_us']:.0f} | {found['bytes_share']:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=1280)
    parser.add_argument("--zeros", type=float, default=0.5, help="share of values that are zero, as behind a ReLU")
    parser.add_argument("--mb", type=int, default=96, help="raw megabytes of the grid")
    parser.add_argument("--files-mb", type=int, default=512, help="raw megabytes of the comparison of file sizes")
    parser.add_argument("--repetitions", type=int, default=2)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    num_rows = args.files_mb * 1_000_000 // (2 * args.dim)
    percepts_ND = rng.standard_normal((num_rows, args.dim), np.float32).astype(np.float16)
    percepts_ND[rng.random(percepts_ND.shape, np.float32) < args.zeros] = 0
    grid_rows = args.mb * 1_000_000 // (2 * args.dim)
    found = []
    for column, compression, group_rows in itertools.product(COLUMNS, COMPRESSIONS, ROW_GROUPS):
        layout = Layout(column=column, compression=compression, group_rows=group_rows, file_rows=grid_rows)
        found.append((layout, measure(percepts_ND[:grid_rows], layout, args.repetitions)))
        print(f"{len(found)}/36", end="\r", file=sys.stderr, flush=True)
    print(f"D = {args.dim}, {args.zeros:.0%} zeros\n\n{table(found, args.dim)}\n")
    sizes = []
    for megabytes, compression in itertools.product((8, 32, 128, args.files_mb), ("none", "zstd")):
        rows = min(num_rows, megabytes * 1_000_000 // (2 * args.dim))
        layout = Layout(column="fixed_size_binary", compression=compression, group_rows=2048, file_rows=rows)
        sizes.append((layout, measure(percepts_ND[: num_rows // rows * rows], layout, args.repetitions)))
    print(f"{table(sizes, args.dim)}\n")
    is_ours = [
        layout.column == "fixed_size_binary" and layout.compression == "none" and layout.group_rows == ROW_GROUP_ROWS
        for layout, _ in found
    ]
    ours = found[is_ours.index(True)]
    for name, better in (("window_us", min), ("scan_mb_per_s", max)):
        others = [one for one, mine in zip(found, is_ours, strict=True) if not mine]
        best = better(others, key=lambda one: one[1][name])
        ratio = best[1][name] / ours[1][name] if better is min else ours[1][name] / best[1][name]
        line = {
            "benchmark": f"store_layout_{name}",
            name: round(ours[1][name], 1),
            f"peer_{name}": round(best[1][name], 1),
            "ratio": round(ratio, 2),
            "peer": f"{best[0].column}, {best[0].compression}, {best[0].group_rows} rows a group",
            "config": {"dim": args.dim, "zeros": args.zeros, "mb": args.mb},
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
