"""Convnets of random weights, registered as a plugin: speed does not depend on what is learned.

    ConvnetConfig(name="random_vgg16", layer="fc6", plugin="tests.bench_gpu.random_convnets")

Weights keep the size of activations (He et al. 2015), and are the same in every process.
"""

from __future__ import annotations

import torch
from torch import nn

from stages.convnets.efficientnet_lite import INPUT_MEAN, INPUT_SCALE
from stages.convnets.efficientnet_lite_network import EfficientNetLite
from stages.convnets.layers import Normalize
from stages.convnets.registry import Architecture, register
from stages.convnets.vgg16 import CAFFE_MEAN_BGR, FC_UNITS, POOL5_CELLS, STAGES, vgg16_layers
from stages.convnets.zoo import ZooModel


class _Random(Architecture):
    def needs_weights(self) -> bool:
        return False

    def build(self, layer: str, input_px: int) -> nn.Module:
        """The network with torch's own initial weights."""
        raise NotImplementedError

    def network(self, layer: str, input_px: int) -> nn.Module:
        network = self.build(layer, input_px)
        if next(network.parameters()).is_meta:
            return network
        random = torch.Generator().manual_seed(0)
        for parameter in network.parameters() if self.is_convnet else ():
            deviation = (2 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.01
            nn.init.normal_(parameter, std=deviation, generator=random)
        return network

    is_convnet = True


@register("random_vgg16")
class RandomVgg16(_Random):
    """VGG-16 of the paper."""

    def layers(self) -> tuple[str, ...]:
        return ("fc6",)

    def build(self, layer: str, input_px: int) -> nn.Module:
        # A toy of the same layers where frames are small.
        wide = input_px == 224
        stages, units = (STAGES, FC_UNITS) if wide else (((8, 1), (16, 2)), 32)
        cells = POOL5_CELLS if wide else input_px // 4
        to_input = Normalize(CAFFE_MEAN_BGR, (1 / 64, 1 / 64, 1 / 64))
        return nn.Sequential(to_input, vgg16_layers("fc6", stages, units, cells))


@register("random_lite0")
class RandomLite0(_Random):
    """EfficientNet-Lite0."""

    def layers(self) -> tuple[str, ...]:
        return ("features",)

    def build(self, layer: str, input_px: int) -> nn.Module:
        to_input = Normalize(INPUT_MEAN, INPUT_SCALE)
        return nn.Sequential(to_input, EfficientNetLite(variant=0, layer=layer, input_px=input_px))


@register("random_vit_small")
class RandomVitSmall(_Random):
    """timm's ViT-S/16; needs timm."""

    is_convnet = False

    def layers(self) -> tuple[str, ...]:
        return ("pooled",)

    def build(self, layer: str, input_px: int) -> nn.Module:
        torch.manual_seed(0)
        return ZooModel("timm", "vit_small_patch16_224").network(layer, input_px)
