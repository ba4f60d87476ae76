"""Parts of training loops: precision, optimisers, learning rates, clipping, averages, the guard, exact checkpoints.

Weights, cell states, losses and optimisers are float32 always, whatever the number format of matrix products.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from pipeline.core.errors import CorruptArtifact, TrainingDiverged
from stages.models.weights import read_tensors, write_tensors
from stages.pretraining.config import OptimizerConfig, Precision
from stages.pretraining.eager import EagerAdamW
from stages.pretraining.published import published_optimizer

M = TypeVar("M", bound=nn.Module)


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """Returns the context in which a model's forward pass runs."""
    half = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=half)


def slow_on(precision: Precision, device: torch.device) -> bool:
    """Returns whether `device` is a CPU that only emulates a bfloat16 precision, without AVX512-BF16 or AMX."""
    if precision != "bfloat16" or device.type != "cpu":
        return False
    return not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def learning_rate(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """Returns the learning rate of step `step` (from 0) of `num_steps`: a pure function, so that a resume agrees."""
    if step < config.num_warmup_steps:
        return config.learning_rate * (step + 1) / config.num_warmup_steps
    done = min(1.0, (step - config.num_warmup_steps) / max(1, num_steps - config.num_warmup_steps))
    cosine = 0.5 * (1.0 + math.cos(math.pi * done))
    return config.learning_rate * (config.final_fraction + (1.0 - config.final_fraction) * cosine)


def build_optimizer(
    config: OptimizerConfig, model: nn.Module, *, slow: Sequence[nn.Parameter] = (), share: float = 1.0
) -> torch.optim.Optimizer:
    """Builds the optimiser of `config` over all of the model's parameters.

    slow: parameters whose learning rate is that of the others times `share`.
    """
    optimizer = published_optimizer(config, model) if config.kind == "published" else _adamw(config, model)
    if share != 1:
        of_slow = set(map(id, slow))
        for group in list(optimizer.param_groups):
            slow_ones = [weight for weight in group["params"] if id(weight) in of_slow]
            group["params"] = [weight for weight in group["params"] if id(weight) not in of_slow]
            if slow_ones:
                optimizer.add_param_group({**group, "params": slow_ones, "lr": share * group["lr"]})
    return optimizer


def _adamw(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    named = list(model.named_parameters())
    matrices = [parameter for name, parameter in named if name.rsplit(".", 1)[-1].endswith("weight")]
    others = [parameter for name, parameter in named if not name.rsplit(".", 1)[-1].endswith("weight")]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    fused = all(parameter.device.type == "cuda" for _, parameter in named)  # one kernel for all weights
    return EagerAdamW(groups, lr=config.learning_rate, betas=(config.momentum, config.beta2), fused=fused or None)


def clip_gradients(model: nn.Module, max_norm: float, *, num_groups: int = 1) -> Tensor:
    """Limits each group's gradients to a norm of at most `max_norm`; returns the norms before, (G,).

    A `max_norm` of 0 leaves them. With `num_groups` > 1 every parameter must lead with the group axis: each model is
    clipped as it would be alone.
    """
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert num_groups == 1 or all(gradient.shape[0] == num_groups for gradient in gradients)
    if gradients[0].device.type == "cuda" and num_groups == 1:
        return _clip_at_once(gradients, max_norm)
    norms = [torch.linalg.vector_norm(gradient.reshape(num_groups, -1), dim=1) for gradient in gradients]
    norm_G: Tensor = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    if max_norm:
        scale_G = (max_norm / (norm_G + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(scale_G.view(-1, *[1] * (gradient.dim() - 1)) if num_groups > 1 else scale_G[0])
    return norm_G


def _clip_at_once(gradients: list[Tensor], max_norm: float) -> Tensor:
    """Limits the gradients of one model on a GPU, in a few launches for all together."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if max_norm:
        torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm[None]


class ExponentialMovingAverage(Generic[M]):
    """An exponential moving average of a module's weights: a module of the same kind, that no gradient reaches."""

    def __init__(self, module: M, decay: float) -> None:
        self.module: M = copy.deepcopy(module).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, module: M, step: int) -> None:
        """Moves the average after step `step` (from 0): average += (1 - d) * (weights - average).

        d is `decay`, but at first only (1 + step) / (10 + step), or the average would remember the random start.
        """
        share = 1.0 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.module.parameters()), [weight.detach() for weight in module.parameters()], share)


def start_reading(values: Tensor) -> Callable[[], list[float]]:
    """Begins to copy a vector to the host; the function that it returns waits for the copy and gives the numbers.

    On a GPU, `values.tolist()` would wait for all that was launched since, and the GPU then for Python.
    """
    if values.device.type != "cuda":
        return values.tolist
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    copied = torch.cuda.current_stream(values.device).record_event()

    def read() -> list[float]:
        copied.synchronize()
        return [float(value) for value in host.tolist()]

    return read


@dataclass
class DivergenceGuard:
    """Stops a training whose loss or gradient is no longer finite, or whose loss has left its best far behind."""

    explosion_factor: float = 1e3
    """The largest loss, in multiples of the smallest loss so far plus 1."""
    smallest_loss: float = math.inf

    def check(self, step: int, loss: float, grad_norm: float) -> None:
        """Checks a step's loss and gradient norm, before a checkpoint holds its weights.

        Raises:
            TrainingDiverged: loss or gradient norm is not finite, or the loss exploded; it names step, loss and norm.
        """
        exploded = loss > self.explosion_factor * (abs(self.smallest_loss) + 1.0)
        if not (math.isfinite(loss) and math.isfinite(grad_norm)) or exploded:
            raise TrainingDiverged(
                f"training diverged at step {step}: loss {loss:.6g}, gradient norm {grad_norm:.6g} "
                f"(smallest loss before: {self.smallest_loss:.6g}); lower the learning rate or clip gradients harder"
            )
        self.smallest_loss = min(self.smallest_loss, loss)


def save_training_state(
    uri: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    extra: Mapping[str, Any] | None = None,
    *,
    average: nn.Module | None = None,
) -> None:
    """Writes all that a training needs to go on bit for bit, as ONE safetensors file, atomically.

    Weights and their average, the optimiser's tensors, the generators of the CPU and of every GPU; in the header `step`
    (steps done), the optimiser's settings and `extra` (anything JSON-able of the caller's: best loss, guard).
    """
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    if average is not None:
        tensors |= {f"average/{name}": tensor for name, tensor in average.state_dict().items()}
    whole = optimizer.state_dict()
    numbers: dict[str, dict[str, Any]] = {}
    for index, entries in whole["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{name}"] = value
            else:
                numbers.setdefault(str(index), {})[name] = value
    tensors["rng/cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors |= {f"rng/cuda/{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    header: dict[str, Any] = {"class": "TrainingState", "step": step, "extra": dict(extra or {})}
    header |= {"param_groups": whole["param_groups"], "numbers": numbers}
    write_tensors(uri, tensors, header, is_checked=True)


def restore_training_state(
    uri: str, model: nn.Module, optimizer: torch.optim.Optimizer, *, average: nn.Module | None = None
) -> tuple[int, dict[str, Any]]:
    """Puts back, in place, what `save_training_state` wrote; returns (steps done, extra).

    Raises:
        SourceError: there is no such file.
        StoreError: a newer version of percepts wrote it.
        CorruptArtifact: it is no checkpoint, or the state of another model or optimiser.
    """
    tensors, header = read_tensors(uri)
    if header.get("class") != "TrainingState":
        raise CorruptArtifact(f"{uri} holds a {header.get('class')}, not the state of a training: give a checkpoint")
    state: dict[int, dict[str, Any]] = {int(index): dict(entries) for index, entries in header["numbers"].items()}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, index, entry = name.split("/")
            state.setdefault(int(index), {})[entry] = tensor
    try:
        model.load_state_dict(_below("model/", tensors))
        if average is not None:
            average.load_state_dict(_below("average/", tensors))
        optimizer.load_state_dict({"state": state, "param_groups": header["param_groups"]})
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CorruptArtifact(f"{uri} is the state of another model or optimiser ({reason}): start anew") from error
    torch.set_rng_state(tensors["rng/cpu"])
    for i in range(torch.cuda.device_count()):
        if f"rng/cuda/{i}" in tensors:
            torch.cuda.set_rng_state(tensors[f"rng/cuda/{i}"], i)
    return int(header["step"]), dict(header["extra"])


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
