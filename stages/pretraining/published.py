"""The training of the authors' code: what is summed, first weights, and the optimiser.

Read from their pbtxt files, lstm_combo.py and lstm.py, where these and the paper's text differ. Theirs are sums where
our losses are means: a step there is as large as the batch, the frames and the dimensions make it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from torch import Tensor, nn

from stages.models.classifier import Classifier, EnsembleLinear
from stages.models.composite import Losses
from stages.models.config import CompositeConfig
from stages.models.lstm import PeepholeLayer
from stages.pretraining.config import OptimizerConfig
from stages.pretraining.eager import EagerOptimizer

WEIGHT_BOUND: Final = 0.01
PEEPHOLE_BOUND: Final = 0.1
CLASSIFIER_INPUT_BOUND: Final = 0.001


class ClampedMomentum(EagerOptimizer):
    """The published optimiser: v = clamp(momentum * v - lr * (gradient + decay * w), +-clamp); w += v.

    clamp: 0 leaves the velocity as it is. Groups may have a `decay` each.
    """

    def __init__(self, params: Iterable[Any], lr: float, *, momentum: float, clamp: float, decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "clamp": clamp, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Moves every weight that has a gradient."""
        assert closure is None, "gradients are computed before the step"
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                velocity = self.state[weight].setdefault("velocity", torch.zeros_like(weight))
                velocity.mul_(group["momentum"]).add_(weight.grad, alpha=-group["lr"])
                if group["decay"]:
                    velocity.add_(weight, alpha=-group["lr"] * group["decay"])
                if group["clamp"]:
                    velocity.clamp_(-group["clamp"], group["clamp"])
                weight.add_(velocity)


def published_optimizer(config: OptimizerConfig, model: nn.Module) -> ClampedMomentum:
    """Builds the optimiser over all of the model's parameters: L2 on matrices and peepholes, none on biases."""
    named = list(model.named_parameters())
    biases = [parameter for name, parameter in named if name.endswith("bias")]
    others = [parameter for name, parameter in named if not name.endswith("bias")]
    groups = [{"params": others, "decay": config.weight_decay}, {"params": biases, "decay": 0.0}]
    return ClampedMomentum(groups, config.learning_rate, momentum=config.momentum, clamp=config.velocity_clamp)


def summed_loss(losses: Losses, config: CompositeConfig, *, num_sequences: int) -> Tensor:
    """Returns the loss whose gradient is the published one: a sum over sequences, frames and dimensions, a scalar.

    Cross-entropy of logistic outputs, HALF the squared error of linear ones. The two decoders weigh as their frames do.
    """
    half = 0.5 if config.loss == "gaussian" else 1.0
    parts = [
        loss * (half * num_sequences * num_frames)
        for loss, num_frames in (
            (losses.reconstruction, config.num_frames_in),
            (losses.prediction, config.num_frames_out),
        )
        if loss is not None
    ]
    return torch.stack(parts).sum()


@torch.no_grad()
def draw_published_weights_(model: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draws all weights anew: matrices U(-0.01, 0.01), biases zero, peepholes U(-0.1, 0.1).

    The LSTMs of classifiers, whose layers are ensembles, have input matrices U(-0.001, 0.001) and peepholes zero.
    """
    is_classifier = isinstance(model, Classifier)
    input_bound = CLASSIFIER_INPUT_BOUND if is_classifier else WEIGHT_BOUND
    peephole_bound = 0.0 if is_classifier else PEEPHOLE_BOUND
    for module in model.modules():
        bounds: dict[Tensor | None, float] = {}
        if isinstance(module, PeepholeLayer):
            bounds = {module.input_weight: input_bound, module.recurrent_weight: WEIGHT_BOUND}
            bounds |= {module.peephole: peephole_bound, module.bias: 0.0}
        elif isinstance(module, nn.Linear | EnsembleLinear):
            bounds = {module.weight: WEIGHT_BOUND, module.bias: 0.0}
        for parameter, bound in bounds.items():
            if parameter is not None:
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
