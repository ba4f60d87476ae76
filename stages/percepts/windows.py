"""Windows of consecutive frames, by number; and which windows a training step sees.

    windows = Windows(store, length=29, stride=8)
    order = WindowOrder(num_windows=len(windows), global_batch=128, seed=0)
    x_TBD = windows.gather(order.ids(step))

A window never crosses a video or a gap: all its frames are of one segment.

Shapes: T frames of a window, B windows of a batch, D percept dimension, W windows, N rows.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from pipeline.errors import ConfigError
from stages.percepts.reader import PerceptStore

Ids = npt.NDArray[np.int64]


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
        self._file_V = np.array([store.extent(video).file for video in store.videos], np.int64)
        self._first_V = np.array([store.extent(video).first for video in store.videos], np.int64)
        found = [self._of_file(int(file)) for file in np.unique(self._file_V)]
        video_W = np.concatenate([np.empty(0, np.int64), *(videos for videos, _ in found)])
        start_W = np.concatenate([np.empty(0, np.int64), *(starts for _, starts in found)])
        if np.any(np.diff(video_W) < 0):
            order = np.argsort(video_W, kind="stable")
            video_W, start_W = video_W[order], start_W[order]
        self.video_W: Ids = video_W
        """(W,) number of each window's video in `store.videos`."""
        self.start_W: Ids = start_W
        """(W,) row of each window's first frame, counted from its video's first row."""

    def _of_file(self, file: int) -> tuple[Ids, Ids]:
        """`video_W` and `start_W` of the windows of one file: the segments of no more are in memory at a time."""
        video_V = np.flatnonzero(self._file_V == file)
        rows_V = np.diff(self.store.first_row_V)[video_V]
        column_N = self.store.files[file].read_segments()
        pieces = [column_N[first : first + rows] for first, rows in zip(self._first_V[video_V], rows_V, strict=True)]
        before_V = np.cumsum(rows_V) - rows_V
        number_N = np.repeat(np.arange(len(video_V)), rows_V)
        start_W = window_starts(number_N, np.concatenate(pieces), self.length, self.stride)
        number_W = number_N[start_W]
        return video_V[number_W], start_W - before_V[number_W]

    def __len__(self) -> int:
        return len(self.start_W)

    def gather(self, ids_B: Ids, out_TBD: torch.Tensor | None = None) -> npt.NDArray[np.float32]:
        """Windows by number, time first: (B,) -> (T, B, D) float32, in `out_TBD` (float32, contiguous) if given.

        Raises:
            IndexError: a number outside 0 to len - 1.
        """
        percepts_TBD = torch.from_numpy(self.gather_half(ids_B))
        if out_TBD is None:
            out_TBD = torch.empty(percepts_TBD.shape, dtype=torch.float32)
        # torch converts float16 some twenty times faster than NumPy does.
        out_TBD.copy_(percepts_TBD)
        result: npt.NDArray[np.float32] = out_TBD.numpy()
        return result

    def gather_half(self, ids_B: Ids) -> npt.NDArray[np.float16]:
        """As `gather`, in the float16 of the store: (T, B, D)."""
        if len(ids_B) and not 0 <= ids_B.min() <= ids_B.max() < len(self):
            raise IndexError(f"window numbers {ids_B.min()} to {ids_B.max()}; there are {len(self)}")
        video_B = self.video_W[ids_B]
        row_TB = np.arange(self.length)[:, None] + (self._first_V[video_B] + self.start_W[ids_B])
        file_B = self._file_V[video_B]
        files = np.unique(file_B)
        if len(files) == 1:
            whole_TBD: npt.NDArray[np.float16] = self.store.files[files[0]].percepts.gather(row_TB)
            return whole_TBD
        percepts_TBD = np.empty((*row_TB.shape, self.store.dim), np.float16)
        for file in files:
            is_here_B = file_B == file
            percepts_TBD[:, is_here_B] = self.store.files[file].percepts.gather(row_TB[:, is_here_B])
        return percepts_TBD


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
