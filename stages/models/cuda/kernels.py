"""The choice between hand-written kernels and PyTorch's operations for a tensor."""

from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor


@lru_cache(maxsize=1)
def _is_triton_here() -> bool:
    return find_spec("triton") is not None


def has_kernels(tensor: Tensor) -> bool:
    """Returns whether kernels compute with a tensor: on CUDA, in float32 or less, where Triton is installed.

    PyTorch's own wheels for Linux bring Triton.
    """
    return tensor.device.type == "cuda" and tensor.dtype != torch.float64 and _is_triton_here()
