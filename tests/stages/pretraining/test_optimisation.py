"""What training loops share: schedule, published optimiser, clipping, guard, exact resume."""

import math
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import ConfigError, CorruptArtifact, StoreError, TrainingDiverged
from stages.models.composite import Composite
from stages.models.config import CompositeSpec
from stages.models.lstm import LSTM
from stages.pretraining.config import OptimizerConfig
from stages.pretraining.eager import EagerAdamW, manual_seed
from stages.pretraining.optimisation import (
    DivergenceGuard,
    build_optimizer,
    clip_gradients,
    learning_rate,
    restore_training_state,
    save_training_state,
)


@given(num_warmup=st.integers(0, 30), num_steps=st.integers(1, 200), fraction=st.floats(0, 1))
def test_schedule_rises_then_falls_to_its_end(num_warmup: int, num_steps: int, fraction: float) -> None:
    config = OptimizerConfig(learning_rate=0.1, num_warmup_steps=num_warmup, final_fraction=fraction)
    rates = [learning_rate(config, step, num_steps) for step in range(num_warmup + num_steps + 1)]
    assert all(0 <= rate <= 0.1 + 1e-12 for rate in rates)
    assert all(a < b for a, b in pairwise(rates[:num_warmup]))
    assert all(a >= b - 1e-12 for a, b in pairwise(rates[num_warmup:]))
    assert rates[num_warmup] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0.1 * fraction, abs=1e-9)


def test_schedule_equals_torchs_cosine() -> None:
    config = OptimizerConfig(learning_rate=0.5, num_warmup_steps=0, final_fraction=0.1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    peer = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40, eta_min=0.05)
    for step in range(40):
        assert learning_rate(config, step, 40) == pytest.approx(peer.get_last_lr()[0])
        optimizer.step()
        peer.step()


def test_published_optimizer_clamps_a_velocity() -> None:
    model = torch.nn.Linear(3, 1, bias=False).double()
    config = OptimizerConfig(kind="published", learning_rate=1e-4, velocity_clamp=1e-4, momentum=0.9)
    optimizer = build_optimizer(config, model)
    weight = model.weight.detach().numpy().copy()
    velocity = np.zeros_like(weight)
    for step in range(6):
        gradient = np.array([[80.0, 8e-2 * (-1) ** step, -0.32]])
        model.weight.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        velocity = np.clip(0.9 * velocity - 1e-4 * gradient, -1e-4, 1e-4)
        weight += velocity
        np.testing.assert_allclose(model.weight.detach(), weight, rtol=1e-12)
    assert velocity[0, 0] == -1e-4, "a large gradient moves a weight by the clamp"
    assert abs(velocity[0, 1]) < 1e-4


@pytest.mark.parametrize("fused", [None, True])
def test_adamw_is_torchs_to_the_bit_and_needs_no_compiler(fused: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(kind: type[torch.optim.AdamW]) -> list[torch.Tensor]:
        manual_seed(0)
        lstm = LSTM(3, 2)
        groups = [{"params": [weight]} for weight in lstm.parameters()]
        optimizer = kind(groups, lr=1e-2, weight_decay=0.1, fused=fused)
        for step in range(4):
            for weight in lstm.parameters():
                weight.grad = torch.randn_like(weight)
            optimizer.step()
            optimizer.zero_grad()
            if step == 1:
                state, optimizer = optimizer.state_dict(), kind(groups, fused=fused)
                optimizer.load_state_dict(state)
        return [weight.detach() for weight in lstm.parameters()]

    expected = trained(torch.optim.AdamW)
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)  # whoever imports it gets an ImportError
    assert all(map(torch.equal, trained(EagerAdamW), expected))


def test_weight_decay_spares_biases_and_peepholes() -> None:
    lstm = LSTM(3, 2)
    optimizer = build_optimizer(OptimizerConfig(weight_decay=0.1), lstm)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    expected = {"input_weight": 0.1, "recurrent_weight": 0.1, "bias": 0.0, "peephole": 0.0}
    assert {name.split(".")[-1]: decay[id(parameter)] for name, parameter in lstm.named_parameters()} == expected


@pytest.mark.parametrize("kind", ["adamw", "published"])
def test_slow_weights_move_by_their_share(kind: Any) -> None:
    """Both optimisers are linear in the learning rate at their first step, where no clamp holds."""
    config = OptimizerConfig(kind=kind, learning_rate=1e-2, weight_decay=0.1, velocity_clamp=0)
    steps = []
    for share in (1.0, 0.25):
        torch.manual_seed(0)
        lstm = LSTM(3, 2).double()
        before = {name: weight.detach().clone() for name, weight in lstm.named_parameters()}
        slow = [lstm.layers[0].input_weight]
        optimizer = build_optimizer(config, lstm, slow=slow, share=share)
        for weight in lstm.parameters():
            weight.grad = torch.randn_like(weight)
        optimizer.step()
        steps.append({name: weight.detach() - before[name] for name, weight in lstm.named_parameters()})
    for name, step in steps[0].items():
        expected = step * (0.25 if name.endswith("input_weight") else 1.0)
        torch.testing.assert_close(steps[1][name], expected, rtol=1e-9, atol=1e-12)


