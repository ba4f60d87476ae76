"""Trains G independent classifiers as one model: a batch for each in every step, one optimiser over all.

Both optimisers work element by element, losses are summed over groups and gradients clipped group by group: so each
group takes the steps that it would take alone.

Shapes: G groups, S steps, T frames, B clips, D frame dimensions.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.core.errors import ConfigError, TrainingDiverged
from stages.models.classifier import Classifier, classification_losses
from stages.pretraining.optimisation import OptimizerConfig, build_optimizer, clip_gradients, learning_rate


@dataclass(frozen=True, kw_only=True)
class GroupTrainingConfig(OptimizerConfig):
    """How the classifiers are trained; fixed before any clip is seen."""

    num_steps: int = 100
    """Training steps."""
    num_epochs: int = 0
    """Passes over the labelled clips, where they take more steps than num_steps; 0: num_steps, always."""
    batch_clips: int = 40
    """Clips of a step; fewer where a classifier has fewer to learn from."""
    num_warmup_steps: int = 0
    """Steps of linear warm-up."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of matrix products and gates; weights, cells, losses and the optimiser stay float32. bfloat16 is fast on GPUs and
    on CPUs that multiply it (AVX512-BF16, AMX)."""
    output_learning_rate: float | None = None
    """adamw: peak learning rate of the softmax layer; none: the same as below it."""
    output_weight_decay: float | None = None
    """adamw: weight decay of the softmax layer; none: the same as below it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_steps < 1 or self.batch_clips < 1 or self.num_epochs < 0:
            raise ConfigError(
                f"num_steps {self.num_steps}, batch_clips {self.batch_clips}, num_epochs {self.num_epochs}: "
                "give at least 1, 1 and 0"
            )
        if self.output_learning_rate is not None and not self.output_learning_rate > 0:
            raise ConfigError(f"output_learning_rate is {self.output_learning_rate}; it must be above 0, or none")
        if self.output_weight_decay is not None and self.output_weight_decay < 0:
            raise ConfigError(f"output_weight_decay is {self.output_weight_decay}; it must be at least 0, or none")
        if self.kind == "published" and (self.output_learning_rate, self.output_weight_decay) != (None, None):
            raise ConfigError("the published optimiser has one learning rate and no weight decay; use kind=adamw")

    def steps(self, num_clips: int) -> int:
        """S, training steps for a classifier with `num_clips` labelled clips."""
        return max(self.num_steps, self.num_epochs * math.ceil(num_clips / self.batch_clips))


class Batches(Protocol):
    """What every step sees."""

    def __len__(self) -> int:
        """S."""
        ...

    def step(self, number: int) -> tuple[Tensor, Tensor]:
        """Frames x_GTBD float32 and labels_GB int64, on the classifier's device."""
        ...


def train_groups(
    classifier: Classifier,
    batches: Batches,
    config: GroupTrainingConfig,
    *,
    num_steps: int | None = None,
    checks: Collection[int] = (),
    on_check: Callable[[], None] | None = None,
) -> npt.NDArray[np.float32]:
    """Trains the classifier where it is; parameters that need no gradient stay. Returns losses_SG, nats.

    num_steps: ends after so many, on the learning rates of the whole of `batches`; None: with the last of them.
    checks, on_check: after these numbers of steps `on_check` is called, the classifier in evaluation mode.

    Raises:
        TrainingDiverged: a loss or a gradient is not finite; the message names step, group, loss and gradient norm.
    """
    num_groups = classifier.config.num_groups
    optimizer = _optimizer(classifier, config)
    max_norm = config.max_grad_norm if config.kind == "adamw" else 0.0
    shares = [group["lr"] / config.learning_rate for group in optimizer.param_groups]
    classifier.train()
    losses: list[Tensor] = []
    for step in range(len(batches) if num_steps is None else num_steps):
        x_GTBD, labels_GB = batches.step(step)
        with torch.autocast(x_GTBD.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            logits_GTBC = classifier(x_GTBD)
        loss_G = classification_losses(logits_GTBC, labels_GB)
        optimizer.zero_grad(set_to_none=True)
        loss_G.sum().backward()  # type: ignore[no-untyped-call]
        norm_G = clip_gradients(classifier, max_norm, num_groups=num_groups)
        losses.append(loss_G.detach())
        _check_finite(losses[-1], norm_G, step)
        rate = learning_rate(config, step, len(batches))
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


def _optimizer(classifier: Classifier, config: GroupTrainingConfig) -> torch.optim.Optimizer:
    """Fused AdamW, whose softmax layer may have a learning rate and a decay of its own; or the published optimiser."""
    if config.kind == "published":
        return build_optimizer(config, classifier, batch_size=config.batch_clips)
    groups: list[dict[str, Any]] = []
    for name, parameter in classifier.named_parameters():
        if not parameter.requires_grad:
            continue
        rate, decay = config.learning_rate, config.weight_decay
        if name.startswith("output."):
            rate = rate if config.output_learning_rate is None else config.output_learning_rate
            decay = decay if config.output_weight_decay is None else config.output_weight_decay
        groups.append({"params": [parameter], "lr": rate, "weight_decay": decay if name.endswith("weight") else 0.0})
    return torch.optim.AdamW(groups, betas=(config.momentum, config.beta2), fused=True)


def _check_finite(loss_G: Tensor, norm_G: Tensor, step: int) -> None:
    is_finite_G = torch.isfinite(loss_G + norm_G)
    if bool(is_finite_G.all()):
        return
    group = int(is_finite_G.logical_not().nonzero()[0])
    raise TrainingDiverged(
        f"training diverged at step {step}: group {group} has loss {float(loss_G[group]):.6g} and gradient norm "
        f"{float(norm_G[group]):.6g}; lower the learning rate or clip gradients harder"
    )
