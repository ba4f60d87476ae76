"""The settings of a convnet, apart from the code that runs it: recipes read them, and need no torch."""

from dataclasses import dataclass

from pipeline.core.errors import ConfigError
from pipeline.core.numbers import check_at_least


@dataclass(frozen=True, kw_only=True)
class ConvnetConfig:
    """The network that processes the frames, and the layer that percepts are taken from."""

    name: str = "efficientnet_lite0"
    """efficientnet_lite0, _lite1, _lite2, vgg16, vgg16_torchvision, vgg16_flow, pixels, timm/NAME or
    torchvision/NAME (where installed), or one that a plugin registers."""
    layer: str = "features"
    """Layer to take percepts from. Lite: stem, blocks.K, features; VGG: pool5, fc6, fc7; pixels: rgb, gray;
    timm and torchvision: any submodule, and timm's `pooled`; tokens: blocks.K:mean, blocks.K:class."""
    grid: int = 1
    """Average the layer's map to grid x grid cells; percepts have channels * grid * grid values."""
    input_px: int = 224
    """Side of the square frames that the network sees, in pixels; the decoder delivers this size."""
    in_channels: int = 3
    """3 for RGB; twice the decoder's flow_stack for a network that takes optical flow."""
    weights: str | None = None
    """Weights (.safetensors or .pth): a path, a URL (https, s3 ...) or hf://OWNER/NAME/FILE; default: those that an
    installed package ships."""
    weights_sha256: str | None = None
    """sha256 that the weights file must have, 64 hex digits; without it, the run prints that of the file and stops."""
    plugin: str | None = None
    """Python module that registers further convnets, imported first."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "grid")
        if self.in_channels != 3 and (self.in_channels < 2 or self.in_channels % 2):
            raise ConfigError(f"in_channels is {self.in_channels}; RGB has 3, stacks of L flow fields have 2 L")
        if not 8 <= self.input_px <= 2048:
            raise ConfigError(f"input_px is {self.input_px}; frames must be 8 to 2048 pixels wide")
        if self.weights is None and self.weights_sha256 is not None:
            raise ConfigError("weights_sha256 is the digest of weights, and none are named: give both")


def check_grid(height: int, width: int, grid: int) -> None:
    """Raises ConfigError where a map of `height` x `width` cells is coarser than the grid."""
    if grid > min(height, width):
        raise ConfigError(
            f"--extract.convnet.grid: grid {grid} is finer than the layer's {height}x{width} map; choose grid <= "
            f"{min(height, width)}, an earlier layer or more input pixels"
        )
