"""Trains G independent classifiers as one model: a batch for each in every step, one optimiser over all.

Both optimisers work element by element, losses are summed over groups and gradients clipped group by group: so each
group takes the steps that it would take alone.

Batches are decided before training begins. Every classifier passes through its clips in an order of its own, drawn
anew for each pass, and reads a random window of a clip each time. Both are pure functions of its seed and of the number
of its clips: not of the model, nor of others.

Shapes: G groups, S steps, T frames of a window, B clips of a step, D frame dimensions, N clips of a classifier.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.core.errors import TrainingDiverged
from stages.datasets.labelled import ClipWindows, Rows
from stages.finetuning.arm import EnsembleTrainingConfig
from stages.models.classifier import IGNORED_LABEL, Classifier, classification_losses
from stages.pretraining.eager import EagerAdamW
from stages.pretraining.optimisation import clip_gradients, learning_rate
from stages.pretraining.published import published_optimizer


@dataclass(frozen=True)
class ClipBatches:
    """The batch of each step: windows of `windows` by their first row, and the labels of their clips."""

    windows: ClipWindows
    members_GN: Rows
    """Positions, in `windows`, of the clips that each classifier learns from."""
    labels_GN: Rows
    """Classes of these clips."""
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
    return ClipBatches(windows, members_GN, labels_GN, np.stack(starts, axis=1), np.stack(labels, axis=1))


def _passes(num_clips: int, seed: int, num_steps: int, batch_clips: int) -> tuple[Rows, npt.NDArray[np.float64]]:
    """Draws (S, B) clip numbers in the order of the passes, and (S, B) uniforms in [0, 1) that select a window."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    shape = (num_steps, min(num_clips, batch_clips))
    total = math.prod(shape)
    passes = [rng.permutation(num_clips) for _ in range(math.ceil(total / num_clips))]
    return np.concatenate(passes)[:total].reshape(shape), rng.random(shape)


def train_ensemble(
    classifier: Classifier,
    batches: ClipBatches,
    config: EnsembleTrainingConfig,
    *,
    num_steps: int | None = None,
    checks: Collection[int] = (),
    on_check: Callable[[], None] | None = None,
) -> npt.NDArray[np.float32]:
    """Trains the classifier in place; parameters that need no gradient stay. Returns losses_SG, nats.

    num_steps: steps after which training ends, on the learning rates of all of `batches`; None: all of them.
    checks, on_check: after these numbers of steps `on_check` is called, the classifier in evaluation mode.

    Raises:
        TrainingDiverged: a loss or a gradient is not finite; the message names step, group, loss and gradient norm.
    """
    num_members = classifier.config.num_members
    optimizer = _optimizer(classifier, config)
    settings = config.optimizer
    max_norm = settings.max_grad_norm if settings.kind == "adamw" else 0.0
    shares = [group["lr"] / settings.learning_rate for group in optimizer.param_groups]
    classifier.train()
    losses: list[Tensor] = []
    for step in range(len(batches) if num_steps is None else num_steps):
        x_GTBD, labels_GB = batches.step(step)
        with torch.autocast(x_GTBD.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            logits_GTBC = classifier(x_GTBD)
        loss_G = classification_losses(logits_GTBC, labels_GB)
        optimizer.zero_grad(set_to_none=True)
        trained_G = loss_G
        if settings.kind == "published":  # the gradient of a sum over clips and steps
            num_clips_G = (labels_GB != IGNORED_LABEL).sum(1)
            trained_G = loss_G * num_clips_G * logits_GTBC.shape[1]
        trained_G.sum().backward()  # type: ignore[no-untyped-call]
        norm_G = clip_gradients(classifier, max_norm, num_groups=num_members)
        losses.append(loss_G.detach())
        _check_finite(losses[-1], norm_G, step)
        rate = learning_rate(settings, step, len(batches))
        for group, share in zip(optimizer.param_groups, shares, strict=True):
            group["lr"] = rate * share
        optimizer.step()
        if on_check is not None and step + 1 in checks:
            classifier.eval()
            with torch.no_grad():
                on_check()
            classifier.train()
    classifier.eval()
    return np.asarray(torch.stack(losses).cpu().numpy(), np.float32)


def _optimizer(classifier: Classifier, config: EnsembleTrainingConfig) -> torch.optim.Optimizer:
    """Builds fused AdamW, with separate settings for the softmax layer where given, or the published optimiser."""
    settings = config.optimizer
    if settings.kind == "published":
        return published_optimizer(settings, classifier)
    groups: list[dict[str, Any]] = []
    for name, parameter in classifier.named_parameters():
        if not parameter.requires_grad:
            continue
        rate, decay = settings.learning_rate, settings.weight_decay
        if name.startswith("output."):
            rate = rate if config.output_learning_rate is None else config.output_learning_rate
            decay = decay if config.output_weight_decay is None else config.output_weight_decay
        groups.append({"params": [parameter], "lr": rate, "weight_decay": decay if name.endswith("weight") else 0.0})
    return EagerAdamW(groups, betas=(settings.momentum, settings.beta2), fused=True)


def _check_finite(loss_G: Tensor, norm_G: Tensor, step: int) -> None:
    is_finite_G = torch.isfinite(loss_G + norm_G)
    if bool(is_finite_G.all()):
        return
    group = int(is_finite_G.logical_not().nonzero()[0])
    raise TrainingDiverged(
        f"training diverged at step {step}: group {group} has loss {float(loss_G[group]):.6g} and gradient norm "
        f"{float(norm_G[group]):.6g}; lower the learning rate or clip gradients harder"
    )
