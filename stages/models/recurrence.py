"""The recurrence of one peephole LSTM layer over a whole sequence, with a backward pass of its own.

    i = sigmoid(W_xi x + W_hi h' + w_ci * c' + b_i)
    f = sigmoid(W_xf x + W_hf h' + w_cf * c' + b_f)
    a =    tanh(W_xa x + W_ha h'             + b_a)
    c = f * c' + i * a
    o = sigmoid(W_xo x + W_ho h' + w_co * c  + b_o)
    h = o * tanh(c)

Why not autograd over single steps: here the input products of all steps are one matrix product, and so is each weight
gradient, because the gate gradients of all steps lie in one buffer. Kept for backward, for each step: four gates, c
and h, 6H numbers; tanh(c) is computed again. Every tensor leads with a group axis, so that G independent small models
of one shape train as one job; a single model has G = 1.

Shapes: G groups, T steps, S <= T steps that have an input, B batch, D input size, H units, K = 4H gates (i, f, a, o).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from stages.models.matmul import project_into, repeated_product

Advance = Callable[[Tensor, Tensor | None, Tensor, Tensor, Tensor], None]
Retreat = Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor, Tensor, Tensor, Tensor], None]

sigmoid_backward, tanh_backward = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward


def _gates(k_GBK: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    i_GBH, f_GBH, a_GBH, o_GBH = k_GBK.chunk(4, dim=-1)
    return i_GBH, f_GBH, a_GBH, o_GBH


def _peepholes(peephole_G3H: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three diagonals (to i, f and o), each (G, 1, H)."""
    ci_G1H, cf_G1H, co_G1H = peephole_G3H.chunk(3, dim=-2)
    return ci_G1H, cf_G1H, co_G1H


def _advance(k_GBK: Tensor, c_before_GBH: Tensor | None, peephole_G3H: Tensor, c_GBH: Tensor, h_GBH: Tensor) -> None:
    """One step's elementwise part: turns pre-activations `k` into gates in place, and writes `c` and `h`."""
    i_GBH, f_GBH, a_GBH, o_GBH = _gates(k_GBK)
    ci_G1H, cf_G1H, co_G1H = _peepholes(peephole_G3H)
    a_GBH.tanh_()
    if c_before_GBH is None:
        k_GBK[..., : 2 * i_GBH.shape[-1]].sigmoid_()
        torch.mul(i_GBH, a_GBH, out=c_GBH)
    else:
        i_GBH.addcmul_(c_before_GBH, ci_G1H)
        f_GBH.addcmul_(c_before_GBH, cf_G1H)
        k_GBK[..., : 2 * i_GBH.shape[-1]].sigmoid_()
        torch.mul(f_GBH, c_before_GBH, out=c_GBH).addcmul_(i_GBH, a_GBH)
    o_GBH.addcmul_(c_GBH, co_G1H).sigmoid_()
    torch.tanh(c_GBH, out=h_GBH).mul_(o_GBH)


def _retreat(
    dh_GBH: Tensor,
    dc_GBH: Tensor,
    k_GBK: Tensor,
    c_before_GBH: Tensor | None,
    c_GBH: Tensor,
    peephole_G3H: Tensor,
    dk_GBK: Tensor,
    d_peephole_GBP: Tensor,
) -> None:
    """One step's elementwise part, backward: writes the gradient of the pre-activations to `dk`.

    `dc` holds the gradient that reaches c from the next step and is turned, in place, into the one that reaches c'.
    `d_peephole` (P = 3H) gathers the peepholes' gradients of each sequence, while c and `dk` are in the cache.
    """
    i_GBH, f_GBH, a_GBH, o_GBH = _gates(k_GBK)
    di_GBH, df_GBH, da_GBH, do_GBH = _gates(dk_GBK)
    ci_G1H, cf_G1H, co_G1H = _peepholes(peephole_G3H)
    d_ci_GBH, d_cf_GBH, d_co_GBH = d_peephole_GBP.chunk(3, dim=-1)
    tanh_c_GBH = torch.tanh(c_GBH)
    sigmoid_backward.grad_input(dh_GBH * tanh_c_GBH, o_GBH, grad_input=do_GBH)
    dc_GBH.add_(tanh_backward(dh_GBH * o_GBH, tanh_c_GBH)).addcmul_(do_GBH, co_G1H)
    d_co_GBH.addcmul_(do_GBH, c_GBH)
    sigmoid_backward.grad_input(dc_GBH * a_GBH, i_GBH, grad_input=di_GBH)
    tanh_backward.grad_input(dc_GBH * i_GBH, a_GBH, grad_input=da_GBH)
    if c_before_GBH is None:
        df_GBH.zero_()
    else:
        sigmoid_backward.grad_input(dc_GBH * c_before_GBH, f_GBH, grad_input=df_GBH)
        d_ci_GBH.addcmul_(di_GBH, c_before_GBH)
        d_cf_GBH.addcmul_(df_GBH, c_before_GBH)
    dc_GBH.mul_(f_GBH).addcmul_(di_GBH, ci_G1H).addcmul_(df_GBH, cf_G1H)


