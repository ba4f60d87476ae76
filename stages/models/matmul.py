"""Matrix products of a layer: a small one that every step repeats with the same weights, and a large one over time.

On CPU in float32 both are oneDNN's, not MKL's, which PyTorch takes by itself: 103 against 91 GFLOP/s a core for a large
product. For the repeated one the weights are laid out once in oneDNN's blocked order, which multiplies a batch of 64 at
1.3 times the rate of a plain product (that lays them out anew each time). Everywhere else they are batched products.
Shapes: G groups, B batch, N outputs, K inputs, R rows.
"""

import torch
from torch import Tensor

MIN_STEPS_TO_PACK = 4
"""Laying out costs about as much as two products at batch 64."""


class _Batched:
    """A product of a (G, B, K) and fixed weights, (G, B, N), written into or added to `out`."""

    def __init__(self, weight_GKN: Tensor) -> None:
        self.weight_GKN = weight_GKN

    def into(self, out_GBN: Tensor, a_GBK: Tensor) -> None:
        torch.bmm(a_GBK, self.weight_GKN, out=out_GBN)

    def add_to(self, out_GBN: Tensor, a_GBK: Tensor) -> None:
        out_GBN.baddbmm_(a_GBK, self.weight_GKN)


class _Packed:
    """The same product by oneDNN, with its weights laid out for a batch of one size."""

    def __init__(self, weight_GKN: Tensor, batch: int) -> None:
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight_GKN[0].T.contiguous(), batch)

    def _product(self, a_GBK: Tensor) -> Tensor:
        a_BK = a_GBK[0].contiguous()
        product_BN: Tensor = torch.ops.mkldnn._linear_pointwise(a_BK, self.packed, None, "none", [], "")
        return product_BN

    def into(self, out_GBN: Tensor, a_GBK: Tensor) -> None:
        out_GBN[0] = self._product(a_GBK)

    def add_to(self, out_GBN: Tensor, a_GBK: Tensor) -> None:
        out_GBN[0].add_(self._product(a_GBK))


def _is_onednn(weight: Tensor) -> bool:
    plain = weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.shape[0] == 1
    return plain and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def project_into(out_GRN: Tensor, x_GRK: Tensor, weight_GNK: Tensor, bias_GN: Tensor) -> None:
    """Writes x times the transposed weights, plus bias, to `out`."""
    if _is_onednn(weight_GNK):
        x_RK, weight_NK = x_GRK[0].contiguous(), weight_GNK[0].contiguous()
        out_GRN[0] = torch.ops.mkldnn._linear_pointwise(x_RK, weight_NK, bias_GN[0], "none", [], "")
        return
    torch.baddbmm(bias_GN.to(out_GRN.dtype).unsqueeze(1), x_GRK, weight_GNK.mT, out=out_GRN)


def repeated_product(weight_GKN: Tensor, *, batch: int, num_steps: int) -> _Batched | _Packed:
    """Returns the fastest product with `weight_GKN` for `num_steps` repetitions."""
    if num_steps >= MIN_STEPS_TO_PACK and _is_onednn(weight_GKN):
        return _Packed(weight_GKN, batch)
    return _Batched(weight_GKN)


def times_weights(out_GRN: Tensor, a_GRK: Tensor, weight_GKN: Tensor) -> None:
    """Writes a times the weights to `out`."""
    if len(out_GRN) == 1:
        torch.mm(a_GRK[0], weight_GKN[0], out=out_GRN[0])
        return
    torch.bmm(a_GRK, weight_GKN, out=out_GRN)


def weight_gradient(d_GRN: Tensor, x_GRK: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns the sum over rows of d^T x, (G, N, K), in `dtype`; a GPU sums in float32 and never rounds to less."""
    if d_GRN.dtype == dtype:
        return torch.bmm(d_GRN.mT, x_GRK)
    if d_GRN.device.type != "cuda":
        return torch.bmm(d_GRN.mT, x_GRK).to(dtype)
    if len(d_GRN) == 1:
        return torch.mm(d_GRN[0].mT, x_GRK[0], out_dtype=dtype)[None]
    return torch.bmm(d_GRN.mT, x_GRK, out_dtype=dtype)
