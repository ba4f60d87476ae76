"""Batches of labelled clips for several classifiers at once, decided before training begins.

Every classifier passes through its clips in an order of its own, drawn anew for each pass, and reads a random window of
a clip each time. Both are pure functions of its seed and of the number of its clips: not of the model, nor of others.

Shapes: G classifiers, S steps, T frames of a window, B clips of a step, D percept dimension.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stages.datasets.labelled import ClipWindows, Rows


@dataclass(frozen=True)
class ClipBatches:
    """The batch of each step: windows of `windows` by their first row, and the labels of their clips."""

    windows: ClipWindows
    starts_SGB: Rows
    labels_SGB: Rows

    def __len__(self) -> int:
        return len(self.starts_SGB)

    def step(self, number: int) -> tuple[Tensor, Tensor]:
        """Returns frames x_GTBD and labels_GB (int64) of a step, on the device of `windows`."""
        labels_GB = torch.from_numpy(self.labels_SGB[number])
        return self.windows.gather(self.starts_SGB[number]), labels_GB.to(self.windows.device)


def clip_batches(
    windows: ClipWindows, members_GN: Rows, labels_GN: Rows, *, seeds: Sequence[int], num_steps: int, batch_clips: int
) -> ClipBatches:
    """Lays out the batches of classifiers that learn from clips `members` (positions in `windows`) with class `labels`.

    A step has `batch_clips` clips, or all of a classifier's where it has fewer.
    """
    counts_N = np.array([len(starts) for starts in windows.starts_N])
    first_N, all_starts = np.cumsum([0, *counts_N[:-1]]), np.concatenate(windows.starts_N)
    starts, labels = [], []
    for members_N, labels_N, seed in zip(members_GN, labels_GN, seeds, strict=True):
        order_SB, crop_SB = _passes(len(members_N), seed, num_steps, batch_clips)
        clips_SB = members_N[order_SB]
        window_SB = (crop_SB * counts_N[clips_SB]).astype(np.int64)
        starts.append(all_starts[first_N[clips_SB] + window_SB])
        labels.append(labels_N[order_SB])
    return ClipBatches(windows, np.stack(starts, axis=1), np.stack(labels, axis=1))


def _passes(num_clips: int, seed: int, num_steps: int, batch_clips: int) -> tuple[Rows, npt.NDArray[np.float64]]:
    """Draws (S, B) clip numbers in the order of the passes, and (S, B) uniforms in [0, 1) that select a window."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    shape = (num_steps, min(num_clips, batch_clips))
    total = math.prod(shape)
    passes = [rng.permutation(num_clips) for _ in range(math.ceil(total / num_clips))]
    return np.concatenate(passes)[:total].reshape(shape), rng.random(shape)
