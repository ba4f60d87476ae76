"""Products of either library: those of float64, the same bytes again, and small ones PyTorch's own to the bit."""

import pytest
import torch
from torch import Tensor

from stages.models import matmul
from stages.models.composite import Composite
from stages.models.config import CompositeSpec
from stages.models.matmul import (
    MIN_SIDE,
    MIN_STEPS_TO_PACK,
    linear,
    project_into,
    repeated_product,
    times_weights,
    weight_gradient,
)

T, B = 3, 8
SIDES = [(MIN_SIDE, MIN_SIDE + 64), (MIN_SIDE - 1, MIN_SIDE), (24, 40)]
"""Outputs and inputs: oneDNN's where there is one, else PyTorch's."""


@pytest.fixture(autouse=True, params=["oneDNN's machine", "MKL's machine"])
def maker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both choices are tested on any machine."""
    is_made_for_mkl = request.param == "MKL's machine" and torch.backends.mkl.is_available()
    monkeypatch.setattr(matmul, "_is_made_for_mkl", lambda: is_made_for_mkl)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def close(got: Tensor, expected_float64: Tensor) -> None:
    torch.testing.assert_close(got.double(), expected_float64, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("outputs", "inputs"), SIDES)
@pytest.mark.parametrize("num_groups", [1, 2])
def test_products_are_those_of_float64(outputs: int, inputs: int, num_groups: int) -> None:
    x, d = draw(num_groups, T * B, inputs), draw(num_groups, T * B, outputs)
    weight, bias = draw(num_groups, outputs, inputs), draw(num_groups, outputs)
    projected, back = torch.empty_like(d), torch.empty_like(x)
    project_into(projected, x, weight, bias)
    close(projected, x.double() @ weight.double().mT + bias.double()[:, None])
    times_weights(back, d, weight)
    close(back, d.double() @ weight.double())
    close(weight_gradient(d, x, torch.float32), d.double().mT @ x.double())


@pytest.mark.parametrize(("outputs", "inputs"), SIDES)
@pytest.mark.parametrize("num_groups", [1, 2])
@pytest.mark.parametrize("num_steps", [1, MIN_STEPS_TO_PACK])
def test_repeated_products_are_those_of_float64(outputs: int, inputs: int, num_groups: int, num_steps: int) -> None:
    weight, share, bias = draw(num_groups, outputs, inputs), draw(num_groups, B, outputs), draw(num_groups, 1, outputs)
    forward = repeated_product(weight.mT, batch=B, num_steps=num_steps)
    backward = repeated_product(weight, batch=B, num_steps=num_steps)
    x, d = draw(num_groups, B, inputs), draw(num_groups, B, outputs)
    expected = x.double() @ weight.double().mT
    close(forward.times(x), expected)
    close(forward.plus(bias, x, torch.empty_like(share)), expected + bias.double())
    close(backward.times(d), d.double() @ weight.double())
    kept = share.double()
    close(forward.plus(share, x, share), expected + kept)  # may overwrite the addend, which is allowed


@pytest.mark.parametrize(("outputs", "inputs"), SIDES)
def test_a_linear_layer_is_that_of_float64_and_the_same_bytes_again(outputs: int, inputs: int) -> None:
    def outcome(dtype: torch.dtype) -> list[Tensor]:
        given = [draw(T, B, inputs), draw(outputs, inputs), draw(outputs)]
        leaves = [tensor.to(dtype).requires_grad_() for tensor in given]
        out = linear(*leaves)
        return [out.detach(), *torch.autograd.grad(out, leaves, draw(T, B, outputs).to(dtype))]

    results = outcome(torch.float32)
    for got, expected in zip(results, outcome(torch.float64), strict=True):
        close(got, expected)
    for again, first in zip(outcome(torch.float32), results, strict=True):
        assert torch.equal(again, first)


def test_small_products_are_pytorchs_to_the_bit() -> None:
    """So that a seed's results in models of few units are those of earlier versions."""
    x, d = draw(1, T * B, MIN_SIDE), draw(1, T * B, MIN_SIDE - 1)
    weight, bias = draw(1, MIN_SIDE - 1, MIN_SIDE), draw(MIN_SIDE - 1)
    back = torch.empty_like(x)
    times_weights(back, d, weight)
    assert torch.equal(back[0], d[0] @ weight[0])
    assert torch.equal(weight_gradient(d, x, torch.float32), torch.bmm(d.mT, x))
    frames = x[0].unflatten(0, (T, B))
    assert torch.equal(linear(frames, weight[0], bias), torch.nn.functional.linear(frames, weight[0], bias))


def test_no_rows_give_no_gradient() -> None:
    """As of one frame, whose recurrent weights are not used."""
    x, d = draw(1, 0, MIN_SIDE), draw(1, 0, MIN_SIDE)
    assert torch.equal(weight_gradient(d, x, torch.float32), torch.zeros(1, MIN_SIDE, MIN_SIDE))
    assert linear(draw(0, B, MIN_SIDE), draw(MIN_SIDE, MIN_SIDE), draw(MIN_SIDE)).shape == (0, B, MIN_SIDE)


def test_autocast_reaches_a_linear_layer() -> None:
    frames, weight, bias = draw(T, B, MIN_SIDE), draw(MIN_SIDE, MIN_SIDE), draw(MIN_SIDE)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(frames, weight, bias).dtype == torch.bfloat16


@pytest.mark.parametrize("conditional", [False, True])
def test_gradients_of_a_large_model_are_those_of_float64(conditional: bool) -> None:
    config = CompositeSpec(
        dim=MIN_SIDE, num_units=MIN_SIDE, num_layers=2, num_frames_in=5, num_frames_out=5,
        reconstruct_conditional=conditional, predict_conditional=conditional,
    )  # fmt: skip
    model = Composite(config)
    precise = Composite(config).double()
    precise.load_state_dict(model.state_dict())
    x, future = draw(5, B, MIN_SIDE), draw(5, B, MIN_SIDE)
    model.losses(model(x, future), x, future).total.backward()
    x, future = x.double(), future.double()
    precise.losses(precise(x, future), x, future).total.backward()
    for (name, parameter), expected in zip(model.named_parameters(), precise.parameters(), strict=True):
        assert parameter.grad is not None
        assert expected.grad is not None
        scale = expected.grad.abs().max()
        error = ((parameter.grad - expected.grad).abs().max() / scale).item()
        assert error < 1e-5, f"{name}: {error}"


def test_large_products_are_mkls_where_it_is_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.backends.mkl.is_available():
        pytest.skip("PyTorch has no MKL here")
    monkeypatch.setattr(matmul, "_is_made_for_mkl", lambda: True)
    x, d = draw(1, T * B, MIN_SIDE), draw(1, T * B, MIN_SIDE)
    assert torch.equal(weight_gradient(d, x, torch.float32), torch.bmm(d.mT, x))
    repeated = repeated_product(draw(1, MIN_SIDE, MIN_SIDE), batch=B, num_steps=MIN_STEPS_TO_PACK)
    assert torch.equal(repeated.times(x[:, :B]), torch.bmm(x[:, :B], draw(1, MIN_SIDE, MIN_SIDE)))
