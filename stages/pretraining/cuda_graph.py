"""The gradients of a training step as one CUDA graph: its kernels are launched at once, not one by one from Python.

A step of the composite launches some five hundred kernels; at the sizes of a large GPU, Python needs longer to launch
them than the GPU to run them. What is captured is everything from the batch to the gradients, micro-batches that are
added up included. Clipping, optimiser and average of the weights stay outside: a handful of launches for all weights
together, which Python has done while the graph runs, so that learning rates and steps need not live on the GPU.

Trainings over several workers are not captured: DistributedDataParallel's all-reduce would have to be.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Gradients = Callable[[Tensor, Tensor | None], Tensor]
"""A function from a batch, and another input that changes from step to step or None, to values to report.

It adds to the parameters' gradients.
"""

NUM_WARM_UPS = 2
"""The number of runs before the capture: they compile kernels, make cuBLAS's workspaces and choose its algorithms."""


Capture = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]
"""A function that runs another once, and returns what repeats that run with the present values of the captured tensors,
and the function's result, which each repetition overwrites."""


def capture_on_cuda(function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Captures a function as a CUDA graph, after runs to warm up; generators are left as they were."""
    generators = torch.cuda.get_rng_state()
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's constructor has no types
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(NUM_WARM_UPS):
            function()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # Other threads go on meanwhile: they read the next batches.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = function()
    torch.cuda.set_rng_state(generators)
    return graph.replay, result


def capture_for(device: torch.device, world_size: int) -> Capture | None:
    """Returns the capture of gradients for a training of so many workers on this device; None: it captures none."""
    return capture_on_cuda if device.type == "cuda" and world_size == 1 else None


@dataclass
class _Captured:
    inputs: tuple[Tensor, Tensor | None]
    replay: Callable[[], None]
    values: Tensor
    gradients: list[Tensor | None]


class CapturedGradients:
    """A `Gradients` from no gradients, captured at the first inputs of each shape and replayed from then on.

    Values and gradients lie where they lay at the capture: the next call overwrites them. Weights may change between
    calls, in place.
    """

    def __init__(self, gradients: Gradients, parameters: Iterable[nn.Parameter], capture: Capture) -> None:
        self._gradients, self._parameters, self._capture = gradients, list(parameters), capture
        self._captured: dict[tuple[torch.Size, torch.Size | None], _Captured] = {}

    def __call__(self, batch: Tensor, other: Tensor | None = None) -> Tensor:
        shapes = batch.shape, None if other is None else other.shape
        captured = self._captured.get(shapes)
        if captured is None:
            captured = self._captured[shapes] = self._new(batch, other)
        captured.inputs[0].copy_(batch)
        if other is not None and captured.inputs[1] is not None:
            captured.inputs[1].copy_(other)
        captured.replay()
        for parameter, gradient in zip(self._parameters, captured.gradients, strict=True):
            parameter.grad = gradient
        return captured.values

    def _new(self, batch: Tensor, other: Tensor | None) -> _Captured:
        inputs = _copy(batch), None if other is None else _copy(other)

        def from_nothing() -> Tensor:
            for parameter in self._parameters:
                parameter.grad = None
            return self._gradients(*inputs)

        replay, values = self._capture(from_nothing)
        return _Captured(inputs, replay, values, [parameter.grad for parameter in self._parameters])


def _copy(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)
