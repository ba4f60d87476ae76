"""Parts of the models that run on CUDA devices: kernels written in Triton, and streams for work side by side."""

from importlib.util import find_spec
from typing import Final

import torch
from torch import Tensor

HAS_TRITON: Final = find_spec("triton") is not None
"""PyTorch's own wheels for Linux bring it."""


def has_kernels(tensor: Tensor) -> bool:
    """Returns whether kernels compute with a tensor: on CUDA, in float32 or less, where Triton is installed."""
    return tensor.device.type == "cuda" and tensor.dtype != torch.float64 and HAS_TRITON
