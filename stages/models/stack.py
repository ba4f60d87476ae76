"""Stacks of peephole LSTM layers over whole sequences, forward and backward: the order of their steps.

Why not autograd over single steps: here the input products of many steps are one matrix product, and so is each weight
gradient, because the gate gradients of all steps lie in one buffer. Kept for backward, for each step: four gates, c
and h, 6H numbers; tanh(c) is computed again.

Layer m at step t needs layer m - 1 at step t and itself at t - 1. So layers, and stacks that run together, advance side
by side, each on a queue of its own and a few steps behind the layer below (a wavefront): one step's product is too
small to fill a large GPU. With one queue, on a CPU, layers run one after the other.

Shapes: G groups, T steps, S <= T steps that have an input, B batch, D input size, H units, K = 4H gates (i, f, a, o).
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from stages.models.cuda.fused_steps import Steps, new_steps
from stages.models.cuda.queues import Queues
from stages.models.lstm_equations import LayerWeights
from stages.models.matmul import times_weights, weight_gradient

STEPS_AT_ONCE = 4
"""On a GPU a layer follows the one below at this distance: fewer steps start sooner, more make a larger product."""


class Run(NamedTuple):
    """The inputs, weights and start of one stack of layers."""

    x_GSBD: Tensor | None
    """Inputs of the LAST S steps, in the dtype of products; the steps before have none."""
    weights: tuple[LayerWeights, ...]
    """The parameters of each layer, lowest first, in their own dtype."""
    state: tuple[tuple[Tensor, Tensor], ...] | None
    """h (dtype of products) and c (dtype of parameters) of each layer before the first step; None: zero."""
    num_steps: int


class Layer(NamedTuple):
    """The inputs, gates and states of one layer: all that its backward needs."""

    x_GSBD: Tensor | None
    weights: LayerWeights
    """The weights that were used: matrices in the dtype of products."""
    c_first_GBH: Tensor | None
    """The c before the first step; None: that state is zero."""
    k_GTBK: Tensor
    """Gates after their nonlinearities."""
    c_GTBH: Tensor
    h_GUBH: Tensor
    """U = T + 1: h before the first step (undefined where it is zero), then after each."""

    @property
    def num_steps(self) -> int:
        return self.k_GTBK.shape[1]

    @property
    def num_blind(self) -> int:
        """Steps at the start that have no input."""
        return self.num_steps - (0 if self.x_GSBD is None else self.x_GSBD.shape[1])

    @property
    def h(self) -> Tensor:
        """h after each step, (G, T, B, H)."""
        return self.h_GUBH[:, 1:]

    def c_before(self, t: int) -> Tensor | None:
        """Returns c before step t, (G, B, H); None where it is zero."""
        return self.c_GTBH[:, t - 1] if t else self.c_first_GBH

    def steps(self, *, backward: bool) -> Steps:
        """Returns what takes the steps of this layer, in one direction."""
        return new_steps(self.weights, batch=self.k_GTBK.shape[2], num_steps=self.num_steps, backward=backward)


def _new_layer(run: Run, m: int, x_GSBD: Tensor | None, dtype: torch.dtype) -> Layer:
    given = run.weights[m]
    input_weight_GKD = None if given.input_weight_GKD is None else given.input_weight_GKD.to(dtype)
    weights = LayerWeights(input_weight_GKD, given.recurrent_weight_GKH.to(dtype), given.bias_GK, given.peephole_G3H)
    h_first_GBH, c_first_GBH = run.state[m] if run.state else (None, None)
    source = x_GSBD if x_GSBD is not None else h_first_GBH
    assert source is not None, "a layer without inputs needs a state to start from"
    num_groups, num_gates, num_units = weights.recurrent_weight_GKH.shape
    batch = source.shape[-2]
    h_GUBH = source.new_empty(num_groups, run.num_steps + 1, batch, num_units, dtype=dtype)
    if h_first_GBH is not None:
        h_GUBH[:, 0] = h_first_GBH
    k_GTBK = source.new_empty(num_groups, run.num_steps, batch, num_gates, dtype=dtype)
    c_GTBH = source.new_empty(num_groups, run.num_steps, batch, num_units, dtype=given.peephole_G3H.dtype)
    return Layer(x_GSBD, weights, c_first_GBH, k_GTBK, c_GTBH, h_GUBH)


def _chunk_size(device: torch.device, runs: Sequence[Sequence[object]], num_steps: int) -> int:
    """Returns the steps that a layer takes before the next one follows; all where there is nothing to overlap."""
    side_by_side = device.type == "cuda" and max(len(layers) for layers in runs) > 1
    return STEPS_AT_ONCE if side_by_side else num_steps


def _front_by_front(shapes: Sequence[tuple[int, int]], size: int) -> Iterator[tuple[int, int, range]]:
    """Yields (run, layers passed, steps) such that each follows what it needs; what may overlap lies side by side.

    shapes: (layers, steps) of each run.
    """
    chunks = [
        [range(first, min(first + size, num_steps)) for first in range(0, num_steps, size)] for _, num_steps in shapes
    ]
    num_fronts = max(len(of_run) + num_layers for of_run, (num_layers, _) in zip(chunks, shapes, strict=True))
    for front in range(num_fronts):
        for r, (num_layers, _) in enumerate(shapes):
            for passed in range(num_layers):
                if 0 <= front - passed < len(chunks[r]):
                    yield r, passed, chunks[r][front - passed]


def run_forward(runs: Sequence[Run], dtype: torch.dtype) -> list[list[Layer]]:
    """Runs all steps and returns the layers of each run, without gradients.

    dtype: the dtype of products, gates and h.
    """
    layers: list[list[Layer]] = []
    for run in runs:
        layers.append([])
        x_GSBD = run.x_GSBD
        for m in range(len(run.weights)):
            layers[-1].append(_new_layer(run, m, x_GSBD, dtype))
            x_GSBD = layers[-1][m].h
    places = [(r, m) for r, of_run in enumerate(layers) for m in range(len(of_run))]
    steps = {(r, m): layers[r][m].steps(backward=False) for r, m in places}
    device, longest = layers[0][0].k_GTBK.device, max(run.num_steps for run in runs)
    queues = Queues(device, len(places))
    done: dict[tuple[int, int, int], torch.cuda.Event | None] = {}
    shapes = [(len(run.weights), run.num_steps) for run in runs]
    for r, m, chunk in _front_by_front(shapes, _chunk_size(device, layers, longest)):
        with queues.on(places.index((r, m))):
            if m:
                queues.wait(done[r, m - 1, chunk.start])
            _step_forward(layers[r][m], steps[r, m], chunk)
            done[r, m, chunk.start] = queues.mark()
    queues.join()
    return layers


def _step_forward(layer: Layer, steps: Steps, chunk: range) -> None:
    first = max(chunk.start, layer.num_blind)
    if layer.x_GSBD is not None and first < chunk.stop:
        k_GRK = layer.k_GTBK[:, first : chunk.stop].flatten(1, 2)
        steps.project(k_GRK, layer.x_GSBD[:, first - layer.num_blind : chunk.stop - layer.num_blind].flatten(1, 2))
    for t in chunk:
        h_before_GBH = layer.h_GUBH[:, t] if t or layer.c_first_GBH is not None else None
        outputs = layer.c_GTBH[:, t], layer.h_GUBH[:, t + 1]
        steps.forward(layer.k_GTBK[:, t], t >= layer.num_blind, h_before_GBH, layer.c_before(t), *outputs)


class _LayerBackward:
    """A layer's backward, chunk by chunk from the last step. A gradient that does not reach it is None."""

    def __init__(
        self,
        layer: Layer,
        dh_GTBH: Tensor | None,
        dh_last_GBH: Tensor | None,
        dc_last_GBH: Tensor | None,
        dx_GSBD: Tensor | None,
    ) -> None:
        self.layer, self.dh_last_GBH = layer, dh_last_GBH
        self.dh_GTBH = None if dh_GTBH is None else dh_GTBH.contiguous()
        self.dx_GSBD = dx_GSBD
        """The buffer for the gradient of the inputs; None where it is not needed."""
        self.steps = layer.steps(backward=True)
        self.dk_GTBK = torch.empty_like(layer.k_GTBK)
        shape, dtype = layer.c_GTBH[:, 0].shape, layer.c_GTBH.dtype
        self.dc_GBH = self.dk_GTBK.new_zeros(shape, dtype=dtype)
        if dc_last_GBH is not None:
            self.dc_GBH.copy_(dc_last_GBH)

    def step_backward(self, chunk: range) -> None:
        """Takes these steps, and writes the gradients of their inputs."""
        layer, last = self.layer, self.layer.num_steps - 1
        for t in reversed(chunk):
            dh_GBH = None if self.dh_GTBH is None else self.dh_GTBH[:, t]
            if t == last and self.dh_last_GBH is not None:
                dh_GBH = self.dh_last_GBH.contiguous() if dh_GBH is None else dh_GBH + self.dh_last_GBH
            dk_after_GBK = None if t == last else self.dk_GTBK[:, t + 1]
            kept = layer.k_GTBK[:, t], layer.c_before(t), layer.c_GTBH[:, t]
            self.steps.backward(dk_after_GBK, dh_GBH, *kept, self.dc_GBH, self.dk_GTBK[:, t])
        first = max(chunk.start, layer.num_blind)
        if self.dx_GSBD is not None and first < chunk.stop:
            assert layer.weights.input_weight_GKD is not None
            dx_GSBD = self.dx_GSBD[:, first - layer.num_blind : chunk.stop - layer.num_blind]
            dk_GRK = self.dk_GTBK[:, first : chunk.stop].flatten(1, 2)
            times_weights(dx_GSBD.flatten(1, 2), dk_GRK, layer.weights.input_weight_GKD)

    def gradients(self, needed: Sequence[bool]) -> list[Tensor | None]:
        """Returns gradients of input and recurrent weights, bias, peepholes, and h and c before the first step."""
        layer, dtype = self.layer, self.layer.weights.peephole_G3H.dtype
        d_input = d_recurrent = dh_first = None
        if needed[0] and layer.weights.input_weight_GKD is not None:
            if layer.x_GSBD is None or not layer.x_GSBD.shape[1]:
                d_input = torch.zeros_like(layer.weights.input_weight_GKD, dtype=dtype)
            else:
                d_input = _over_time(self.dk_GTBK[:, layer.num_blind :], layer.x_GSBD, dtype)
        if needed[1]:
            first = 0 if layer.c_first_GBH is not None else 1
            d_recurrent = _over_time(self.dk_GTBK[:, first:], layer.h_GUBH[:, first:-1], dtype)
        d_bias, d_peephole = self.steps.vector_gradients(self.dk_GTBK, layer.c_first_GBH, layer.c_GTBH)
        if needed[4]:
            dh_first = self.steps.through_weights(self.dk_GTBK[:, 0])
        return [d_input, d_recurrent, d_bias, d_peephole, dh_first, self.dc_GBH if needed[5] else None]


