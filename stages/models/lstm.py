"""The paper's LSTM (section 2.1): diagonal peepholes, layers in a stack, and G independent models side by side.

Shapes: G groups (independent models of one shape), T steps, S <= T steps that have an input, B batch, D input size,
H units, K = 4H gates in the order i, f, a, o (torch.nn.LSTM's, so that weights can be compared and carried over).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stages.models.lstm_equations import LayerWeights
from stages.models.stack import Run, run_forward, run_stacks


class LayerState(NamedTuple):
    """The state that one layer carries from step to step, (G, B, H) each."""

    h: Tensor
    c: Tensor


State = tuple[LayerState, ...]
"""The state of every layer, lowest first."""


class Trace(NamedTuple):
    """Gates and states of one layer at every step, each (G, T, B, H): i, f, o in (0, 1), a and h in (-1, 1)."""

    i: Tensor
    f: Tensor
    a: Tensor
    o: Tensor
    c: Tensor
    h: Tensor


def uniform_fan_in_(weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Fills with U(-1/sqrt(fan_in), +1/sqrt(fan_in)); fan_in is the last dimension. Returns the tensor."""
    bound = 1.0 / math.sqrt(weight.shape[-1])
    return nn.init.uniform_(weight, -bound, bound, generator=generator)


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """Returns the dtype of matrix products: autocast's where it is on for the tensor's device, else the tensor's."""
    device = tensor.device.type
    if torch.is_autocast_enabled(device) and tensor.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return tensor.dtype


class PeepholeLayer(nn.Module):
    """One layer; weights of G groups.

    Parameters: `input_weight` (G, 4H, D), absent when `num_inputs` is 0; `recurrent_weight` (G, 4H, H); `bias` (G, 4H);
    `peephole` (G, 3, H): the diagonals from c to i, f (old c) and o (new c).
    """

    def __init__(self, num_inputs: int, num_units: int, *, num_groups: int = 1) -> None:
        super().__init__()
        self.num_inputs, self.num_units, self.num_groups = num_inputs, num_units, num_groups
        self.input_weight: nn.Parameter | None = None
        if num_inputs:
            self.input_weight = nn.Parameter(torch.empty(num_groups, 4 * num_units, num_inputs))
        self.recurrent_weight = nn.Parameter(torch.empty(num_groups, 4 * num_units, num_units))
        self.bias = nn.Parameter(torch.zeros(num_groups, 4 * num_units))
        self.peephole = nn.Parameter(torch.zeros(num_groups, 3, num_units))

    def reset_parameters(self, forget_bias: float = 0.0, generator: torch.Generator | None = None) -> None:
        """Draws the paper's uniform weights; biases and peepholes are zero, except the forget gate's bias."""
        if self.input_weight is not None:
            uniform_fan_in_(self.input_weight, generator)
        uniform_fan_in_(self.recurrent_weight, generator)
        nn.init.zeros_(self.peephole)
        nn.init.zeros_(self.bias)
        with torch.no_grad():
            self.bias[:, self.num_units : 2 * self.num_units] = forget_bias

    @property
    def weights(self) -> LayerWeights:
        """The layer's parameters as one tuple."""
        return LayerWeights(self.input_weight, self.recurrent_weight, self.bias, self.peephole)


