"""A Triton kernel that draws Moving MNIST: each pixel is looked up in its digits and written once.

Shapes: T frames, B sequences, K digits in a frame, D = 4096 pixels of a frame; N digit images of 28 x 28.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024
"""Pixels that one program of the kernel draws."""


@triton.jit
def _draw(
    images_NHW,
    digit_BK,
    corner_TBK2,
    x_TBD,
    NUM_DIGITS: tl.constexpr,
    SIDE_PX: tl.constexpr,
    FRAME_PX: tl.constexpr,
    BLOCK: tl.constexpr,
):
    sequence, frame = tl.program_id(1), tl.program_id(2).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row, column = pixel // FRAME_PX, pixel % FRAME_PX
    brightest = tl.zeros((BLOCK,), tl.int32)
    at = frame * tl.num_programs(1) + sequence
    for k in range(NUM_DIGITS):
        corner = corner_TBK2 + (at * NUM_DIGITS + k) * 2
        y, x = row - tl.load(corner), column - tl.load(corner + 1)
        inside = (y >= 0) & (y < SIDE_PX) & (x >= 0) & (x < SIDE_PX)
        image = images_NHW + tl.load(digit_BK + sequence * NUM_DIGITS + k) * (SIDE_PX * SIDE_PX)
        brightness = tl.load(image + y * SIDE_PX + x, inside, other=0).to(tl.int32)
        brightest = tl.maximum(brightest, brightness)
    x_TBD += at * (FRAME_PX * FRAME_PX) + pixel
    tl.store(x_TBD, tl.div_rn(brightest.to(tl.float32), 255.0))


def draw(images_NHW: Tensor, digit_BK: Tensor, corner_TBK2: Tensor, *, frame_px: int) -> Tensor:
    """Draws frames in [0, 1], (T, B, D) float32, of digits (uint8) whose upper left pixels lie at `corner` (int64)."""
    num_frames, batch, num_digits, _ = corner_TBK2.shape
    num_pixels = frame_px * frame_px
    x_TBD = torch.empty(num_frames, batch, num_pixels, device=images_NHW.device)
    grid = triton.cdiv(num_pixels, BLOCK), batch, num_frames
    shape = {"NUM_DIGITS": num_digits, "SIDE_PX": images_NHW.shape[1], "FRAME_PX": frame_px, "BLOCK": BLOCK}
    _draw[grid](images_NHW.contiguous(), digit_BK.contiguous(), corner_TBK2.contiguous(), x_TBD, **shape)
    return x_TBD
