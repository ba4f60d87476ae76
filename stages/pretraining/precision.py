"""The number format of matrix products in training. Weights, cell states, losses and optimisers are float32 always."""

from contextlib import AbstractContextManager

import torch

from stages.pretraining.config import Precision


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """Returns the context in which a model's forward pass runs."""
    half = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=half)


def slow_on(precision: Precision, device: torch.device) -> bool:
    """Returns whether `device` is a CPU that only emulates a bfloat16 precision, without AVX512-BF16 or AMX."""
    if precision != "bfloat16" or device.type != "cpu":
        return False
    return not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