_fused: dict[str, Any] = {}


def _step_functions(device: torch.device) -> tuple[Advance, Retreat]:
    """Eager on CPU, where a step's matrix product dominates; one Triton kernel each on CUDA, where launches would."""
    if device.type != "cuda":
        return _advance, _retreat
    if not _fused:
        _fused["advance"] = torch.compile(_advance)
        _fused["retreat"] = torch.compile(_retreat)
    return _fused["advance"], _fused["retreat"]


def run_forward(
    x_GSBD: Tensor | None,
    input_weight_GKD: Tensor | None,
    recurrent_weight_GKH: Tensor,
    bias_GK: Tensor,
    peephole_G3H: Tensor,
    h_before_GBH: Tensor | None,
    c_before_GBH: Tensor | None,
    num_steps: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gates (G, T, B, 4H; after their nonlinearities), c (G, T, B, H) and h (G, T, B, H) of every step, no gradient.

    `x` belongs to the LAST S of the `num_steps` steps; the steps before have no input and no input product.
    Without a state before the first step, that state is zero, and its recurrent product is left out.
    Matrix products, gates and h have the dtype of `recurrent_weight`; c has that of `peephole`.
    """
    source = x_GSBD if x_GSBD is not None else h_before_GBH
    assert source is not None, "a layer without inputs needs a state to start from"
    num_groups, batch, num_gates = bias_GK.shape[0], source.shape[-2], bias_GK.shape[1]
    shape = (num_groups, num_steps, batch)
    k_GTBK = recurrent_weight_GKH.new_empty(*shape, num_gates)
    h_GTBH = recurrent_weight_GKH.new_empty(*shape, num_gates // 4)
    c_GTBH = peephole_G3H.new_empty(*shape, num_gates // 4)

    num_with_input = 0 if x_GSBD is None else x_GSBD.shape[1]
    num_blind = num_steps - num_with_input
    k_GTBK[:, :num_blind] = bias_GK[:, None, None]
    if x_GSBD is not None and num_with_input:
        assert input_weight_GKD is not None, "this layer has no input weights"
        rows = num_with_input * batch
        pre_GRK = k_GTBK[:, num_blind:].view(num_groups, rows, num_gates)
        project_into(pre_GRK, x_GSBD.reshape(num_groups, rows, -1), input_weight_GKD, bias_GK)

    advance, _ = _step_functions(source.device)
    product = repeated_product(recurrent_weight_GKH.mT, batch=batch, num_steps=num_steps)
    for t in range(num_steps):
        if h_before_GBH is not None:
            product.add_to(k_GTBK[:, t], h_before_GBH)
        advance(k_GTBK[:, t], c_before_GBH, peephole_G3H, c_GTBH[:, t], h_GTBH[:, t])
        h_before_GBH, c_before_GBH = h_GTBH[:, t], c_GTBH[:, t]
    return k_GTBK, c_GTBH, h_GTBH


def _over_time(left_GTBM: Tensor, right_GTBN: Tensor) -> Tensor:
    """Sum over steps and batch of left^T right, as one matrix product a group: (G, M, N)."""
    return torch.bmm(left_GTBM.flatten(1, 2).mT, right_GTBN.flatten(1, 2))


class Recurrence(torch.autograd.Function):
    """`run_forward` with gradients: (h of all steps, last h, last c). Arguments as in `run_forward`."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        x_GSBD, input_weight_GKD, recurrent_weight_GKH, _, peephole_G3H, h_first_GBH, c_first_GBH, _ = arguments
        k_GTBK, c_GTBH, h_GTBH = run_forward(*arguments)
        inputs = x_GSBD, input_weight_GKD, recurrent_weight_GKH, peephole_G3H, h_first_GBH, c_first_GBH
        ctx.save_for_backward(*inputs, k_GTBK, c_GTBH, h_GTBH)
        ctx.set_materialize_grads(False)
        return h_GTBH, h_GTBH[:, -1], c_GTBH[:, -1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        with torch.autocast(ctx.saved_tensors[2].device.type, enabled=False):
            return _backward(ctx.saved_tensors, ctx.needs_input_grad, *grads)


def _through_time(
    saved: tuple[Any, ...], dh_GTBH: Tensor | None, dh_last_GBH: Tensor | None, dc_last_GBH: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Walks the steps backward: gradients of all pre-activations (one buffer), the peepholes, the first h and c."""
    _, _, recurrent_weight_GKH, peephole_G3H, h_first_GBH, c_first_GBH, k_GTBK, c_GTBH, h_GTBH = saved
    num_steps, batch = k_GTBK.shape[1:3]
    product = repeated_product(recurrent_weight_GKH, batch=batch, num_steps=num_steps)
    _, retreat = _step_functions(k_GTBK.device)
    dk_GTBK = torch.empty_like(k_GTBK)
    dc_GBH = torch.zeros_like(c_GTBH[:, 0]) if dc_last_GBH is None else dc_last_GBH.to(c_GTBH.dtype, copy=True)
    dh_GBH = torch.zeros_like(h_GTBH[:, 0]) if dh_last_GBH is None else dh_last_GBH.to(h_GTBH.dtype, copy=True)
    d_peephole_GBP = c_GTBH.new_zeros(*c_GTBH[:, 0].shape[:-1], 3 * c_GTBH.shape[-1])
    for t in reversed(range(num_steps)):
        if dh_GTBH is not None:
            dh_GBH.add_(dh_GTBH[:, t])
        c_before_GBH = c_GTBH[:, t - 1] if t else c_first_GBH
        k_GBK, dk_GBK, c_GBH = k_GTBK[:, t], dk_GTBK[:, t], c_GTBH[:, t]
        retreat(dh_GBH, dc_GBH, k_GBK, c_before_GBH, c_GBH, peephole_G3H, dk_GBK, d_peephole_GBP)
        if t or h_first_GBH is not None:
            product.into(dh_GBH, dk_GBK)
    return dk_GTBK, d_peephole_GBP.sum(1).view_as(peephole_G3H), dh_GBH, dc_GBH


def _backward(
    saved: tuple[Any, ...],
    needed: tuple[bool, ...],
    dh_GTBH: Tensor | None,
    dh_last_GBH: Tensor | None,
    dc_last_GBH: Tensor | None,
) -> tuple[Tensor | None, ...]:
    x_GSBD, input_weight_GKD, _, peephole_G3H, h_first_GBH, _, _, _, h_GTBH = saved
    dk_GTBK, d_peephole, dh_GBH, dc_GBH = _through_time(saved, dh_GTBH, dh_last_GBH, dc_last_GBH)

    dx_GSBD = d_input_weight = None
    if x_GSBD is not None and x_GSBD.shape[1]:
        dk_GSBK = dk_GTBK[:, -x_GSBD.shape[1] :]
        if needed[0]:
            dx_GSBD = torch.bmm(dk_GSBK.flatten(1, 2), input_weight_GKD).view_as(x_GSBD)
        if needed[1]:
            d_input_weight = _over_time(dk_GSBK, x_GSBD)
    elif needed[1]:
        d_input_weight = torch.zeros_like(input_weight_GKD)

    d_recurrent_weight = None
    if needed[2]:
        d_recurrent_weight = _over_time(dk_GTBK[:, 1:], h_GTBH[:, :-1])
        if h_first_GBH is not None:
            d_recurrent_weight.baddbmm_(dk_GTBK[:, 0].mT, h_first_GBH)

    d_bias = dk_GTBK.sum((1, 2), dtype=peephole_G3H.dtype) if needed[3] else None
    return (
        dx_GSBD,
        d_input_weight,
        d_recurrent_weight,
        d_bias,
        d_peephole if needed[4] else None,
        dh_GBH if needed[5] else None,
        dc_GBH if needed[6] else None,
        None,
    )
