"""The blocks of EfficientNet-Lite 0, 1 and 2: their sizes, from which those of every layer follow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

STEM_CHANNELS: Final = 32
HEAD_CHANNELS: Final = 1280


@dataclass(frozen=True)
class Block:
    """One inverted residual block (MBConv without squeeze-and-excitation)."""

    kernel: int
    stride: int
    expansion: int
    in_channels: int
    out_channels: int


# (repeats, kernel, stride, expansion, in, out) of Lite0; Lite1 and Lite2 scale repeats and channels.
_STAGES: Final = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)

_WIDTH_DEPTH: Final = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}


def _scaled_channels(channels: int, width: float) -> int:
    """Returns channels times `width`, rounded to a multiple of 8, never down by more than 10 % (Tan & Le's rule)."""
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def block_specs(variant: int) -> list[Block]:
    """Returns the blocks of EfficientNet-Lite`variant` in order (16 for Lite0, 21 for Lite1 and Lite2)."""
    width, depth = _WIDTH_DEPTH[variant]
    blocks: list[Block] = []
    for number, (repeats, kernel, stride, expansion, in_channels, out_channels) in enumerate(_STAGES):
        # The Lite family never scales the stem, the head, or the depth of the first and the last stage.
        is_edge = number in (0, len(_STAGES) - 1)
        num_blocks = repeats if is_edge else math.ceil(repeats * depth)
        wide_in = STEM_CHANNELS if number == 0 else _scaled_channels(in_channels, width)
        wide_out = _scaled_channels(out_channels, width)
        blocks.append(Block(kernel, stride, expansion, wide_in, wide_out))
        blocks += [Block(kernel, 1, expansion, wide_out, wide_out)] * (num_blocks - 1)
    return blocks


def layer_names(variant: int) -> list[str]:
    """Returns the names of the layers that a network may be cut off after, from the input on."""
    return ["stem", *(f"blocks.{number}" for number in range(len(block_specs(variant)))), "features"]
