"""Which dtype products are computed in, on this device, and that the rest stays float32."""

from __future__ import annotations

import pytest
import torch

from stages.models.composite import Composite
from stages.models.config import CompositeSpec
from stages.pretraining.config import Precision
from stages.pretraining.optimisation import autocast, slow_on

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("precision", "dtype"), [("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_products_have_the_dtype_asked_for_and_states_and_losses_are_float32(
    precision: Precision, dtype: torch.dtype
) -> None:
    model = Composite(CompositeSpec(dim=8, num_units=6, num_frames_in=4, num_frames_out=3))
    x_TBD = torch.rand(7, 2, 8)
    with autocast(precision, CPU):
        ((h_GBH, c_GBH),) = model.encode(x_TBD[:4])
        outputs = model(x_TBD[:4], x_TBD[4:])
        losses = model.losses(outputs, x_TBD[:4], x_TBD[4:])
    losses.total.backward()
    assert outputs.prediction is not None
    assert (h_GBH.dtype, outputs.prediction.dtype) == (dtype, dtype)
    assert (c_GBH.dtype, losses.total.dtype) == (torch.float32, torch.float32)
    assert {weight.grad.dtype for weight in model.parameters() if weight.grad is not None} == {torch.float32}


def test_only_a_cpu_that_emulates_bfloat16_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert slow_on("bfloat16", CPU)
    assert not slow_on("float32", CPU)
    assert not slow_on("auto", CPU)
    assert not slow_on("bfloat16", CUDA)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert not slow_on("bfloat16", CPU)
