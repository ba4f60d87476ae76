"""PyTorch's optimisers and its seed without its compiler, which their own functions import before the first step.

`import torch._dynamo` takes nearly as long as all of torch: seconds in each process that trains, for decorators that
only keep the compiler away from these functions. Nothing here is compiled. (DistributedDataParallel imports it, too.)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

manual_seed: Callable[[int], torch.Generator] = inspect.unwrap(torch.manual_seed)
"""The function `torch.manual_seed` without its decorator."""


class EagerOptimizer(torch.optim.Optimizer):
    """An optimiser whose methods are those of `torch.optim.Optimizer` as they are below their decorators."""

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)


class EagerAdamW(EagerOptimizer, torch.optim.AdamW):
    """`torch.optim.AdamW`, to the bit."""

    _undecorated_step: Callable[..., Any] = inspect.unwrap(torch.optim.AdamW.step)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Moves every weight that has a gradient."""
        assert closure is None, "gradients are computed before the step"
        self._undecorated_step()