class LSTM(nn.Module):
    """A stack of peephole layers: layer m reads layer m-1's h of the same step.

    num_inputs: D; 0 for an LSTM that is never given an input (an unconditional decoder).
    dropout: probability of dropping a unit on its way from one layer up to the next; never on recurrent connections.
    num_groups: G independent models, each with its own weights, states and gradients.
    """

    def __init__(
        self,
        num_inputs: int,
        num_units: int,
        num_layers: int = 1,
        *,
        num_groups: int = 1,
        dropout: float = 0.0,
        forget_bias: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_inputs, self.num_units = num_inputs, num_units
        self.num_layers, self.num_groups = num_layers, num_groups
        self.forget_bias = forget_bias
        self.layers = nn.ModuleList(
            PeepholeLayer(num_units if m else num_inputs, num_units, num_groups=num_groups) for m in range(num_layers)
        )
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws all weights anew (`PeepholeLayer.reset_parameters`)."""
        for layer in self.layers:
            assert isinstance(layer, PeepholeLayer)
            layer.reset_parameters(self.forget_bias, generator)

    def _num_steps(self, x_GSBD: Tensor | None, num_steps: int | None) -> int:
        given = 0 if x_GSBD is None else x_GSBD.shape[1]
        num_steps = given if num_steps is None else num_steps
        if num_steps < max(given, 1):
            raise ValueError(f"num_steps is {num_steps}, the inputs cover {given} steps: give at least as many, and 1")
        if x_GSBD is not None and x_GSBD.shape[-1] != self.num_inputs:
            raise ValueError(f"the inputs have {x_GSBD.shape[-1]} dimensions; this LSTM reads {self.num_inputs}")
        return num_steps

    def forward(
        self, x_GSBD: Tensor | None, state: State | None = None, *, num_steps: int | None = None
    ) -> tuple[Tensor, State]:
        """Runs `num_steps` steps (default: as many as there are inputs).

        x_GSBD: inputs of the LAST S steps; the T-S steps before are given nothing, which costs nothing. (1, S, B, D) is
          shared by every group. None: no step has an input.
        state: where to start; None is zero, and needs inputs.
        Returns h of the top layer at every step, (G, T, B, H), and the final state of every layer.
        Under autocast the matrix products, gates and h are in its dtype; c stays in the parameters' dtype.
        """
        if not (self.training and self.dropout.p):
            return run_together([self.plan(x_GSBD, state, num_steps)], self.dtype)[0]
        num_steps = self._num_steps(x_GSBD, num_steps)
        final: list[LayerState] = []
        for m in range(self.num_layers):
            if m:
                x_GSBD = self.dropout(x_GSBD)
            (x_GSBD, last), *_ = run_together([self.plan(x_GSBD, state, num_steps, range(m, m + 1))], self.dtype)
            final += last
        assert x_GSBD is not None
        return x_GSBD, tuple(final)

    @torch.no_grad()
    def trace(
        self, x_GSBD: Tensor | None, state: State | None = None, *, num_steps: int | None = None
    ) -> tuple[tuple[Trace, ...], State]:
        """Runs `forward` in evaluation mode, and returns each layer's gates and states; `[-1].h` is its output."""
        run, dtype = self.plan(x_GSBD, state, num_steps), self.dtype  # without autocast it is another
        with torch.autocast(run.weights[0].bias_GK.device.type, enabled=False):
            (layers,) = run_forward([run], dtype)
        traces = []
        for layer in layers:
            i_GTBH, f_GTBH, a_GTBH, o_GTBH = layer.k_GTBK.chunk(4, dim=-1)
            traces.append(Trace(i_GTBH, f_GTBH, a_GTBH, o_GTBH, layer.c_GTBH, layer.h))
        return tuple(traces), tuple(LayerState(trace.h[:, -1], trace.c[:, -1]) for trace in traces)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of products, gates and h, under the autocast that is on."""
        return compute_dtype(self._weights(0).recurrent_weight_GKH)

    def _weights(self, m: int) -> LayerWeights:
        layer = self.layers[m]
        assert isinstance(layer, PeepholeLayer)
        return layer.weights

    def plan(
        self, x_GSBD: Tensor | None, state: State | None, num_steps: int | None, layers: range | None = None
    ) -> Run:
        """Returns the run that `forward` makes with these arguments, in some of the layers (default: all)."""
        layers = range(self.num_layers) if layers is None else layers
        if layers.start == 0:
            num_steps = self._num_steps(x_GSBD, num_steps)
        assert num_steps is not None
        dtype = self.dtype
        if x_GSBD is not None:
            x_GSBD = x_GSBD.to(dtype).expand(self.num_groups, -1, -1, -1)
        weights = tuple(self._weights(m) for m in layers)
        start = None
        if state:
            start = tuple((state[m].h.to(dtype), state[m].c.to(weights[0].peephole_G3H.dtype)) for m in layers)
        return Run(x_GSBD, weights, start, num_steps)


def run_together(runs: Sequence[Run], dtype: torch.dtype) -> list[tuple[Tensor, State]]:
    """Returns what `LSTM.forward` does, of several LSTMs' plans, side by side where the device has room.

    None may need another's result, and none drops units. They share a dtype, that of products, and a device.
    """
    with torch.autocast(runs[0].weights[0].bias_GK.device.type, enabled=False):
        results = run_stacks(runs, dtype)
    return [(h_GTBH, tuple(LayerState(h, c) for h, c in last)) for h_GTBH, last in results]
