"""Authorities for the models' tests: the paper's cell transcribed into NumPy float64, and finite differences."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Array = npt.NDArray[np.float64]


def sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def paper_layer(
    inputs: list[Array | None], weights: dict[str, Array], h: Array, c: Array
) -> tuple[list[dict[str, Array]], Array, Array]:
    """One layer of one model, step by step and gate by gate, from the paper's equations (section 2.1).

    inputs: (B, D), or None at a step that is given nothing. weights: those of a PeepholeLayer, without the group axis.
    """
    units = h.shape[1]
    rows = {gate: slice(n * units, (n + 1) * units) for n, gate in enumerate("ifao")}
    to_i, to_f, to_o = weights["peephole"]

    def product(x: Array | None, h: Array, gate: str) -> Array:
        total = h @ weights["recurrent_weight"][rows[gate]].T + weights["bias"][rows[gate]]
        return total if x is None else total + x @ weights["input_weight"][rows[gate]].T

    steps = []
    for x in inputs:
        i = sigmoid(product(x, h, "i") + to_i * c)
        f = sigmoid(product(x, h, "f") + to_f * c)
        a = np.tanh(product(x, h, "a"))
        c = f * c + i * a
        o = sigmoid(product(x, h, "o") + to_o * c)
        h = o * np.tanh(c)
        steps.append({"i": i, "f": f, "a": a, "o": o, "c": c, "h": h})
    return steps, h, c


def layer_weights(layer: nn.Module, group: int = 0) -> dict[str, Array]:
    """A PeepholeLayer's weights of one group, as `paper_layer` wants them."""
    return {name: parameter[group].detach().double().numpy() for name, parameter in layer.named_parameters()}


def randomize(module: nn.Module, seed: int, scale: float = 0.4) -> None:
    """Every parameter, biases and peepholes too, drawn from a normal distribution."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * scale)


def check_gradients(loss: Callable[[], Tensor], tensors: dict[str, Any], *, step: float = 1e-5, most: int = 12) -> None:
    """Compares the gradients of `loss` for float64 leaves with central differences, at up to `most` places each."""
    for tensor in tensors.values():
        tensor.grad = None
    loss().backward()  # type: ignore[no-untyped-call]
    rng = np.random.default_rng(0)
    for name, tensor in tensors.items():
        flat = tensor.detach().view(-1)
        places = rng.permutation(flat.numel())[:most]
        for place in places:
            kept = float(flat[place])
            flat[place] = kept + step
            above = loss().item()
            flat[place] = kept - step
            below = loss().item()
            flat[place] = kept
            expected, got = (above - below) / (2 * step), float(tensor.grad.view(-1)[place])
            np.testing.assert_allclose(got, expected, rtol=2e-6, atol=2e-8, err_msg=f"{name}[{place}]")
