"""The layers that convnets share: what happens before the first convolution and after the last.

Shapes: B frames, C channels, H x W pixels or cells, G x G grid cells, D = C * G * G.
"""

import torch
from torch import Tensor, nn

from stages.convnets.config import check_grid


class Opaque(nn.Module):
    """A module of another library, which `onnx_graph` hands to torch's exporter as it is."""

    is_exporting = False
    """A flag that torch's exporter is running the module, which then must end without an exception."""


class Normalize(nn.Module):
    """x_BCHW float in 0..255 -> (x - mean) * scale, each per channel."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: tuple[float, ...], scale: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(scale).reshape(1, -1, 1, 1), persistent=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return (x_BCHW - self.mean) * self.scale


class ReverseChannels(nn.Module):
    """RGB -> BGR: x_BCHW -> x_BCHW with its channels in reverse order."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW.flip(1)


class AverageGrid(nn.Module):
    """Adaptive average pooling to G x G for a map that G does not divide: two small matrix products, `P x P^T`.

    Cell g covers rows floor(g*H/G) to ceil((g+1)*H/G) - 1, as torch.nn.AdaptiveAvgPool2d has it.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, height: int, width: int, grid: int) -> None:
        super().__init__()
        self.register_buffer("rows", _averaging_matrix(height, grid), persistent=False)
        self.register_buffer("columns", _averaging_matrix(width, grid).T.contiguous(), persistent=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return torch.matmul(torch.matmul(self.rows, x_BCHW), self.columns)


def _averaging_matrix(size: int, grid: int) -> Tensor:
    """Returns (grid, size) weights; each row sums to 1."""
    weights = torch.zeros(grid, size)
    for cell in range(grid):
        first, end = cell * size // grid, -((cell + 1) * size // -grid)
        weights[cell, first:end] = 1.0 / (end - first)
    return weights


def grid_pooling(height: int, width: int, grid: int) -> nn.Module:
    """Builds average pooling of a map to grid x grid, then flattened channel-major: (c * G + row) * G + column.

    Raises:
        ConfigError: the map has fewer cells than the grid.
    """
    check_grid(height, width, grid)
    if height % grid or width % grid:
        return nn.Sequential(AverageGrid(height, width, grid), nn.Flatten())
    if (height, width) == (grid, grid):
        return nn.Flatten()
    return nn.Sequential(nn.AvgPool2d((height // grid, width // grid)), nn.Flatten())
