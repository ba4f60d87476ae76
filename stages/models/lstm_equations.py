"""The steps of one peephole LSTM layer, forward and backward: the equations.

    i = sigmoid(W_xi x + W_hi h' + w_ci * c' + b_i)
    f = sigmoid(W_xf x + W_hf h' + w_cf * c' + b_f)
    a =    tanh(W_xa x + W_ha h'             + b_a)
    c = f * c' + i * a
    o = sigmoid(W_xo x + W_ho h' + w_co * c  + b_o)
    h = o * tanh(c)

`EquationSteps` computes them as they stand, on any device and in any dtype; `cuda.fused_steps.FusedSteps` does the same
in one kernel a step. `stack.py` orders the steps of layers, and makes the weights' gradients. Every tensor leads with
a group axis, so that G independent small models of one shape train as one job; a single model has G = 1.

Shapes: G groups, B batch, D input size, H units, K = 4H gates (i, f, a, o), R rows, P = 3H.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from stages.models.matmul import project_into, repeated_product

sigmoid_backward, tanh_backward = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward


class LayerWeights(NamedTuple):
    """One layer's weights: those of products in the dtype of products, bias and peepholes in the parameters'."""

    input_weight_GKD: Tensor | None
    recurrent_weight_GKH: Tensor
    bias_GK: Tensor
    peephole_G3H: Tensor


def _gates(k_GBK: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    i_GBH, f_GBH, a_GBH, o_GBH = k_GBK.chunk(4, dim=-1)
    return i_GBH, f_GBH, a_GBH, o_GBH


def _peepholes(peephole_G3H: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the three diagonals (to i, f and o), each (G, 1, H)."""
    ci_G1H, cf_G1H, co_G1H = peephole_G3H.chunk(3, dim=-2)
    return ci_G1H, cf_G1H, co_G1H


def cell_forward(
    before_GBK: Tensor,
    k_GBK: Tensor,
    c_before_GBH: Tensor | None,
    peephole_G3H: Tensor,
    c_GBH: Tensor,
    h_GBH: Tensor,
) -> None:
    """Computes one step's elementwise part: turns pre-activations `before` into gates `k`, and writes `c` and `h`.

    `before` may be `k` itself.
    """
    i_GBH, f_GBH, a_GBH, o_GBH = _gates(k_GBK)
    before_i_GBH, before_f_GBH, before_a_GBH, before_o_GBH = _gates(before_GBK)
    ci_G1H, cf_G1H, co_G1H = _peepholes(peephole_G3H)
    num_both = 2 * i_GBH.shape[-1]
    torch.tanh(before_a_GBH, out=a_GBH)
    if c_before_GBH is None:
        torch.sigmoid(before_GBK[..., :num_both], out=k_GBK[..., :num_both])
        torch.mul(i_GBH, a_GBH, out=c_GBH)
    else:
        torch.addcmul(before_i_GBH, c_before_GBH, ci_G1H, out=i_GBH)
        torch.addcmul(before_f_GBH, c_before_GBH, cf_G1H, out=f_GBH)
        k_GBK[..., :num_both].sigmoid_()
        torch.mul(f_GBH, c_before_GBH, out=c_GBH).addcmul_(i_GBH, a_GBH)
    torch.addcmul(before_o_GBH, c_GBH, co_G1H, out=o_GBH).sigmoid_()
    torch.tanh(c_GBH, out=h_GBH).mul_(o_GBH)


