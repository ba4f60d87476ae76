"""Scheduled sampling: in training, a conditional decoder sometimes reads its own output instead of the true frame.

A decoder that has only ever read true frames drifts when it reads its own at test: it has never seen its own errors
(Bengio et al. 2015, "Scheduled Sampling for Sequence Prediction"). Here the outputs that are read are those of earlier
passes over the whole sequence (Mihaylova and Martins 2019), and not of the step before in the same pass: every pass is
one call of the recurrence with its batched products, where step by step would be one call a frame. After n passes a
frame may be the result of n of the decoder's own steps; with probability 1 and as many passes as a sequence has steps
that read, the decoder runs exactly as in `Composite.open_loop`. No gradient flows through what is read.

What comes back makes the weights that read, times those of the output, one more recurrent matrix. A frame has more
dimensions than there are units, and AdamW moves each weight alike, so that this matrix takes the largest steps, and
drifts: `FeedbackConfig.input_rate` shortens them.

Noise on the true frames is the cheaper way to errors on what is read: they are no errors of the decoder's own.

Shapes: T steps, S = T - 1 steps that read, B batch, D frame dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stages.models.config import FeedbackConfig


def read_own_frames(
    config: FeedbackConfig, *, seed: int, step: int, num_steps: int, num_reads: int, batch_size: int, rows: slice
) -> Tensor | None:
    """Draws which frames are read from the decoder itself: (num_reads, rows) bool, or None where all are true ones.

    The draw is that of (seed, step) and of a sequence's place in the global batch of `batch_size`, of which `rows` are
    this worker's: it is the same on any number of workers.
    """
    probability = config.probability_at(step, num_steps)
    if probability == 0 or num_reads == 0:
        return None
    key = np.array([seed, 0x0FEEDBAC << 32 | step], np.uint64)
    uniform_SB = np.random.Generator(np.random.Philox(key=key)).random((num_reads, batch_size), np.float32)
    return torch.from_numpy(uniform_SB[:, rows] < probability)


@dataclass(frozen=True)
class Feedback:
    """The choice of the frames of a batch that the decoders read from their own outputs."""

    is_own_SB: Tensor | None
    """Bool; row s is the frame that is read at step s + 1. Decoders of fewer steps take the first rows. None: all are
    true ones."""
    num_passes: int
    """Passes without gradient before the training pass."""
    noise_std: float = 0.0
    """Standard deviation of the noise that is added to true frames, drawn by PyTorch's generator of the device."""

    def mix(self, frames_SBD: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        """Replaces true frames by the decoder's own: what the training pass reads, (S, B, D).

        run: frames that are read, (S, B, D) -> the decoder's mean frames of steps 0 to S - 1, (S, B, D), without the
        last one that is read having an effect.
        """
        if self.noise_std:
            frames_SBD = frames_SBD + self.noise_std * torch.randn_like(frames_SBD)
        if self.is_own_SB is None:
            return frames_SBD
        is_own_SB1 = self.is_own_SB[: len(frames_SBD), :, None]
        mixed_SBD = frames_SBD
        with torch.no_grad():
            for _ in range(self.num_passes):
                mixed_SBD = torch.where(is_own_SB1, run(mixed_SBD).to(frames_SBD.dtype), frames_SBD)
        return mixed_SBD
