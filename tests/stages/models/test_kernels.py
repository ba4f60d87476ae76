"""The Triton kernels against the equations: on a GPU where there is one, else by Triton's interpreter.

PyTorch's wheels for CPU bring no Triton; these tests are skipped there: pip install triton runs them.
"""

import os
from functools import partial

import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton", reason="Triton is not installed")

from stages.datasets import moving_mnist, moving_mnist_kernel
from stages.models import losses
from stages.models.composite import Composite
from stages.models.config import CompositeSpec
from stages.models.cuda import fused_steps
from stages.models.cuda.loss_kernels import frame_loss
from stages.models.lstm_equations import EquationSteps, LayerWeights

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
T = 3


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small sizes have several."""
    monkeypatch.setattr(fused_steps, "PRODUCT", fused_steps.Tiling(rows=64, units=16, inner=16, num_warps=4))
    monkeypatch.setattr(fused_steps, "CELL", fused_steps.Tiling(rows=16, units=16, num_warps=4))


def run(
    steps: tuple[fused_steps.Steps, fused_steps.Steps],
    weights: LayerWeights,
    *,
    batch: int,
    input_is_biased: bool,
    has_input: bool,
    start: bool,
) -> list[Tensor]:
    """Everything that T steps forward and backward write; NaN where nothing was written."""
    num_groups, num_gates, num_units = weights.recurrent_weight_GKH.shape
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(1))
    share, above = draw(num_groups, T, batch, num_gates), draw(num_groups, T, batch, num_units)
    first = [draw(num_groups, batch, num_units).to(DEVICE) for _ in range(2)]
    dc = draw(num_groups, batch, num_units).to(DEVICE)
    k, c = (torch.full((num_groups, T, batch, n), torch.nan, device=DEVICE) for n in (num_gates, num_units))
    h = torch.full((num_groups, T + 1, batch, num_units), torch.nan, device=DEVICE)
    dk = torch.full_like(k, torch.nan)
    if has_input:
        k.copy_(share.to(DEVICE) + (weights.bias_GK[:, None, None] if input_is_biased else 0))
    if start:
        h[:, 0] = first[0]
    c_first = first[1] if start else None
    forward, backward = steps
    for t in range(T):
        h_before = h[:, t] if t or start else None
        forward.forward(k[:, t], has_input, h_before, c[:, t - 1] if t else c_first, c[:, t], h[:, t + 1])
    for t in reversed(range(T)):
        dk_after = dk[:, t + 1] if t + 1 < T else None
        dh = None if t == 1 else above[:, t].to(DEVICE)
        backward.backward(dk_after, dh, k[:, t], c[:, t - 1] if t else c_first, c[:, t], dc, dk[:, t])
    return [k, c, h[:, 1:], dk, dc, *backward.vector_gradients(dk, c_first, c), backward.through_weights(dk[:, 0])]


@pytest.mark.parametrize("multiplies", [True, False])
@pytest.mark.parametrize(
    ("num_groups", "num_units", "has_input", "start"),
    [(1, 32, True, True), (2, 32, False, True), (2, 48, True, False), (1, 20, True, True)],
)
def test_steps_are_the_equations(
    num_groups: int, num_units: int, has_input: bool, start: bool, multiplies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_steps, "_product_pays", lambda weight, batch: multiplies)
    batch, draw = 20, partial(torch.randn, generator=torch.Generator().manual_seed(0))
    weights = LayerWeights(
        None,
        (draw(num_groups, 4 * num_units, num_units) * 0.3).to(DEVICE),
        draw(num_groups, 4 * num_units).to(DEVICE),
        draw(num_groups, 3, num_units).to(DEVICE),
    )
    sizes = {"batch": batch, "num_steps": T}
    equations = tuple(EquationSteps(weights, **sizes, backward=backward) for backward in (False, True))
    kernels = fused_steps.FusedSteps(weights, batch=batch)
    how = {"batch": batch, "has_input": has_input, "start": start}
    expected = run(equations, weights, **how, input_is_biased=True)
    got = run((kernels, kernels), weights, **how, input_is_biased=False)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("reverse", [False, True])
def test_loss_and_gradient_are_the_rule_s(kind: str, reverse: bool) -> None:
    draw = partial(torch.rand, generator=torch.Generator().manual_seed(0))
    output_TBD, target_TBD = (8 * draw(3, 5, 1111) - 4).to(DEVICE), draw(3, 5, 1111).to(DEVICE)
    loss, gradient_TBD = frame_loss(output_TBD, target_TBD, bernoulli=kind == "bernoulli", reverse=reverse, scale=0.1)
    target_TBD = target_TBD.flip(0) if reverse else target_TBD
    expected, slope_TBD = losses._RULES[kind](output_TBD.double(), target_TBD.double())
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient_TBD.double(), 0.1 * slope_TBD, rtol=1e-5, atol=1e-7)


def test_moving_mnist_is_drawn_to_the_bit() -> None:
    images = torch.randint(0, 256, (7, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    scenes = moving_mnist.scenes(7, seed=3, stream="train", first=5, num=2, num_frames=4, num_digits=2)
    places = [torch.from_numpy(part).to(DEVICE) for part in scenes]
    drawn = moving_mnist_kernel.draw(images.to(DEVICE), *places, frame_px=64)
    assert torch.equal(drawn.cpu(), torch.from_numpy(moving_mnist.draw_unit(images.numpy(), scenes)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("multiplies", [True, False])
def test_half_precision_on_a_gpu_is_close_to_float64(multiplies: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(fused_steps, "_product_pays", lambda weight, batch: multiplies)
    torch.manual_seed(0)
    spec = CompositeSpec(
        dim=96, num_units=128, num_layers=2, num_frames_in=9, num_frames_out=6, predict_conditional=True
    )
    exact, model = Composite(spec).double(), Composite(spec).to(DEVICE)
    model.load_state_dict(exact.state_dict())
    past, future = torch.randn(9, 192, 96), torch.randn(6, 192, 96)
    exact.losses(exact(past.double(), future.double()), past.double(), future.double()).total.backward()
    past, future = past.to(DEVICE), future.to(DEVICE)
    with torch.autocast("cuda", torch.bfloat16):
        total = model.losses(model(past, future), past, future).total
    total.backward()
    for (name, ours), theirs in zip(model.named_parameters(), exact.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        error = (ours.grad.double().cpu() - theirs.grad).norm() / theirs.grad.norm()
        assert error < 0.015, name
