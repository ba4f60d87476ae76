"""Percepts that are pixels: the frame averaged down to the grid, in 0..1.

Layers: `rgb` (3 channels), `gray` (BT.601 luma, 1 channel). With grid = input_px every pixel is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stages.convnets.registry import Architecture, register

if TYPE_CHECKING:
    from torch import nn

LUMA_RGB: Final = (0.299, 0.587, 0.114)
"""Weights of R, G and B in luma (ITU-R BT.601-7, 2.5.1)."""


@register("pixels")
class Pixels(Architecture):
    """x_BCHW in 0..255 -> colours or luma in 0..1."""

    def layers(self) -> tuple[str, ...]:
        return ("rgb", "gray")

    def network(self, layer: str, input_px: int) -> nn.Module:
        import torch
        from torch import nn

        from stages.convnets.layers import Normalize

        to_unit = Normalize((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))
        if layer == "rgb":
            return to_unit
        luma = nn.Conv2d(3, 1, kernel_size=1, bias=False)
        with torch.no_grad():
            luma.weight.copy_(torch.tensor(LUMA_RGB).reshape(1, 3, 1, 1))
        return nn.Sequential(to_unit, luma)

    def output_shape(self, layer: str, input_px: int) -> tuple[int, ...]:
        return 3 if layer == "rgb" else 1, input_px, input_px

    def needs_weights(self) -> bool:
        return False
