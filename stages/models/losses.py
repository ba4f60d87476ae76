"""Losses of a decoder's frames: summed over dimensions, averaged over steps and sequences (the paper's accounting).

Each keeps one tensor for backward, the gradient of its outputs, and no float32 copies of outputs and targets.
Shapes: T steps, B batch, D dimensions.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from stages.models.cuda import has_kernels


def _bernoulli(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return binary_cross_entropy_with_logits(logits, target, reduction="sum"), logits.sigmoid().sub_(target)


def _gaussian(mean: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return mse_loss(mean, target, reduction="sum"), (mean - target).mul_(2.0)


_RULES = {"bernoulli": _bernoulli, "gaussian": _gaussian}


class _FrameLoss(torch.autograd.Function):
    """Sum of a rule over all elements, divided by T * B; computed in float32 at least, whatever autocast made."""

    @staticmethod
    def forward(ctx: Any, output_TBD: Tensor, target_TBD: Tensor, kind: str, reverse: bool) -> Tensor:
        dtype = torch.promote_types(output_TBD.dtype, torch.float32)
        num_frames = output_TBD.shape[0] * output_TBD.shape[1]
        if has_kernels(output_TBD):
            from stages.models.cuda.loss_kernels import frame_loss

            loss, gradient = frame_loss(
                output_TBD, target_TBD, bernoulli=kind == "bernoulli", reverse=reverse, scale=1 / num_frames
            )
            ctx.save_for_backward(gradient)
            return loss / num_frames
        target_TBD = target_TBD.flip(0) if reverse else target_TBD
        with torch.autocast(output_TBD.device.type, enabled=False):
            loss, gradient = _RULES[kind](output_TBD.to(dtype), target_TBD.to(dtype))
        ctx.save_for_backward(gradient.div_(num_frames).to(output_TBD.dtype))
        return loss / num_frames

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient_TBD,) = ctx.saved_tensors
        return gradient_TBD * grad.to(gradient_TBD.dtype), None, None, None


def decoder_loss(
    output_TBD: Tensor, target_TBD: Tensor, kind: Literal["bernoulli", "gaussian"], *, reverse: bool = False
) -> Tensor:
    """Returns the loss a frame, summed over dimensions, averaged over steps and sequences: a scalar.

    bernoulli: the cross-entropy, nats, of logistic outputs against targets in [0, 1], real values allowed.
    gaussian: the squared error (no factor 1/2).
    reverse: the target's last step belongs to the first output.
    """
    # torch's apply has no types.
    loss: Tensor = _FrameLoss.apply(output_TBD, target_TBD, kind, reverse)  # type: ignore[no-untyped-call]
    return loss
