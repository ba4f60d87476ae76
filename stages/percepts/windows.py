"""Windows of consecutive frames, by number; and which windows a training step sees.

    windows = Windows(store, length=29, stride=8)
    order = WindowOrder(num_windows=len(windows), global_batch=128, seed=0)
    x_TBD = windows.gather(order.ids(step))

A window never crosses a video or a gap: all its frames are of one segment.

Shapes: T frames of a window, B windows of a batch, D percept dimension, W windows, S segments, N rows, K windows of a
piece, R = K * T.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.core.errors import ConfigError
from stages.percepts.reader import PerceptStore
from stages.percepts.transforms import Transform

Ids = npt.NDArray[np.int64]
PIECE_BYTES = 1 << 18
"""Bytes of float16 that are converted at once: together with its float32 it stays in a core's own cache."""


def window_starts(segment_N: npt.NDArray[np.int32], length: int, stride: int) -> Ids:
    """Returns (W,) first rows of all windows of `length` rows of one video that lie in one segment.

    Windows begin every `stride` rows from each segment's first.
    """
    if not len(segment_N):
        return np.empty(0, np.int64)
    first_S = np.flatnonzero(np.r_[True, segment_N[1:] != segment_N[:-1]])
    windows_S = _num_windows(np.diff(np.r_[first_S, len(segment_N)]), length, stride)
    within_W = np.arange(windows_S.sum()) - np.repeat(np.cumsum(windows_S) - windows_S, windows_S)
    return np.asarray(np.repeat(first_S, windows_S) + stride * within_W, np.int64)


def _num_windows(num_rows_S: Ids, length: int, stride: int) -> Ids:
    """Counts (S,) the windows of segments of so many rows."""
    return np.maximum(0, (num_rows_S - length) // stride + 1)


def clip_rows(segment_N: npt.NDArray[np.int32], length: int, stride: int) -> Ids:
    """Returns (W, T) rows of the windows of one video, at least one.

    Without `length` rows in a row, it is the longest segment with its last row repeated.
    """
    start_W = window_starts(segment_N, length, stride)
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
        segments = store.segments()
        windows_S = _num_windows(segments.num_rows_S, length, stride)
        has_some_S = windows_S > 0
        self._video_S = segments.video_S[has_some_S]
        self._first_S = segments.first_S[has_some_S]
        self._end_S = np.cumsum(windows_S[has_some_S])
        """Windows of all segments up to and with this one."""

    def __len__(self) -> int:
        return int(self._end_S[-1]) if len(self._end_S) else 0

    @property
    def videos(self) -> list[str]:
        """sha256 of the videos that have a window, in the order of the store."""
        return [self.store.videos[number] for number in np.unique(self._video_S)]

    @property
    def num_per_video(self) -> Ids:
        """(num_videos,) windows of each video, in the order of `store.videos`."""
        windows_S = np.diff(self._end_S, prepend=0)
        return np.bincount(self._video_S, windows_S, minlength=len(self.store.videos)).astype(np.int64)

    def locate(self, ids_B: Ids) -> tuple[Ids, Ids]:
        """Locates windows by number: ((B,), (B,)) number of the video, row of the first frame.

        Videos are numbered as in `store.videos`, rows from the video's first. What a window is, is computed: a store of
        ten million windows takes the memory of its segments.

        Raises:
            IndexError: a number outside 0 to len - 1.
        """
        if len(ids_B) and not 0 <= ids_B.min() <= ids_B.max() < len(self):
            raise IndexError(f"window numbers {ids_B.min()} to {ids_B.max()}; there are {len(self)}")
        segment_B = np.searchsorted(self._end_S, ids_B, "right")
        before_B = np.r_[0, self._end_S][segment_B]
        return self._video_S[segment_B], self._first_S[segment_B] + self.stride * (ids_B - before_B)

    def gather(
        self, ids_B: Ids, out_TBD: Tensor | None = None, transform: Transform | None = None
    ) -> npt.NDArray[np.float32]:
        """Gathers windows by number, time first: (B,) -> (T, B, D) float32, in `out_TBD` (float32) if given.

        transform: works on pieces that are still in a core's own cache, and its last operation is the only one that
        touches `out_TBD`.

        Raises:
            IndexError: a number outside 0 to len - 1.
        """
        if out_TBD is None:
            out_TBD = torch.empty(self.length, len(ids_B), self.store.dim)
        window_bytes = 2 * self.length * self.store.dim
        most = min(len(ids_B), max(1, PIECE_BYTES // window_bytes))
        half_KTD = torch.empty(most, self.length, self.store.dim, dtype=torch.float16)
        files, offset_BT = self._places(ids_B)
        for first in range(0, len(ids_B), max(1, most)):
            here_KTD = half_KTD[: len(ids_B) - first]
            self._copy(files[first : first + most], offset_BT[first : first + most], here_KTD)
            out_KTD = out_TBD[:, first : first + most].transpose(0, 1)
            if transform is None:
                out_KTD.copy_(here_KTD)
            else:
                transform(here_KTD, out_KTD)
        result: npt.NDArray[np.float32] = out_TBD.numpy()
        return result

    def gather_half(self, ids_B: Ids, out_BTD: Tensor | None = None) -> Tensor:
        """Gathers windows in the float16 of the store, window first: (B, T, D), copied once.

        They are written into `out_BTD` if given (contiguous, say pinned). Raises as `gather`.
        """
        if out_BTD is None:
            out_BTD = torch.empty(len(ids_B), self.length, self.store.dim, dtype=torch.float16)
        self._copy(*self._places(ids_B), out_BTD)
        return out_BTD

    def _places(self, ids_B: Ids) -> tuple[list[int], Tensor]:
        """Returns the file of each window, and (B, T) the byte in it at which each of its rows begins."""
        video_B, start_B = self.locate(ids_B)
        file_B = self.store.file_V[video_B]
        row_BT = (self.store.offset_V[video_B] + start_B)[:, None] + np.arange(self.length)
        return file_B.tolist(), torch.from_numpy(self.store.byte_offsets(file_B[:, None], row_BT))

    def _copy(self, files: Sequence[int], offset_KT: Tensor, out_KTD: Tensor) -> None:
        """Copies windows that follow each other in one file at once."""
        start = 0
        for file, run in itertools.groupby(files):
            stop = start + sum(1 for _ in run)
            out_RD = out_KTD[start:stop].view(-1, self.store.dim)
            self.store.files[file].percepts.copy_at(offset_KT[start:stop].view(-1), out_RD)
            start = stop


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
        """Returns (global_batch,) window numbers of a step, from 0.

        Worker r of R takes ids[r::R] or any other share.
        """
        first = step * self.global_batch
        position_B = np.arange(first, first + self.global_batch)
        epoch_B, within_B = np.divmod(position_B, self.num_windows)
        ids_B = np.empty(self.global_batch, np.int64)
        for epoch in range(int(epoch_B[0]), int(epoch_B[-1]) + 1):
            is_here_B = epoch_B == epoch
            ids_B[is_here_B] = _permutation(self.num_windows, self.seed, epoch)[within_B[is_here_B]]
        return ids_B


@lru_cache(maxsize=4)
def _permutation(num_windows: int, seed: int, epoch: int) -> npt.NDArray[np.int32] | Ids:
    """Draws the permutation of an epoch.

    NumPy promises Philox's stream but not `permutation`: tests/stages/percepts/test_windows.py pins its result.
    """
    permutation = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(num_windows)
    if num_windows <= np.iinfo(np.int32).max:
        permutation = permutation.astype(np.int32)  # half the memory
    permutation.flags.writeable = False
    return permutation