def test_clipping_equals_torchs_and_is_each_groups_own() -> None:
    grouped = LSTM(3, 4, num_groups=2)
    peers = [LSTM(3, 4) for _ in range(2)]
    torch.manual_seed(0)
    for parameters in zip(grouped.parameters(), *(peer.parameters() for peer in peers), strict=True):
        gradient = torch.randn_like(parameters[0]) * torch.tensor([1.0, 1e-3]).view(2, *[1] * (parameters[0].dim() - 1))
        parameters[0].grad = gradient.clone()
        for group in range(2):
            parameters[1 + group].grad = gradient[group : group + 1].clone()
    norms = clip_gradients(grouped, 0.5, num_groups=2)
    for group, peer in enumerate(peers):
        expected = torch.nn.utils.clip_grad_norm_(peer.parameters(), 0.5)
        torch.testing.assert_close(norms[group], expected)
        for mine, theirs in zip(grouped.parameters(), peer.parameters(), strict=True):
            torch.testing.assert_close(mine.grad[group], theirs.grad[0])
    before = [parameter.grad.clone() for parameter in grouped.parameters()]
    torch.testing.assert_close(clip_gradients(grouped, 0.0), torch.stack([g.norm() for g in before]).norm()[None])
    assert all(torch.equal(parameter.grad, old) for parameter, old in zip(grouped.parameters(), before, strict=True))


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (2.0, math.nan), (1e9, 1.0)])
def test_divergence_names_step_loss_and_norm(loss: float, norm: float) -> None:
    guard = DivergenceGuard()
    for step, good in enumerate([5.0, 3.0, 900.0]):
        guard.check(step, good, 1.0)
    with pytest.raises(TrainingDiverged, match=re.escape(f"step 3: loss {loss:.6g}, gradient norm {norm:.6g}")):
        guard.check(3, loss, norm)


def test_first_loss_may_be_any_size() -> None:
    DivergenceGuard().check(0, 1e8, 1e5)


def train(model: Composite, optimizer: torch.optim.Optimizer, start: int, stop: int, config: OptimizerConfig) -> None:
    """Steps that draw both their data and dropout from the global generator: what a resume must restore."""
    for step in range(start, stop):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step, 20)
        x, future = torch.randn(4, 3, 5), torch.randn(2, 3, 5)
        optimizer.zero_grad()
        model.losses(model(x, future), x, future).total.backward()
        clip_gradients(model, config.max_grad_norm)
        optimizer.step()


@pytest.mark.parametrize("kind", ["adamw", "published"])
def test_resume_is_bit_exact(kind: str, tmp_path: Path) -> None:
    settings = CompositeSpec(dim=5, num_units=4, num_layers=2, dropout=0.3, num_frames_in=4, num_frames_out=2)
    config = OptimizerConfig(kind=kind, num_warmup_steps=4, weight_decay=0.01)
    uri = str(tmp_path / "state.safetensors")
    torch.manual_seed(0)
    model = Composite(settings)
    optimizer = build_optimizer(config, model)
    train(model, optimizer, 0, 7, config)
    save_training_state(uri, model, optimizer, 7, {"best": 0.5, "names": ["a"]})
    train(model, optimizer, 7, 15, config)

    torch.manual_seed(99)
    resumed = Composite(settings)
    other = build_optimizer(config, resumed)
    step, extra = restore_training_state(uri, resumed, other)
    assert (step, extra) == (7, {"best": 0.5, "names": ["a"]})
    train(resumed, other, step, 15, config)
    for (name, mine), (_, undisturbed) in zip(resumed.named_parameters(), model.named_parameters(), strict=True):
        assert torch.equal(mine, undisturbed), name


def test_state_of_another_model_is_refused(tmp_path: Path) -> None:
    uri = str(tmp_path / "state.safetensors")
    model, other = Composite(CompositeSpec(dim=5, num_units=4)), Composite(CompositeSpec(dim=6, num_units=4))
    config = OptimizerConfig()
    save_training_state(uri, model, build_optimizer(config, model), 0)
    with pytest.raises(CorruptArtifact, match="state of another model"):
        restore_training_state(uri, other, build_optimizer(config, other))


def test_a_flipped_bit_of_a_checkpoint_is_never_another_state(tmp_path: Path) -> None:
    path, config = tmp_path / "state.safetensors", OptimizerConfig()

    def made() -> tuple[Composite, torch.optim.Optimizer]:
        model = Composite(CompositeSpec(dim=5, num_units=4))
        return model, build_optimizer(config, model)

    model, optimizer = made()
    save_training_state(str(path), model, optimizer, 3, {"history": {"1": 0.5}, "smallest_loss": 0.25})
    whole, num_named = path.read_bytes(), 0
    for place in np.random.default_rng(0).integers(0, 8 * len(whole), 60).tolist():
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        other, its_optimizer = made()
        try:
            step, extra = restore_training_state(str(path), other, its_optimizer)
        except (CorruptArtifact, StoreError):
            num_named += 1
            continue
        assert (step, extra) == (3, {"history": {"1": 0.5}, "smallest_loss": 0.25})
        assert all(torch.equal(mine, its) for mine, its in zip(model.parameters(), other.parameters(), strict=True))
    assert num_named > 50


@pytest.mark.parametrize("wrong", [{"learning_rate": 0.0}, {"momentum": 1.0}, {"max_grad_norm": -1.0}])
def test_settings_that_break_a_rule(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        OptimizerConfig(**wrong)  # type: ignore[arg-type]
