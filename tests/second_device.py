"""A device `cuda` that the CPU plays: which tensors lie there is written on them, and what mixes the two is an error.

    with second_device(monkeypatch):
        finetune(config, context_with_a_gpu, ...)

Only where tensors lie is played. Kernels, streams and captured graphs are a chip's own: the equations, one queue and
autocast of the CPU stand for them. A tensor of which nothing is known (what autograd makes by itself) mixes with all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

import stages.models.stack
from stages.finetuning import trained_classifiers
from stages.models import losses, pretrained
from stages.models.cuda import fused_steps
from stages.models.cuda.queues import Queues

GPU = torch.device("cuda", 0)
MAY_MIX = {"to", "copy_", "__getitem__", "__setitem__", "__set__", "__format__", "__repr__"}
"""A GPU's tensor takes numbers and values from the CPU's memory."""
TO_NUMPY = {"numpy", "__array__"}
GRADIENTS = {"backward", "grad"}


def place_of(tensor: Tensor) -> str | None:
    place: str | None = tensor.__dict__.get("place")
    return place


def lay(tensor: Tensor, place: str | None) -> Tensor:
    if place is not None:
        tensor.__dict__["place"] = place
    return tensor


def tensors_in(*parts: Any) -> list[Tensor]:
    return [part for part in tree_flatten(parts)[0] if isinstance(part, Tensor)]


class _Named:
    """Replaces the devices that a call names by the CPU, and keeps the name."""

    def __init__(self) -> None:
        self.place: str | None = None

    def __call__(self, value: Any) -> Any:
        if not (isinstance(value, torch.device) or (isinstance(value, str) and value.split(":")[0] in ("cpu", "cuda"))):
            return value
        device = torch.device(value)
        if device.type in ("cpu", "cuda"):
            self.place = device.type
        return torch.device("cpu") if device.type == "cuda" else device


class SecondDevice(TorchFunctionMode):
    """Follows where the result of every function of torch lies. Raises AssertionError where tensors of both meet."""

    num_gradients = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.__name__, kwargs or {}
        if func is torch.device or name == "_parse_to":  # names of devices alone
            return func(*args, **kwargs)
        if name == "__get__":
            return self._read(func, args)
        if name in GRADIENTS:
            return self._differentiate(func, args, kwargs)
        named = _Named()
        args, kwargs = tree_map(named, args), tree_map(named, kwargs)
        given = tensors_in(args, kwargs)
        places = {place_of(tensor) for tensor in given} - {None}
        assert not (name in TO_NUMPY and "cuda" in places), f"{name} of a tensor on the GPU: call cpu() first"
        if not self.num_gradients and name not in MAY_MIX:
            sized = {place_of(tensor) for tensor in given if tensor.dim()}
            assert not {"cpu", "cuda"} <= sized, f"{func} of tensors on the CPU and on the GPU"
        result = func(*args, **kwargs)
        if name == "cpu":
            named.place = "cpu"
        place = named.place or ("cuda" if "cuda" in places else None if given and not places else "cpu")
        if name == "__set__":
            lay(args[0], place_of(args[1]) if len(given) == 2 else None)
        elif name in MAY_MIX and given:
            place = named.place or place_of(given[-1 if name == "to" else 0])
        if isinstance(result, Tensor) and any(result is tensor for tensor in given) and place_of(result) != place:
            return lay(result.clone(), place)  # moved: to a device where it was, in truth
        for tensor in tensors_in(result):
            lay(tensor, place)
        return result

    def _read(self, func: Any, args: Any) -> Any:
        what = getattr(func.__self__, "__name__", "")
        if place_of(args[0]) == "cuda" and what in ("device", "is_cuda"):
            return GPU if what == "device" else True
        result = func(*args)
        return lay(result, place_of(args[0])) if isinstance(result, Tensor) else result

    def _differentiate(self, func: Any, args: Any, kwargs: Any) -> Any:
        self.num_gradients += 1
        try:
            return func(*args, **kwargs)
        finally:
            self.num_gradients -= 1


@contextmanager
def second_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plays a GPU within; trained models are read to it."""
    from_numpy, read_tensors, make_generator, autocast = (
        torch.from_numpy,
        pretrained.read_tensors,
        torch.Generator,
        torch.autocast,
    )

    def read(uri: str, *, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, header = read_tensors(uri)
        return {name: lay(tensor.clone(), torch.device(device).type) for name, tensor in tensors.items()}, header

    def of_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda device=None, *args, **kwargs: function("cpu", *args, **kwargs)

    monkeypatch.setattr(torch, "from_numpy", lambda array: lay(from_numpy(array), "cpu"))
    monkeypatch.setattr(torch, "Generator", lambda device=None: make_generator())
    monkeypatch.setattr(torch, "autocast", of_cpu(autocast))
    for name in ("is_autocast_enabled", "get_autocast_dtype"):
        monkeypatch.setattr(torch, name, of_cpu(getattr(torch, name)))
    for module in (pretrained, trained_classifiers):
        monkeypatch.setattr(module, "read_tensors", read)
    for module in (fused_steps, losses):
        monkeypatch.setattr(module, "has_kernels", lambda tensor: False)
    monkeypatch.setattr(stages.models.stack, "_chunk_size", lambda device, runs, num_steps: num_steps)
    monkeypatch.setattr(stages.models.stack, "Queues", lambda device, num: Queues(torch.device("cpu"), num))
    with SecondDevice():
        yield