def _over_time(dk_GTBK: Tensor, x_GTBD: Tensor, dtype: torch.dtype) -> Tensor:
    return weight_gradient(dk_GTBK.flatten(1, 2), x_GTBD.flatten(1, 2), dtype)


PER_LAYER = 6
"""Tensors of a layer among a run's arguments: four weights, h and c before the first step."""


def _flat(run: Run) -> list[Tensor | None]:
    tensors: list[Tensor | None] = [run.x_GSBD]
    for m, weights in enumerate(run.weights):
        tensors += [*weights, *(run.state[m] if run.state else (None, None))]
    return tensors


def _runs(shapes: Sequence[tuple[int, int]], tensors: Sequence[Any]) -> list[Run]:
    """Returns the runs of which `_flat` made tensors."""
    runs, at = [], 0
    for num_layers, num_steps in shapes:
        x_GSBD, at = tensors[at], at + 1
        layers = [tensors[at + PER_LAYER * m : at + PER_LAYER * (m + 1)] for m in range(num_layers)]
        at += PER_LAYER * num_layers
        state = None if layers[0][4] is None else tuple((layer[4], layer[5]) for layer in layers)
        runs.append(Run(x_GSBD, tuple(LayerWeights(*layer[:4]) for layer in layers), state, num_steps))
    return runs


