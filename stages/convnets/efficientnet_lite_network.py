"""The network of EfficientNet-Lite: convolutions up to a layer, and published weights folded into them.

Shapes: B frames, C channels, H x W pixels.
"""

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from stages.convnets.efficientnet_lite_blocks import HEAD_CHANNELS, STEM_CHANNELS, Block, block_specs, layer_names

BATCH_NORM_EPSILON: Final = 1e-3


def same_padding(size_px: int, kernel: int, stride: int) -> tuple[int, int]:
    """Returns TensorFlow's SAME padding (before, after) along one axis; the odd pixel goes behind."""
    num_out = math.ceil(size_px / stride)
    total = max((num_out - 1) * stride + kernel - size_px, 0)
    return total // 2, total - total // 2


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise, project 1x1; the input is added where shapes allow. x_BCHW -> y_BCHW."""

    def __init__(self, block: Block, size_px: int) -> None:
        super().__init__()
        wide = block.in_channels * block.expansion
        steps: list[nn.Module] = []
        if block.expansion != 1:
            steps += [nn.Conv2d(block.in_channels, wide, 1), nn.ReLU6()]
        steps += _padded_conv(wide, wide, block.kernel, block.stride, size_px, groups=wide)
        steps += [nn.ReLU6(), nn.Conv2d(wide, block.out_channels, 1)]
        self.steps = nn.Sequential(*steps)
        self.has_skip = block.stride == 1 and block.in_channels == block.out_channels

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW: Tensor = self.steps(x_BCHW)
        return y_BCHW + x_BCHW if self.has_skip else y_BCHW


def _padded_conv(
    in_channels: int, out_channels: int, kernel: int, stride: int, size_px: int, groups: int = 1
) -> list[nn.Module]:
    before, after = same_padding(size_px, kernel, stride)
    if before == after:
        return [nn.Conv2d(in_channels, out_channels, kernel, stride, padding=before, groups=groups)]
    return [
        nn.ZeroPad2d((before, after, before, after)),
        nn.Conv2d(in_channels, out_channels, kernel, stride, groups=groups),
    ]


class EfficientNetLite(nn.Module):
    """Lite`variant` up to and with `layer`, for square frames of `input_px`. x_BCHW normalised float -> y_BCHW.

    `layer` is one of `layer_names(variant)`.
    """

    def __init__(self, *, variant: int, layer: str, input_px: int) -> None:
        super().__init__()
        depth = layer_names(variant).index(layer)
        size_px = input_px
        steps: list[nn.Module] = [*_padded_conv(3, STEM_CHANNELS, 3, 2, size_px), nn.ReLU6()]
        size_px = math.ceil(size_px / 2)
        blocks = block_specs(variant)
        for block in blocks[:depth]:
            steps.append(InvertedResidual(block, size_px))
            size_px = math.ceil(size_px / block.stride)
        if layer == "features":
            steps += [nn.Conv2d(blocks[-1].out_channels, HEAD_CHANNELS, 1), nn.ReLU6()]
        self.steps = nn.Sequential(*steps)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW: Tensor = self.steps(x_BCHW)
        return y_BCHW

    @torch.no_grad()
    def load_published(self, state: Mapping[str, Tensor]) -> None:
        """Loads weights of the published checkpoints (keys `_conv_stem.weight`, `_blocks.0._bn1.bias`, ...)."""
        convs = [module for module in self.modules() if isinstance(module, nn.Conv2d)]
        for conv, (conv_key, norm_key) in zip(convs, _conv_and_norm_keys(state), strict=False):
            weight, bias = _folded(state, conv_key, norm_key)
            assert conv.bias is not None
            assert conv.weight.shape == weight.shape, (conv_key, conv.weight.shape)
            conv.weight.copy_(weight)
            conv.bias.copy_(bias)


def _conv_and_norm_keys(state: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Returns (convolution, batch norm) key prefixes of a published checkpoint, from the input on."""
    pairs = [("_conv_stem", "_bn0")]
    for number in range(1 + max(int(key.split(".")[1]) for key in state if key.startswith("_blocks."))):
        prefix = f"_blocks.{number}."
        steps = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))
        pairs += [(prefix + conv, prefix + norm) for conv, norm in steps if f"{prefix}{conv}.weight" in state]
    return [*pairs, ("_conv_head", "_bn1")]


def _folded(state: Mapping[str, Tensor], conv_key: str, norm_key: str) -> tuple[Tensor, Tensor]:
    """Returns weight and bias of one convolution equal to convolution and batch normalisation (inference) in a row."""
    gamma, beta, mean, variance = (
        state[f"{norm_key}.{name}"].double() for name in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / torch.sqrt(variance + BATCH_NORM_EPSILON)
    weight = state[f"{conv_key}.weight"].double() * scale[:, None, None, None]
    return weight.float(), (beta - mean * scale).float()