def cell_backward(
    dh_GBH: Tensor,
    dc_GBH: Tensor,
    k_GBK: Tensor,
    c_before_GBH: Tensor | None,
    c_GBH: Tensor,
    peephole_G3H: Tensor,
    dk_GBK: Tensor,
    d_peephole_GBP: Tensor,
) -> None:
    """Computes one step's elementwise part backward: writes the gradient of the pre-activations to `dk`.

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


class EquationSteps:
    """The steps of one layer over one batch, with fixed weights, as the equations stand.

    Where c' is None the state before is zero.
    num_steps: the steps that are about to be taken, for which the weights are laid out.
    """

    def __init__(self, weights: LayerWeights, *, batch: int, num_steps: int, backward: bool) -> None:
        self.weights = weights
        recurrent_weight_GKH = weights.recurrent_weight_GKH
        self._product = repeated_product(
            recurrent_weight_GKH if backward else recurrent_weight_GKH.mT, batch=batch, num_steps=num_steps
        )
        self._d_peephole_GBP = None
        if backward:
            num_groups, _, num_units = recurrent_weight_GKH.shape
            self._d_peephole_GBP = weights.peephole_G3H.new_zeros(num_groups, batch, 3 * num_units)

    def project(self, k_GRK: Tensor, x_GRD: Tensor) -> None:
        """Writes the inputs' share of the pre-activations of many steps, as `forward` with `has_input` takes it."""
        assert self.weights.input_weight_GKD is not None, "this layer has no input weights"
        project_into(k_GRK, x_GRD, self.weights.input_weight_GKD, self.weights.bias_GK)

    def forward(
        self,
        k_GBK: Tensor,
        has_input: bool,
        h_before_GBH: Tensor | None,
        c_before_GBH: Tensor | None,
        c_GBH: Tensor,
        h_GBH: Tensor,
    ) -> None:
        """Takes one step: writes the gates to `k` (over the inputs' share, where there is one), and c and h."""
        before_GBK = k_GBK if has_input else self.weights.bias_GK[:, None].to(k_GBK.dtype)
        if h_before_GBH is not None:
            before_GBK = self._product.plus(before_GBK, h_before_GBH, k_GBK)
        before_GBK = before_GBK.expand_as(k_GBK)
        cell_forward(before_GBK, k_GBK, c_before_GBH, self.weights.peephole_G3H, c_GBH, h_GBH)

    def backward(
        self,
        dk_after_GBK: Tensor | None,
        dh_GBH: Tensor | None,
        k_GBK: Tensor,
        c_before_GBH: Tensor | None,
        c_GBH: Tensor,
        dc_GBH: Tensor,
        dk_GBK: Tensor,
    ) -> None:
        """Takes one step backward: writes the gradient of the pre-activations to `dk`.

        The gradient of h is `dk_after` (of the step after) times the recurrent weights, plus `dh`, or what there is of
        them. `dc` holds the gradient that reaches c from the step after; it becomes the one that reaches c'.
        """
        assert self._d_peephole_GBP is not None
        if dk_after_GBK is not None:
            through_GBH = self._product.times(dk_after_GBK)
            dh_GBH = through_GBH if dh_GBH is None else through_GBH.add_(dh_GBH)
        elif dh_GBH is None:
            dh_GBH = torch.zeros_like(c_GBH, dtype=k_GBK.dtype)
        peephole_G3H, d_peephole_GBP = self.weights.peephole_G3H, self._d_peephole_GBP
        cell_backward(dh_GBH, dc_GBH, k_GBK, c_before_GBH, c_GBH, peephole_G3H, dk_GBK, d_peephole_GBP)

    def through_weights(self, dk_GBK: Tensor) -> Tensor:
        """Returns the gradient (G, B, H) of the h before a step."""
        return self._product.times(dk_GBK)

    def vector_gradients(self, dk_GTBK: Tensor, c_first_GBH: Tensor | None, c_GTBH: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the gradients of bias and peepholes, after the last `backward`.

        c_first: c before the first step.
        """
        assert self._d_peephole_GBP is not None
        peephole_G3H = self.weights.peephole_G3H
        d_bias_GK = dk_GTBK.sum((1, 2), dtype=peephole_G3H.dtype)
        return d_bias_GK, self._d_peephole_GBP.sum(1).view_as(peephole_G3H)
