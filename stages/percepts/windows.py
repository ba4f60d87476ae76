"""Windows of consecutive frames, by number; and which windows a training step sees.

    windows = Windows(store, length=29, stride=8)
    order = WindowOrder(num_windows=len(windows), global_batch=128, seed=0)
    x_TBD = windows.gather(order.ids(step))

A window never crosses a video or a gap: all its frames are of one segment.

Shapes: T frames of a window, B windows of a batch, D percept dimension, W windows, N rows, K windows of a piece,
R = K * T.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from stages.percepts.reader import PerceptStore

Ids = npt.NDArray[np.int64]
Into = Callable[[Tensor, Tensor], object]
"""(out, float16 percepts of the same shape): writes float32 into `out`."""

PIECE_BYTES = 1 << 18
"""Of float16 that is converted at once: together with its float32 it stays in a core's own cache."""


def copy_into(out: Tensor, percepts: Tensor) -> None:
    """As they are."""
    out.copy_(percepts)


def window_starts(video_N: Ids, segment_N: npt.NDArray[np.int32], length: int, stride: int) -> Ids:
    """(W,) first rows of all windows of `length` rows that lie in one segment of one video, every `stride` rows from
    each segment's first."""
    num_rows = len(video_N)
    if num_rows == 0:
        return np.empty(0, np.int64)
    is_first_N = np.r_[True, (video_N[1:] != video_N[:-1]) | (segment_N[1:] != segment_N[:-1])]
    first_S = np.flatnonzero(is_first_N)
    rows_S = np.diff(np.r_[first_S, num_rows])
    windows_S = np.maximum(0, (rows_S - length) // stride + 1)
    within_W = np.arange(windows_S.sum()) - np.repeat(np.cumsum(windows_S) - windows_S, windows_S)
    return np.asarray(np.repeat(first_S, windows_S) + stride * within_W, np.int64)


def clip_rows(segment_N: npt.NDArray[np.int32], length: int, stride: int) -> Ids:
    """(W, T) rows of the windows of one video, at least one: without `length` rows in a row, it is the longest segment
    with its last row repeated."""
    start_W = window_starts(np.zeros(len(segment_N), np.int64), segment_N, length, stride)
    if len(start_W):
        return start_W[:, None] + np.arange(length)
    segments, num_rows = np.unique(segment_N, return_counts=True)
    longest = np.flatnonzero(segment_N == segments[num_rows.argmax()])
    return np.asarray(np.pad(longest, (0, length - len(longest)), mode="edge")[None], np.int64)


class Windows:
    """All windows of a store, numbered 0 to len - 1 in the order of its rows.

    Raises:
        ConfigError: length or stride below 1.
    """

    def __init__(self, store: PerceptStore, *, length: int, stride: int = 1) -> None:
        if length < 1 or stride < 1:
            raise ConfigError(f"windows of length {length} every {stride} frames; both must be at least 1")
        self.store = store
        self.length = length
        self.stride = stride
        num_rows_V = np.diff(store.first_row_V)
        video_N = np.repeat(np.arange(len(store.videos)), num_rows_V)
        segments = [store.rows(video).segment_N for video in store.videos]
        segment_N = np.concatenate([np.empty(0, np.int32), *segments])
        start_W = window_starts(video_N, segment_N, length, stride)
        self.video_W: Ids = video_N[start_W]
        """(W,) number of each window's video in `store.videos`."""
        self.start_W: Ids = start_W - store.first_row_V[self.video_W]
        """(W,) row of each window's first frame, counted from its video's first row."""
        extents = [store.extent(video) for video in store.videos]
        self._file_V = np.array([extent.file for extent in extents], np.int64)
        self._first_V = np.array([extent.first for extent in extents], np.int64)

    def __len__(self) -> int:
        return len(self.start_W)

    def gather(
        self, ids_B: Ids, out_TBD: Tensor | None = None, into: Into = copy_into, *, piece_bytes: int = PIECE_BYTES
    ) -> npt.NDArray[np.float32]:
        """Windows by number, time first: (B,) -> (T, B, D) float32, in `out_TBD` (float32) if given.

        into: writes (K, T, D) float16 into (K, T, D) float32, say standardised: it works on pieces that are still in
        a core's own cache, and its last operation is the only one that touches `out_TBD`.

        Raises:
            IndexError: a number outside 0 to len - 1.
        """
        if out_TBD is None:
            out_TBD = torch.empty(self.length, len(ids_B), self.store.dim)
        window_bytes = 2 * self.length * self.store.dim
        most = min(len(ids_B), max(1, piece_bytes // window_bytes))
        half_KTD = torch.empty(most, self.length, self.store.dim, dtype=torch.float16)
        for piece in self._pieces(ids_B, most):
            here_KTD = half_KTD[: piece.end - piece.first]
            self._copy(piece, here_KTD)
            into(out_TBD[:, piece.first : piece.end].transpose(0, 1), here_KTD)
        result: npt.NDArray[np.float32] = out_TBD.numpy()
        return result

    def gather_half(self, ids_B: Ids, out_BTD: Tensor | None = None) -> Tensor:
        """Windows in the float16 of the store, window first: (B, T, D), copied once, into `out_BTD` if given
        (contiguous, say pinned). Raises as `gather`."""
        if out_BTD is None:
            out_BTD = torch.empty(len(ids_B), self.length, self.store.dim, dtype=torch.float16)
        for piece in self._pieces(ids_B, len(ids_B)):
            self._copy(piece, out_BTD[piece.first : piece.end])
        return out_BTD

    def _pieces(self, ids_B: Ids, most: int) -> Iterator["_Piece"]:
        """Runs of at most `most` windows of one file, which together are all, in order."""
        if not len(ids_B):
            return
        if not 0 <= ids_B.min() <= ids_B.max() < len(self):
            raise IndexError(f"window numbers {ids_B.min()} to {ids_B.max()}; there are {len(self)}")
        video_B = self.video_W[ids_B]
        row_BT = (self._first_V[video_B] + self.start_W[ids_B])[:, None] + np.arange(self.length)
        file_B = self._file_V[video_B]
        bounds = [0, *(np.flatnonzero(np.diff(file_B)) + 1).tolist(), len(ids_B)]
        for start, stop in itertools.pairwise(bounds):
            for first in range(start, stop, most):
                end = min(first + most, stop)
                yield _Piece(int(file_B[first]), first, end, row_BT[first:end].ravel())

    def _copy(self, piece: "_Piece", out_KTD: Tensor) -> None:
        self.store.files[piece.file].percepts.gather_into(out_KTD.view(-1, self.store.dim), piece.row_R)


@dataclass(frozen=True)
class _Piece:
    """Windows `first` to `end` - 1 of a batch, all of one file: their rows in it, window after window."""

    file: int
    first: int
    end: int
    row_R: Ids


@dataclass(frozen=True)
class WindowOrder:
    """Step -> windows, a pure function: neither restarts nor the number of workers change what a step sees.

    The windows of epoch e are a permutation drawn from (seed, e); steps cut the epochs, one after the other, into
    batches of `global_batch`.
    """

    num_windows: int
    global_batch: int
    seed: int

    def __post_init__(self) -> None:
        if self.num_windows < 1:
            raise ConfigError("there is no window to train on: every video is shorter than a window, or has gaps")
        if self.global_batch < 1 or self.seed < 0:
            raise ConfigError(f"global_batch {self.global_batch} must be at least 1, seed {self.seed} at least 0")

    def ids(self, step: int) -> Ids:
        """(global_batch,) window numbers of a step, from 0. Worker r of R takes ids[r::R] or any other share."""
        first = step * self.global_batch
        position_B = np.arange(first, first + self.global_batch)
        epoch_B, within_B = np.divmod(position_B, self.num_windows)
        ids_B = np.empty(self.global_batch, np.int64)
        for epoch in range(int(epoch_B[0]), int(epoch_B[-1]) + 1):
            is_here_B = epoch_B == epoch
            ids_B[is_here_B] = _permutation(self.num_windows, self.seed, epoch)[within_B[is_here_B]]
        return ids_B

    def epoch(self, step: int) -> float:
        """Epochs that have been seen before a step."""
        return step * self.global_batch / self.num_windows


@lru_cache(maxsize=4)
def _permutation(num_windows: int, seed: int, epoch: int) -> Ids:
    """NumPy promises Philox's stream but not `permutation`: tests/stages/percepts/test_windows.py pins its result."""
    permutation = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(num_windows)
    permutation.flags.writeable = False
    return permutation
