"""Matrix products of a layer: a small one that every step repeats with the same weights, and large ones over time.

On CPU in float32 they are oneDNN's, not MKL's, which PyTorch takes by itself. On a Zen 4 EPYC that makes inputs and
output layers 6 to 14% faster and weight gradients, which need a transposed copy, neither; on a newer EPYC, MKL's weight
gradients took a third of a step. On Intel's processors, which MKL is written for, its large products need no copy and
are 1.2 to 1.5 times as fast for weight gradients, so there they are MKL's. No machine tries both: they round
differently, and under load the slower one wins a trial at times, so that a seed's results would hang on the noise of a
timing. Elsewhere products are PyTorch's own.
Shapes: G groups, B batch, N outputs, K inputs, R rows.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

MIN_STEPS_TO_PACK = 4
"""Laying out costs about as much as two products at batch 64."""
MIN_SIDE = 512
"""Weights with a shorter side are left to PyTorch, but for inputs and steps: the transposed copy would be a larger part
of the work, and the results of small models stay those of earlier versions."""


class _Batched:
    """A product of a (G, B, K) and fixed weights, (G, B, N)."""

    def __init__(self, weight_GKN: Tensor) -> None:
        self.weight_GKN = weight_GKN

    def times(self, a_GBK: Tensor) -> Tensor:
        return torch.bmm(a_GBK, self.weight_GKN)

    def plus(self, addend_GBN: Tensor, a_GBK: Tensor, out_GBN: Tensor) -> Tensor:
        """Returns the product plus an addend, (G, B, N) or (G, 1, N), perhaps in `out`, which may be the addend."""
        return torch.baddbmm(addend_GBN, a_GBK, self.weight_GKN, out=out_GBN)


class _OneDnn:
    """The same product by oneDNN, of one group; weights whose rows are outputs are laid out for a batch of one size."""

    def __init__(self, weight_GKN: Tensor, batch: int) -> None:
        self.weight_NK = weight_GKN[0].T
        if self.weight_NK.is_contiguous():  # others, backward's, are in an order that oneDNN reads as fast
            self.weight_NK = torch.ops.mkldnn._reorder_linear_weight(self.weight_NK, batch)

    def times(self, a_GBK: Tensor) -> Tensor:
        return _linear(a_GBK[0], self.weight_NK)[None]

    def plus(self, addend_GBN: Tensor, a_GBK: Tensor, out_GBN: Tensor) -> Tensor:
        if addend_GBN.shape[1] == 1:
            return _linear(a_GBK[0], self.weight_NK, addend_GBN[0, 0])[None]
        a_BK, addend_BN = a_GBK[0].contiguous(), addend_GBN[0]
        product_BN: Tensor = torch.ops.mkldnn._linear_pointwise.binary(a_BK, addend_BN, self.weight_NK, None, "add")
        return product_BN[None]


def _linear(x_RK: Tensor, weight_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """Returns x times the transposed weights, plus bias, by oneDNN; the weights may be a transposed view."""
    out_RN: Tensor = torch.ops.mkldnn._linear_pointwise(x_RK.contiguous(), weight_NK, bias_N, "none", [], "")
    return out_RN


def _is_onednn(operand_G: Tensor, *sides: int) -> bool:
    """Returns whether a product with this operand is oneDNN's, which has none of no rows.

    sides: those of the weights, where short ones are left to PyTorch.
    """
    plain = operand_G.device.type == "cpu" and operand_G.dtype == torch.float32 and len(operand_G) == 1
    if not plain or operand_G.numel() == 0 or (sides and (min(sides) < MIN_SIDE or _is_made_for_mkl())):
        return False
    # torch's question has no types.
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


@cache
def _is_made_for_mkl() -> bool:
    """Returns whether this is an Intel processor, which only Linux has a file about, and PyTorch has MKL."""
    cpuinfo = Path("/proc/cpuinfo")
    has_mkl = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]  # as above
    return has_mkl and cpuinfo.exists() and "GenuineIntel" in cpuinfo.read_text()


def project_into(out_GRN: Tensor, x_GRK: Tensor, weight_GNK: Tensor, bias_GN: Tensor) -> None:
    """Writes x times the transposed weights, plus bias, to `out`."""
    if _is_onednn(weight_GNK):
        out_GRN[0] = _linear(x_GRK[0], weight_GNK[0].contiguous(), bias_GN[0])
        return
    torch.baddbmm(bias_GN.to(out_GRN.dtype).unsqueeze(1), x_GRK, weight_GNK.mT, out=out_GRN)


def repeated_product(weight_GKN: Tensor, *, batch: int, num_steps: int) -> _Batched | _OneDnn:
    """Returns the fastest product with `weight_GKN` for `num_steps` repetitions."""
    is_packed = weight_GKN.mT.is_contiguous()  # forward's; packed weights beat MKL on every processor
    is_small = min(weight_GKN.shape[1:]) < MIN_SIDE
    sides = () if is_packed or is_small else weight_GKN.shape[1:]
    if num_steps >= MIN_STEPS_TO_PACK and _is_onednn(weight_GKN, *sides):
        return _OneDnn(weight_GKN, batch)
    return _Batched(weight_GKN)


def times_weights(out_GRN: Tensor, a_GRK: Tensor, weight_GKN: Tensor) -> None:
    """Writes a times the weights to `out`."""
    if _is_onednn(a_GRK, *weight_GKN.shape[1:]):
        out_GRN[0] = _linear(a_GRK[0], weight_GKN[0].T)
    elif len(out_GRN) == 1:
        torch.mm(a_GRK[0], weight_GKN[0], out=out_GRN[0])
    else:
        torch.bmm(a_GRK, weight_GKN, out=out_GRN)


def weight_gradient(d_GRN: Tensor, x_GRK: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns the sum over rows of d^T x, (G, N, K), in `dtype`; a GPU sums in float32 and never rounds to less."""
    if _is_onednn(d_GRN, d_GRN.shape[2], x_GRK.shape[2]) and dtype == torch.float32:
        return _linear(d_GRN[0].T, x_GRK[0].contiguous().T)[None]
    if d_GRN.dtype == dtype:
        return torch.bmm(d_GRN.mT, x_GRK)
    if d_GRN.device.type != "cuda":
        return torch.bmm(d_GRN.mT, x_GRK).to(dtype)
    if len(d_GRN) == 1:
        return torch.mm(d_GRN[0].mT, x_GRK[0], out_dtype=dtype)[None]
    return torch.bmm(d_GRN.mT, x_GRK, out_dtype=dtype)


