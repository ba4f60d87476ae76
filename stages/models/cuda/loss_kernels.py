"""A Triton kernel for a decoder's loss: the loss and the gradient of the outputs in one pass over them.

Written out in PyTorch, a loss makes float32 copies of outputs and targets and goes over them six times.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096
"""Elements a program."""


@triton.jit
def _frame_loss(
    output,
    target,
    gradient,
    partial,  # one sum a program
    size,  # elements of a step: B * D
    scale,  # of the gradient
    BERNOULLI: tl.constexpr,
    REVERSE: tl.constexpr,  # the target's last step belongs to the first output
    BLOCK: tl.constexpr,
):
    step = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    output += step * size
    gradient += step * size
    target += (tl.num_programs(1) - 1 - step if REVERSE else step) * size
    partial += step * tl.num_programs(0)
    inside = at < size
    y = tl.load(output + at, inside, other=0.0).to(tl.float32)
    x = tl.load(target + at, inside, other=0.0).to(tl.float32)
    if BERNOULLI:
        small = tl.exp(-tl.abs(y))
        loss = tl.maximum(y, 0.0) - y * x + tl.log(1.0 + small)
        slope = tl.where(y >= 0, 1.0, small) / (1.0 + small) - x
    else:
        slope = y - x
        loss = slope * slope
        slope = 2.0 * slope
    tl.store(gradient + at, (slope * scale).to(gradient.dtype.element_ty), inside)
    tl.store(partial + tl.program_id(0), tl.sum(tl.where(inside, loss, 0.0), 0))


def frame_loss(
    output_TBD: Tensor, target_TBD: Tensor, *, bernoulli: bool, reverse: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Returns the loss summed over all elements (float32), and the gradient of `scale` times it in the outputs' dtype.

    reverse: the target's steps come last first.
    """
    output, target = output_TBD.contiguous(), target_TBD.contiguous()
    gradient = torch.empty_like(output)
    num_steps, size = output.shape[0], output[0].numel()
    grid = triton.cdiv(size, BLOCK), num_steps
    partial = torch.empty(grid[0] * num_steps, dtype=torch.float32, device=output.device)
    flags = {"BERNOULLI": bernoulli, "REVERSE": reverse, "BLOCK": BLOCK}
    _frame_loss[grid](output, target, gradient, partial, size, scale, **flags, num_warps=8)
    return partial.sum(), gradient
