"""Logistic regression on the mean of a clip's frames, by scikit-learn: what a sequence model has to beat.

Shapes: G groups, N clips, T frames of a window, W windows, D frame dimensions, C classes.
"""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.core.errors import TrainingDiverged
from stages.datasets.labelled import ClipWindows, Rows
from stages.models.classifier import MeanFramesClassifier, classification_losses

MAX_ITERATIONS = 2000


def mean_frames(windows: ClipWindows) -> npt.NDArray[np.float32]:
    """Computes the mean over every clip's windows and their frames, transformed, (N, D)."""
    return np.stack([windows.gather(starts).mean((0, 1)).cpu().numpy() for starts in windows.starts_N])


@torch.no_grad()
def fit(
    classifier: MeanFramesClassifier, mean_ND: npt.NDArray[np.float32], members_GN: Rows, labels_GN: Rows
) -> npt.NDArray[np.float32]:
    """Fits each group on its clips, in place; returns the groups' cross-entropies as those of one step, (1, G), nats.

    mean_ND: of all clips. members_GN: numbers of each group's clips in it. A class of which a group has no clip is
    never predicted by it.

    Raises:
        TrainingDiverged: the solver has not converged.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression  # takes a second to import

    losses = []
    output = classifier.output
    for group, (members_N, labels_N) in enumerate(zip(members_GN, labels_GN, strict=True)):
        output.weight[group].zero_()
        output.bias[group].fill_(-torch.inf)
        if len(set(labels_N.tolist())) == 1:  # nothing to tell apart: the one class is the answer, at no loss
            output.bias[group, labels_N[0]] = 0.0
            losses.append(torch.zeros(1))
            continue
        model = LogisticRegression(C=classifier.config.inverse_regularization, max_iter=MAX_ITERATIONS)
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            try:
                model.fit(mean_ND[members_N], labels_N)
            except ConvergenceWarning as warning:
                raise TrainingDiverged(
                    f"scikit-learn's logistic regression did not converge in {MAX_ITERATIONS} iterations: "
                    "give a smaller inverse_regularization"
                ) from warning
        weight_CD, bias_C = model.coef_, model.intercept_
        if len(model.classes_) == 2:  # one row of log-odds: half of it for, half against
            weight_CD, bias_C = np.concatenate([-weight_CD, weight_CD]) / 2, np.concatenate([-bias_C, bias_C]) / 2
        output.weight[group, model.classes_] = torch.from_numpy(weight_CD).to(output.weight)
        output.bias[group, model.classes_] = torch.from_numpy(bias_C).to(output.bias)
        logits_BC: Tensor = (
            torch.from_numpy(mean_ND[members_N]) @ output.weight[group].cpu().T + output.bias[group].cpu()
        )
        losses.append(classification_losses(logits_BC[None, None], torch.from_numpy(labels_N)[None]))
    return np.asarray(torch.cat(losses)[None].numpy(), np.float32)
