"""Trains G independent classifiers as one model: a batch for each in every step, one optimiser over all.

Both optimisers work element by element, losses are summed over groups and gradients clipped group by group: so each
group takes the steps that it would take alone.

Shapes: G groups, S steps, T frames, B clips, D frame dimensions.
"""

from collections.abc import Callable, Collection
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.core.errors import TrainingDiverged
from stages.finetuning.arm import EnsembleTrainingConfig
from stages.models.classifier import IGNORED_LABEL, Classifier, classification_losses
from stages.pretraining.optimisation import clip_gradients, learning_rate
from stages.pretraining.published import published_optimizer


class Batches(Protocol):
    """A source of the batches of every training step."""

    def __len__(self) -> int:
        """Returns S, the number of steps."""
        ...

    def step(self, number: int) -> tuple[Tensor, Tensor]:
        """Returns frames x_GTBD float32 and labels_GB int64, on the classifier's device."""
        ...


def train_ensemble(
    classifier: Classifier,
    batches: Batches,
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
    return torch.optim.AdamW(groups, betas=(settings.momentum, settings.beta2), fused=True)


def _check_finite(loss_G: Tensor, norm_G: Tensor, step: int) -> None:
    is_finite_G = torch.isfinite(loss_G + norm_G)
    if bool(is_finite_G.all()):
        return
    group = int(is_finite_G.logical_not().nonzero()[0])
    raise TrainingDiverged(
        f"training diverged at step {step}: group {group} has loss {float(loss_G[group]):.6g} and gradient norm "
        f"{float(norm_G[group]):.6g}; lower the learning rate or clip gradients harder"
    )