class _Linear(torch.autograd.Function):
    """A linear layer by oneDNN, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x_RK: Tensor, weight_NK: Tensor, bias_N: Tensor) -> Tensor:
        ctx.save_for_backward(x_RK, weight_NK)
        return _linear(x_RK, weight_NK, bias_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_RN: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x_RK, weight_NK = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            _linear(d_RN, weight_NK.T) if needs_x else None,
            weight_gradient(d_RN[None], x_RK[None], d_RN.dtype)[0] if needs_weight else None,
            d_RN.sum(0) if needs_bias else None,
        )


def linear(x_TBK: Tensor, weight_NK: Tensor, bias_N: Tensor) -> Tensor:
    """Returns what `torch.nn.functional.linear` does, (T, B, N)."""
    by_onednn = _is_onednn(x_TBK.flatten(0, 1)[None], *weight_NK.shape) and weight_NK.dtype == x_TBK.dtype
    if torch.is_autocast_enabled(x_TBK.device.type) or not by_onednn:
        return torch.nn.functional.linear(x_TBK, weight_NK, bias_N)
    # torch's apply has no types.
    out_RN: Tensor = _Linear.apply(x_TBK.flatten(0, 1), weight_NK, bias_N)  # type: ignore[no-untyped-call]
    return out_RN.view(*x_TBK.shape[:2], len(weight_NK))
