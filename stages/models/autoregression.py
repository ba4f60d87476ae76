"""The linear part of a residual model: a forecast of each dimension from its own past, with weights that all share.

With few videos an LSTM over all dimensions learns the videos by heart. How fast percepts move, how much they jitter and
how soon they return to their mean is nearly the same in all dimensions, so that some hundred weights say it, which a
score of videos suffices to learn.
This is the autoregressive component of LSTNet (Lai et al. 2018, "Modeling Long- and Short-Term Temporal Patterns with
Deep Neural Networks"), with weights of its own for each frame ahead; the LSTMs add what is not linear.

Shapes: T frames read, S = T regressors, P frames ahead, B sequences, D frame dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

RIDGE = 1e-3
"""The ridge of the least squares, as a share of each regressor's sum of squares."""


class Autoregression(nn.Module):
    """Each frame ahead: the last frame read, plus weights times the regressors, which are T and no constant.

    Regressors are the differences of the frames before to the last one, and the last one itself. Weights of zero copy
    the last frame.
    """

    def __init__(self, num_frames_in: int, num_frames_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_frames_out, num_frames_in))

    def forward(self, x_TBD: Tensor, num_steps: int) -> Tensor:
        """Returns the frames after x, (num_steps, B, D); those beyond P are forecast as the P-th.

        Of more frames than T the last T are read; of fewer, the weights of the frames that are not there are left out.
        """
        regressors_SBD = _regressors(x_TBD[-self.weight.shape[1] :])
        weight_PS = self.weight[:num_steps, self.weight.shape[1] - len(regressors_SBD) :]
        beyond = weight_PS[-1:].expand(num_steps - len(weight_PS), -1)
        return x_TBD[-1:] + torch.einsum("ps,sbd->pbd", torch.cat([weight_PS, beyond]), regressors_SBD)

    @torch.no_grad()
    def fit(self, sequences: Iterable[Tensor]) -> None:
        """Sets the weights to the ridge regression of the last P frames of sequences (T + P, B, D) on those before."""
        num_ahead, num_regressors = self.weight.shape
        gram_SS = torch.zeros(num_regressors, num_regressors, dtype=torch.float64)
        moments_SP = torch.zeros(num_regressors, num_ahead, dtype=torch.float64)
        for x_TBD in sequences:
            frames_TBD = x_TBD.double()
            regressors_SN = _regressors(frames_TBD[:num_regressors]).flatten(1)
            ahead_PN = (frames_TBD[num_regressors:] - frames_TBD[num_regressors - 1]).flatten(1)
            gram_SS += regressors_SN @ regressors_SN.mT
            moments_SP += regressors_SN @ ahead_PN.mT
        ridge_S = RIDGE * gram_SS.diagonal() + torch.finfo(torch.float32).tiny
        self.weight.copy_(torch.linalg.solve(gram_SS + ridge_S.diag(), moments_SP).mT)


def _regressors(x_TBD: Tensor) -> Tensor:
    return torch.cat([x_TBD[:-1] - x_TBD[-1:], x_TBD[-1:]])
