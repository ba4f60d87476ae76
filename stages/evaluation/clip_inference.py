"""Clip inference (section 4.2): probabilities of a window are the mean over its steps, of a clip over its windows.

Shapes: G classifiers, N clips, C classes, W windows.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stages.datasets.labelled import ClipFinder, load_windows
from stages.percepts.transforms import Transform
from stages.video.ledger import VideoRecord

BLOCK_CLIPS: Final = 64
"""Number of clips whose windows are loaded at a time."""
BATCH_WINDOWS: Final = 128


def infer_clips(
    probabilities: Callable[[Tensor], Tensor],
    clips: Sequence[VideoRecord],
    finder: ClipFinder,
    transform: Transform,
    *,
    num_frames: int,
    stride: int,
    device: str = "cpu",
) -> tuple[npt.NDArray[np.float32], int]:
    """Computes probabilities (G, N, C) float32 of every clip, and counts the clips that have no whole window.

    probabilities: windows (T, W, D) -> (G, W, C), the mean over a window's steps.
    """
    parts: list[npt.NDArray[np.float32]] = []
    num_padded = 0
    for first in range(0, len(clips), BLOCK_CLIPS):
        block = clips[first : first + BLOCK_CLIPS]
        windows = load_windows(finder, block, transform, num_frames=num_frames, stride=stride, device=device)
        num_padded += windows.num_padded
        starts = np.concatenate(windows.starts_N)
        batches = (starts[w : w + BATCH_WINDOWS] for w in range(0, len(starts), BATCH_WINDOWS))
        window_GWC = torch.cat([probabilities(windows.gather(batch)) for batch in batches], dim=1).cpu().numpy()
        counts = [len(clip_starts) for clip_starts in windows.starts_N]
        first_window_N = np.cumsum([0, *counts[:-1]])
        parts.append(np.add.reduceat(window_GWC, first_window_N, axis=1) / np.array(counts)[:, None])
    return np.concatenate(parts, axis=1, dtype=np.float32), num_padded
