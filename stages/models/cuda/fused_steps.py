"""The steps of an LSTM layer on a GPU: the cell in one kernel a step, which also multiplies where that pays.

Shapes: G groups, B batch, D input size, H units, K = 4H gates (i, f, a, o), R rows.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from stages.models.cuda import has_kernels
from stages.models.lstm_equations import EquationSteps, LayerWeights


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """The division of a kernel's work: each program has so many rows and units (of one gate)."""

    rows: int
    units: int
    num_warps: int
    inner: int = 16
    """The number of columns that a product reads at a time."""
    num_stages: int = 1
    """The number of tiles of a product in flight."""


PRODUCT = Tiling(rows=128, units=64, inner=64, num_warps=8, num_stages=4)
CELL = Tiling(rows=16, units=64, num_warps=8)
"""Four values a thread: every tensor, of 2 or 4 bytes, is then read in the same layout, without exchange."""
SUMS = Tiling(rows=16, units=64, num_warps=8)
NUM_RUNS = 32
"""Programs over the rows of a sum."""


@lru_cache(maxsize=8)
def _num_processors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _product_pays(weight_GKH: Tensor, batch: int) -> bool:
    """Returns whether `forward_step` multiplies faster than the library: where its tiles fill the GPU.

    Rows must be whole 16 bytes, for the descriptors of tiles.
    """
    num_groups, _, num_units = weight_GKH.shape
    num_tiles = num_groups * -(-batch // PRODUCT.rows) * -(-num_units // PRODUCT.units)
    fits = weight_GKH.element_size() == 2 and num_units % 16 == 0
    return fits and num_tiles >= 0.9 * _num_processors(weight_GKH.device)


class FusedSteps:
    """The steps of a layer, computed by kernels; the methods are those of `EquationSteps`."""

    def __init__(self, weights: LayerWeights, *, batch: int) -> None:
        self.weights = weights
        self._weight_GKH = weights.recurrent_weight_GKH.contiguous()
        self._bias_GK, self._peephole_G3H = weights.bias_GK.contiguous(), weights.peephole_G3H.contiguous()
        self.num_groups, _, self.num_units = self._weight_GKH.shape
        self._multiplies = _product_pays(self._weight_GKH, batch)
        self._dh_GBH: Tensor | None = None

    def project(self, k_GRK: Tensor, x_GRD: Tensor) -> None:
        assert self.weights.input_weight_GKD is not None, "this layer has no input weights"
        _product(k_GRK, x_GRD, self.weights.input_weight_GKD.mT)

    def forward(
        self,
        k_GBK: Tensor,
        has_input: bool,
        h_before_GBH: Tensor | None,
        c_before_GBH: Tensor | None,
        c_GBH: Tensor,
        h_GBH: Tensor,
    ) -> None:
        from stages.models.cuda.cell_kernels import forward_step

        tiling, h_rows, weights = CELL, None, None
        if h_before_GBH is not None and self._multiplies:
            tiling = PRODUCT
            h_rows = _row_descriptor(h_before_GBH, tiling)
            weights = _gate_descriptor(self._weight_GKH, tiling)
        elif h_before_GBH is not None:
            _product(k_GBK, h_before_GBH, self._weight_GKH.mT, add=has_input)
            has_input = True
        forward_step[self._grid(k_GBK, tiling)](
            h_rows,
            weights,
            k_GBK,
            self._bias_GK,
            self._peephole_G3H,
            c_before_GBH,
            c_GBH,
            h_GBH,
            k_GBK.shape[1],
            _rows_between(h_GBH),
            _rows_between(c_before_GBH),
            _rows_between(k_GBK),
            NUM_UNITS=self.num_units,
            HAS_STATE=h_rows is not None,
            HAS_CELL=c_before_GBH is not None,
            HAS_INPUT=has_input,
            BLOCK_ROWS=tiling.rows,
            BLOCK_UNITS=tiling.units,
            BLOCK_INNER=tiling.inner,
            num_warps=tiling.num_warps,
            num_stages=tiling.num_stages,
        )

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
        from stages.models.cuda.cell_kernels import backward_step

        if dk_after_GBK is not None:
            if self._dh_GBH is None:
                self._dh_GBH = self._new_dh(dk_after_GBK)
            _product(self._dh_GBH, dk_after_GBK, self._weight_GKH)
        backward_step[self._grid(k_GBK, CELL)](
            self._dh_GBH,
            dh_GBH,
            k_GBK,
            c_before_GBH,
            c_GBH,
            self._peephole_G3H,
            dc_GBH,
            dk_GBK,
            k_GBK.shape[1],
            _rows_between(dh_GBH),
            _rows_between(c_before_GBH),
            _rows_between(k_GBK),
            NUM_UNITS=self.num_units,
            HAS_AFTER=dk_after_GBK is not None,
            HAS_ABOVE=dh_GBH is not None,
            HAS_CELL=c_before_GBH is not None,
            BLOCK_ROWS=CELL.rows,
            BLOCK_UNITS=CELL.units,
            num_warps=CELL.num_warps,
        )

    def through_weights(self, dk_GBK: Tensor) -> Tensor:
        dh_GBH = self._new_dh(dk_GBK)
        _product(dh_GBH, dk_GBK, self._weight_GKH)
        return dh_GBH

    def vector_gradients(self, dk_GTBK: Tensor, c_first_GBH: Tensor | None, c_GTBH: Tensor) -> tuple[Tensor, Tensor]:
        from stages.models.cuda.cell_kernels import sum_over_time

        num_groups, num_steps, batch, _ = dk_GTBK.shape
        num_rows = num_steps * batch
        blocks_a_program = -(-num_rows // (SUMS.rows * NUM_RUNS))
        num_programs = -(-num_rows // (SUMS.rows * blocks_a_program))
        sums_GR7H = c_GTBH.new_empty(num_groups, num_programs, 7, self.num_units)
        sum_over_time[-(-self.num_units // SUMS.units), num_programs, num_groups](
            dk_GTBK,
            None if c_first_GBH is None else c_first_GBH.contiguous(),
            c_GTBH,
            sums_GR7H,
            batch,
            num_rows,
            blocks_a_program,
            NUM_UNITS=self.num_units,
            HAS_FIRST=c_first_GBH is not None,
            BLOCK_ROWS=SUMS.rows,
            BLOCK_UNITS=SUMS.units,
            num_warps=SUMS.num_warps,
        )
        sums_G7H = sums_GR7H.sum(1)
        return sums_G7H[:, :4].reshape_as(self._bias_GK), sums_G7H[:, 4:].contiguous()

    def _new_dh(self, dk_GBK: Tensor) -> Tensor:
        return self._weight_GKH.new_empty(self.num_groups, dk_GBK.shape[1], self.num_units)

    def _grid(self, k_GBK: Tensor, tiling: Tiling) -> tuple[int, int]:
        return -(-k_GBK.shape[1] // tiling.rows) * -(-self.num_units // tiling.units), self.num_groups


Steps = EquationSteps | FusedSteps


def new_steps(weights: LayerWeights, *, batch: int, num_steps: int, backward: bool) -> Steps:
    """Returns the fastest steps for a layer: kernels on a GPU, the equations as they stand everywhere else."""
    if has_kernels(weights.recurrent_weight_GKH):
        return FusedSteps(weights, batch=batch)
    return EquationSteps(weights, batch=batch, num_steps=num_steps, backward=backward)


def _product(out_GRN: Tensor, a_GRK: Tensor, weight_GKN: Tensor, *, add: bool = False) -> None:
    """Writes a times the weights to `out`, or adds it."""
    if len(out_GRN) == 1:
        out_RN, a_RK, weight_KN = out_GRN[0], a_GRK[0], weight_GKN[0]
        torch.addmm(out_RN, a_RK, weight_KN, beta=float(add), out=out_RN)
    else:
        torch.baddbmm(out_GRN, a_GRK, weight_GKN, beta=float(add), out=out_GRN)


def _rows_between(slice_GBN: Tensor | None) -> int:
    """Returns the rows from one group to the next in a step's slice of a buffer over time."""
    return 0 if slice_GBN is None or len(slice_GBN) == 1 else slice_GBN.stride(0) // slice_GBN.shape[2]


def _row_descriptor(slice_GBN: Tensor, tiling: Tiling) -> Any:
    """Describes a step's slice as rows; those past the last are read as zeros."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    num_groups, batch, width = slice_GBN.shape
    num_rows = (num_groups - 1) * _rows_between(slice_GBN) + batch
    return TensorDescriptor(slice_GBN, [num_rows, width], [width, 1], [tiling.rows, tiling.inner])


def _gate_descriptor(weight_GKH: Tensor, tiling: Tiling) -> Any:
    """Describes tiles with the rows of the same units in all four gates."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    num_groups, _, units = weight_GKH.shape
    shape, strides = [4 * num_groups, units, units], [units * units, units, 1]
    return TensorDescriptor(weight_GKH, shape, strides, [4, tiling.units, tiling.inner])
