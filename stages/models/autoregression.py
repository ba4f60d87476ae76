"""The linear part of a residual model: a forecast of each dimension from its own past, with weights that all share.

With few videos an LSTM over all dimensions learns the videos by heart. How fast percepts move and how much they jitter
is nearly the same in all dimensions, so that some hundred weights say it, which a score of videos suffices to learn.
This is the autoregressive component of LSTNet (Lai et al. 2018, "Modeling Long- and Short-Term Temporal Patterns with
Deep Neural Networks"), with weights of its own for each frame ahead; the LSTMs add what is not linear.

Shapes: T frames read, S = T - 1 differences to the last of them, P frames ahead, B sequences, D frame dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

RIDGE = 1e-3
"""The ridge of the least squares, as a share of the mean square of the differences."""


class Autoregression(nn.Module):
    """Each frame ahead: the last frame read, plus weighted differences of the frames before to it."""

    def __init__(self, num_frames_in: int, num_frames_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_frames_out, num_frames_in - 1))

    def forward(self, x_TBD: Tensor, num_steps: int) -> Tensor:
        """Returns the frames after x, (num_steps, B, D); those beyond P are forecast as the P-th.

        Of more frames than T the last T are read; of fewer, the weights of the frames that are not there are left out.
        """
        differences_SBD = (x_TBD[:-1] - x_TBD[-1:])[-self.weight.shape[1] :]
        weight_PS = self.weight[:num_steps, self.weight.shape[1] - len(differences_SBD) :]
        beyond = weight_PS[-1:].expand(num_steps - len(weight_PS), -1)
        return x_TBD[-1:] + torch.einsum("ps,sbd->pbd", torch.cat([weight_PS, beyond]), differences_SBD)

    @torch.no_grad()
    def fit(self, sequences: Iterable[Tensor]) -> None:
        """Sets the weights to the ridge regression of the last P frames of sequences (T + P, B, D) on those before."""
        num_ahead, num_differences = self.weight.shape
        gram_SS = torch.zeros(num_differences, num_differences, dtype=torch.float64)
        moments_SP = torch.zeros(num_differences, num_ahead, dtype=torch.float64)
        for x_TBD in sequences:
            last_BD, frames = x_TBD[num_differences], x_TBD.double()
            differences_SN = (frames[:num_differences] - last_BD).flatten(1)
            ahead_PN = (frames[num_differences + 1 :] - last_BD).flatten(1)
            gram_SS += differences_SN @ differences_SN.mT
            moments_SP += differences_SN @ ahead_PN.mT
        ridge = RIDGE * gram_SS.diagonal().mean()
        gram_SS.diagonal().add_(ridge.clamp(min=torch.finfo(torch.float32).tiny))
        self.weight.copy_(torch.linalg.solve(gram_SS, moments_SP).mT)
