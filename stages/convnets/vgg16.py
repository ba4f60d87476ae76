"""VGG-16 (Simonyan & Zisserman 2014, configuration D), cut off after `pool5`, `fc6` or `fc7`.

`fc6` and `fc7` are taken after their ReLU: 4096 values a frame, the percepts of the paper (section 3.2), whose frames
are the central 224x224 pixels of 240x320. Weights come from a user's URI with a sha256, in torchvision's naming
(`features.0.weight` ... `classifier.3.bias`), safetensors or .pth; what lies behind the layer is not read.

Three names, for three ways of training, which expect other inputs:

* `vgg16`: the authors' Caffe network, converted: B, G, R in 0..255 minus the mean (103.939, 116.779, 123.68). The
  channels are turned around here, in front of the first convolution: keep the file's BGR filters as they are.
* `vgg16_torchvision`: R, G, B / 255, minus (0.485, 0.456, 0.406), over (0.229, 0.224, 0.225).
* `vgg16_flow`: the temporal stream of two-stream networks: stacks of L flow fields (2 L channels of bytes, see
  `stages.video.flow`) minus 128, the byte of no movement.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from pipeline.core.errors import ConfigError
from stages.convnets.registry import Architecture, load_named, register

if TYPE_CHECKING:
    from torch import Tensor, nn

STAGES: Final = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""(channels, 3x3 convolutions) of each stage; a 2x2 maximum follows each."""
FC_UNITS: Final = 4096
POOL5_CELLS: Final = 7
LAYERS: Final = ("pool5", "fc6", "fc7")

CAFFE_MEAN_BGR: Final = (103.939, 116.779, 123.68)
IMAGENET_MEAN_RGB: Final = (0.485, 0.456, 0.406)
IMAGENET_STD_RGB: Final = (0.229, 0.224, 0.225)
FLOW_MEAN: Final = 128.0
"""The offset of flow networks (Wang et al. 2015, Towards Good Practices for Very Deep Two-Stream ConvNets)."""


def vgg16_layers(
    layer: str, stages: tuple[tuple[int, int], ...], fc_units: int, cells: int, in_channels: int = 3
) -> nn.Sequential:
    """Builds x_BCHW normalised -> map (B, C, cells, cells) at pool5, or (B, fc_units) at fc6 and fc7.

    `stages`, `fc_units` and `cells` are parameters so that a test can check the arithmetic on a small network.
    Parameter names are torchvision's: `features.K` and `classifier.K`.
    """
    from torch import nn

    features: list[nn.Module] = []
    for channels, num_convs in stages:
        for _ in range(num_convs):
            features += [nn.Conv2d(in_channels, channels, kernel_size=3, padding=1), nn.ReLU()]
            in_channels = channels
        features.append(nn.MaxPool2d(kernel_size=2, stride=2))
    network = nn.Sequential()
    network.add_module("features", nn.Sequential(*features))
    if layer == "pool5":
        return network
    classifier: list[nn.Module] = [nn.Linear(in_channels * cells * cells, fc_units), nn.ReLU()]
    if layer == "fc7":
        classifier += [nn.Dropout(), nn.Linear(fc_units, fc_units), nn.ReLU()]
    network.add_module("flatten", nn.Flatten())
    network.add_module("classifier", nn.Sequential(*classifier))
    return network


def _check_size(layer: str, input_px: int) -> None:
    if layer != "pool5" and input_px // 32 != POOL5_CELLS:
        raise ConfigError(f"VGG-16 {layer} needs 224x224 input (a 7x7 map), not {input_px}; set input_px=224")


class _Vgg16(Architecture):
    def layers(self) -> tuple[str, ...]:
        return LAYERS

    def load(self, network: nn.Module, state: Mapping[str, Tensor]) -> None:
        from torch import nn

        assert isinstance(network, nn.Sequential)
        load_named(network[-1], state, "VGG-16 weights", "use torchvision's naming")


class _RgbVgg16(_Vgg16):
    def output_shape(self, layer: str, input_px: int) -> tuple[int, ...]:
        _check_size(layer, input_px)
        return (STAGES[-1][0], input_px // 32, input_px // 32) if layer == "pool5" else (FC_UNITS,)

    def network(self, layer: str, input_px: int) -> nn.Module:
        from torch import nn

        _check_size(layer, input_px)
        return nn.Sequential(self.prepare(), vgg16_layers(layer, STAGES, FC_UNITS, POOL5_CELLS))

    @abstractmethod
    def prepare(self) -> nn.Module:
        """Builds the module in front of the first convolution."""


@register("vgg16")
class Vgg16(_RgbVgg16):
    """The paper's: Caffe weights."""

    def prepare(self) -> nn.Module:
        from torch import nn

        from stages.convnets.layers import Normalize, ReverseChannels

        return nn.Sequential(ReverseChannels(), Normalize(CAFFE_MEAN_BGR, (1.0, 1.0, 1.0)))


@register("vgg16_torchvision")
class Vgg16Torchvision(_RgbVgg16):
    """Weights trained on RGB in 0..1, normalised by ImageNet's mean and standard deviation."""

    def prepare(self) -> nn.Module:
        from stages.convnets.layers import Normalize

        red, green, blue = IMAGENET_MEAN_RGB
        std_red, std_green, std_blue = IMAGENET_STD_RGB
        return Normalize(
            (255 * red, 255 * green, 255 * blue), (1 / (255 * std_red), 1 / (255 * std_green), 1 / (255 * std_blue))
        )


@register("vgg16_flow")
class Vgg16Flow(_Vgg16):
    """A temporal-stream network; in_channels is twice the number of fields in a stack."""

    def network(self, layer: str, input_px: int) -> nn.Module:
        raise ConfigError(
            "convnet vgg16_flow takes optical flow; set decode.flow and convnet.in_channels = 2 flow_stack"
        )

    def flow_network(self, layer: str, input_px: int, in_channels: int) -> nn.Module:
        from torch import nn

        from stages.convnets.layers import Normalize

        _check_size(layer, input_px)
        network = vgg16_layers(layer, STAGES, FC_UNITS, POOL5_CELLS, in_channels)
        return nn.Sequential(Normalize((FLOW_MEAN,) * in_channels, (1.0,) * in_channels), network)