class _Stacks(torch.autograd.Function):
    """For each run h of the top layer at all steps, then the last h and c of every layer."""

    @staticmethod
    def forward(
        ctx: Any, shapes: tuple[tuple[int, int], ...], dtype: torch.dtype, *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        layers = run_forward(_runs(shapes, tensors), dtype)
        ctx.shapes = shapes
        saved = []
        outputs = []
        for of_run in layers:
            for layer in of_run:
                saved += [layer.x_GSBD, *layer.weights, *layer[2:]]
            outputs.append(of_run[-1].h)
            for layer in of_run:
                outputs += [layer.h_GUBH[:, -1], layer.c_GTBH[:, -1]]
        ctx.save_for_backward(*saved)
        ctx.set_materialize_grads(False)
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        saved, at = ctx.saved_tensors, 0
        layers: list[list[Layer]] = []
        for num_layers, _ in ctx.shapes:
            layers.append([])
            for _ in range(num_layers):
                x_GSBD, *rest = saved[at : at + 9]
                layers[-1].append(Layer(x_GSBD, LayerWeights(*rest[:4]), *rest[4:]))
                at += 9
        with torch.autocast(saved[2].device.type, enabled=False):
            return None, None, *_backward(layers, ctx.needs_input_grad[2:], grads)


def _ways_back(layers: Sequence[Layer], x_is_needed: bool, grads: Sequence[Tensor | None]) -> list[_LayerBackward]:
    """Returns the way back of each layer of one run, lowest first.

    grads: gradients of the top layer's h, then of each layer's last h and c.
    """
    ways: list[_LayerBackward] = []
    for m, layer in enumerate(layers):
        dx_GSBD = None
        if layer.x_GSBD is not None and (m or x_is_needed):
            dx_GSBD = torch.empty_like(layer.x_GSBD, memory_format=torch.contiguous_format)
        ways.append(_LayerBackward(layer, grads[0], grads[1 + 2 * m], grads[2 + 2 * m], dx_GSBD))
    for below, above in pairwise(ways):
        below.dh_GTBH = above.dx_GSBD
    return ways


def _backward(
    layers: Sequence[Sequence[Layer]], needed: Sequence[bool], grads: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Returns gradients of what `_flat` lists, run after run.

    grads: gradients of what `_Stacks` returns.
    """
    ways, at_input, at_output = [], [0], 0
    for of_run in layers:
        ways.append(_ways_back(of_run, needed[at_input[-1]], grads[at_output : at_output + 1 + 2 * len(of_run)]))
        at_output += 1 + 2 * len(of_run)
        at_input.append(at_input[-1] + 1 + PER_LAYER * len(of_run))
    gradients: list[Tensor | None] = [None] * len(needed)
    places = [(r, m) for r, of_run in enumerate(layers) for m in range(len(of_run))]
    shapes = [(len(of_run), of_run[0].num_steps) for of_run in layers]
    device, longest = layers[0][0].k_GTBK.device, max(num_steps for _, num_steps in shapes)
    queues = Queues(device, len(places))
    done: dict[tuple[int, int, int], torch.cuda.Event | None] = {}
    # From the last chunk of the top layer on: the order of `run_forward`, counted from the other end.
    size = _chunk_size(device, layers, longest)
    for r, passed, mirrored in _front_by_front(shapes, size):
        m, num_steps = shapes[r][0] - 1 - passed, shapes[r][1]
        chunk = range(num_steps - mirrored.stop, num_steps - mirrored.start)
        with queues.on(places.index((r, m))):
            if passed:
                queues.wait(done[r, m + 1, chunk.start])
            ways[r][m].step_backward(chunk)
            done[r, m, chunk.start] = queues.mark()
            if chunk.start == 0:
                at = at_input[r] + 1 + PER_LAYER * m
                gradients[at : at + PER_LAYER] = ways[r][m].gradients(needed[at : at + PER_LAYER])
    for r, ways_of_run in enumerate(ways):
        gradients[at_input[r]] = ways_of_run[0].dx_GSBD
    queues.join()
    return gradients


def run_stacks(runs: Sequence[Run], dtype: torch.dtype) -> list[tuple[Tensor, list[tuple[Tensor, Tensor]]]]:
    """Runs stacks that need nothing of each other, side by side.

    Returns for each h of its top layer at every step (G, T, B, H), and the last h and c of every layer.
    """
    shapes = tuple((len(run.weights), run.num_steps) for run in runs)
    tensors = [tensor for run in runs for tensor in _flat(run)]
    outputs = _Stacks.apply(shapes, dtype, *tensors)  # type: ignore[no-untyped-call]
    results, at = [], 0
    for num_layers, _ in shapes:
        last = [(outputs[at + 1 + 2 * m], outputs[at + 2 + 2 * m]) for m in range(num_layers)]
        results.append((outputs[at], last))
        at += 1 + 2 * num_layers
    return results
