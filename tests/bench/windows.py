"""Random 29-frame windows from a warm local store against a NumPy memmap, HDF5, and Parquet with a list column.

    python -m tests.bench.windows                 # 30k frames of 1280 dimensions
    python -m tests.bench.windows --dim 4096

Prints a JSON line for each benchmark. All sides gather the same windows, as float32 (T, B, D) batches. `seconds` and
`peer_seconds` are for one window, medians over batches that take turns. `ratio` is our rate over the peer's.
"""

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from stages.percepts import Windows, open_store
from stages.percepts.schema import ROW_GROUP_ROWS, Extractor
from stages.percepts.writer import Compression, ShardWriter

LENGTH = 29
CLIP_FRAMES = 300
"""Frames of each video: ten seconds at 30 frames/s."""

Half = npt.NDArray[np.float16]
Gather = Callable[[npt.NDArray[np.int64]], object]


def write_store(folder: Path, percepts_ND: Half, compression: Compression, num_files: int) -> int:
    """Our store of the given percepts, videos of CLIP_FRAMES; returns its bytes."""
    folder.mkdir()
    extractor = Extractor(settings={"made": "for a benchmark"}, dim=percepts_ND.shape[1])
    per_file = -(-len(percepts_ND) // (CLIP_FRAMES * num_files)) * CLIP_FRAMES
    for number, first in enumerate(range(0, len(percepts_ND), per_file)):
        file = io.BytesIO()
        with ShardWriter(file, extractor, compression=compression) as writer:
            for start in range(first, min(first + per_file, len(percepts_ND)), CLIP_FRAMES):
                clip_ND = percepts_ND[start : start + CLIP_FRAMES]
                index = np.arange(len(clip_ND), dtype=np.int32)
                writer.write(f"{start:064d}", index, index.astype(np.int64) * 33_333, np.zeros_like(index), clip_ND)
        (folder / f"{number:03d}.parquet").write_bytes(file.getvalue())
    return sum(path.stat().st_size for path in folder.iterdir())


def first_rows(starts: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    """(T, B) row numbers of windows that begin at `starts`."""
    return np.arange(length)[:, None] + starts


class Memmap:
    """The same floats in one flat file."""

    def __init__(self, path: Path, percepts_ND: Half, starts: npt.NDArray[np.int64]) -> None:
        percepts_ND.tofile(path)
        self.rows = np.memmap(path, np.float16, "r", shape=percepts_ND.shape)
        self.starts = starts

    def __call__(self, ids: npt.NDArray[np.int64]) -> torch.Tensor:
        # Converted by torch, as ours is: NumPy's conversion would make the peer many times slower.
        return torch.from_numpy(self.rows[first_rows(self.starts[ids], LENGTH)]).float()


class Hdf5:
    """The original's format: one file, a data set a video, chunked by video."""

    def __init__(self, path: Path, percepts_ND: Half, starts: npt.NDArray[np.int64]) -> None:
        with h5py.File(path, "w") as file:
            for start in range(0, len(percepts_ND), CLIP_FRAMES):
                clip_ND = percepts_ND[start : start + CLIP_FRAMES].astype(np.float32)
                file.create_dataset(str(start // CLIP_FRAMES), data=clip_ND, chunks=clip_ND.shape)
        self.file = h5py.File(path)
        self.starts = starts

    def __call__(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        videos, firsts = np.divmod(self.starts[ids], CLIP_FRAMES)
        pairs = zip(videos, firsts, strict=True)
        return np.stack([self.file[str(video)][first : first + LENGTH] for video, first in pairs], axis=1)


class ListColumn:
    """Parquet with fixed_size_list<halffloat>, row groups as ours; a batch reads each row group that it needs once."""

    def __init__(self, path: Path, percepts_ND: Half, starts: npt.NDArray[np.int64]) -> None:
        dim = percepts_ND.shape[1]
        column = pa.FixedSizeListArray.from_arrays(pa.array(percepts_ND.ravel()), dim)
        pq.write_table(pa.table({"percept": column}), path, row_group_size=ROW_GROUP_ROWS, compression="none")
        self.file = pq.ParquetFile(path, memory_map=True)
        self.dim, self.starts = dim, starts

    def __call__(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        row_TB = first_rows(self.starts[ids], LENGTH)
        group_TB = row_TB // ROW_GROUP_ROWS
        x_TBD = np.empty((*row_TB.shape, self.dim), np.float32)
        for group in np.unique(group_TB):
            column = self.file.read_row_group(int(group), columns=["percept"])["percept"].combine_chunks()
            values_ND = column.values.to_numpy().reshape(-1, self.dim)
            is_here_TB = group_TB == group
            x_TBD[is_here_TB] = values_ND[row_TB[is_here_TB] - group * ROW_GROUP_ROWS]
        return x_TBD


def compare(ours: Gather, peer: Gather, num_windows: int, batch: int, repetitions: int) -> tuple[float, float]:
    """Median seconds a window of both, on the same random windows."""
    rng = np.random.default_rng(0)
    times: tuple[list[float], list[float]] = ([], [])
    for repetition in range(repetitions + 1):
        ids = rng.integers(0, num_windows, batch)
        for gather, kept in zip((ours, peer), times, strict=True):
            began = time.perf_counter()
            gather(ids)
            if repetition:
                kept.append((time.perf_counter() - began) / batch)
    return statistics.median(times[0]), statistics.median(times[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=30_000)
    parser.add_argument("--dim", type=int, default=1280)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--files", type=int, default=4, help="Parquet files of our store")
    parser.add_argument("--repetitions", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    # Half of the values zero, as behind a ReLU.
    percepts_ND = np.maximum(rng.standard_normal((args.frames, args.dim), np.float32), 0).astype(np.float16)
    with tempfile.TemporaryDirectory() as scratch:
        bench(args, percepts_ND, Path(scratch))


def bench(args: argparse.Namespace, percepts_ND: Half, folder: Path) -> None:
    """Build all stores, check that they give the same windows, and time them."""
    num_bytes = write_store(folder / "plain", percepts_ND, "none", args.files)
    zstd_bytes = write_store(folder / "zstd", percepts_ND, "zstd", args.files)
    windows = Windows(open_store(str(folder / "plain")), length=LENGTH, stride=1)
    video_W, start_W = windows.locate(np.arange(len(windows)))
    starts = windows.store.first_row_V[video_W] + start_W
    out_TBD = torch.empty(LENGTH, args.batch, args.dim)
    ours = partial(windows.gather, out_TBD=out_TBD)
    peers = {"windows_vs_memmap": Memmap, "windows_vs_hdf5": Hdf5, "windows_vs_list_column": ListColumn}
    for name, make in peers.items():
        peer = make(folder / name, percepts_ND, starts)
        check = np.arange(0, len(windows), len(windows) // args.batch)[: args.batch]
        assert np.array_equal(windows.gather(check), np.asarray(peer(check))), name
        slow = name == "windows_vs_list_column"
        seconds, peer_seconds = compare(ours, peer, len(windows), args.batch, 2 if slow else args.repetitions)
        line = {
            "benchmark": name,
            "seconds": float(f"{seconds:.4g}"),
            "peer_seconds": float(f"{peer_seconds:.4g}"),
            "ratio": round(peer_seconds / seconds, 2),
            "gigabytes_per_second": round(LENGTH * args.dim * 2 / seconds / 1e9, 2),
            "bytes_raw": percepts_ND.nbytes,
            "bytes_store": num_bytes,
            "bytes_store_zstd": zstd_bytes,
            "config": {"frames": args.frames, "dim": args.dim, "batch": args.batch, "files": args.files},
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
