"""Gradients that are captured once and replayed, rehearsed on CPU: what a graph overwrites, and where it lies."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.core.stage import Context, Resources
from stages.models.config import FeedbackConfig
from stages.pretrain import PretrainConfig, pretrain
from stages.pretraining import loop
from stages.pretraining.config import WeightsConfig
from stages.pretraining.cuda_graph import Capture, CapturedGradients, Gradients, capture_on_cuda
from tests.stages.made_configs import changed
from tests.stages.made_percepts import make_percepts


@dataclass
class Rehearsal:
    """Runs the function again at each replay, and puts what it makes where it lay at the capture, as a graph does."""

    parameters: list[nn.Parameter]
    num_captures: int = 0
    num_replays: int = 0

    def __call__(self, function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        generator = torch.get_rng_state()
        values = function()
        torch.set_rng_state(generator)
        gradients = [parameter.grad for parameter in self.parameters]
        self.num_captures += 1

        def replay() -> None:
            self.num_replays += 1
            made = function()
            with torch.no_grad():
                values.copy_(made)
                for kept, parameter in zip(gradients, self.parameters, strict=True):
                    if kept is not None and parameter.grad is not None:
                        kept.copy_(parameter.grad)

        return replay, values


def test_replays_see_new_batches_and_new_weights_and_overwrite_gradients() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    parameters = list(model.parameters())

    def gradients(x: Tensor, weight: Tensor | None = None) -> Tensor:
        loss = (model(x).square() * (1.0 if weight is None else weight)).sum()
        loss.backward()
        return loss.detach()[None]

    capture = Rehearsal(parameters)
    captured = CapturedGradients(gradients, parameters, capture)
    for number in range(4):
        x, weight = torch.randn(5, 3), torch.rand(5, 2) if number % 2 else None
        values = captured(x, weight).clone()
        got = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
        model.zero_grad()
        assert torch.equal(values, gradients(x, weight))
        for ours, parameter in zip(got, parameters, strict=True):
            assert torch.equal(ours, parameter.grad)
        with torch.no_grad():
            for parameter in parameters:
                parameter.mul_(1.1)
    assert (capture.num_captures, capture.num_replays) == (2, 4), "with and without the second input"
    captured(torch.randn(4, 3))
    assert capture.num_captures == 3, "another shape"


def trained(directory: Path, inputs: dict[str, Any], **settings: Any) -> tuple[bytes, str]:
    """Weights and history of a training in micro-batches, with an average, dropout and own frames that are read."""
    config = changed(
        PretrainConfig(),
        num_units=12,
        num_layers=2,
        num_frames_in=6,
        num_frames_out=4,
        predict_conditional=True,
        dropout=0.2,
        window_stride=2,
        validation_fraction=0.2,
        batch_size=5,
        num_steps=12,
        validate_every_steps=6,
        checkpoint_every_steps=4,
        feedback=FeedbackConfig(probability=0.5, begin=0.3, end=0.6, noise_std=0.1),
        weights=WeightsConfig(average_decay=0.9),
    )
    context = Context.for_test(directory, resources=Resources(max_sequences_per_worker=2))
    encoder = pretrain(config, context, **inputs)
    return Path(encoder.path("model.safetensors")).read_bytes(), Path(encoder.path("history.json")).read_text()


def test_the_loop_learns_the_same_from_replayed_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    percepts, statistics = make_percepts(tmp_path / "store", {"unlabelled": 20, "test": 5})
    inputs = {"percepts": percepts, "statistics": statistics}
    expected = trained(tmp_path / "eager", inputs)
    rehearsals: list[Rehearsal] = []

    def rehearsed(gradients: Gradients, parameters: Iterable[nn.Parameter], capture: Capture) -> CapturedGradients:
        rehearsals.append(Rehearsal(list(parameters)))
        return CapturedGradients(gradients, rehearsals[-1].parameters, rehearsals[-1])

    monkeypatch.setattr(loop, "capture_for", lambda device, world_size: capture_on_cuda)
    monkeypatch.setattr(loop, "CapturedGradients", rehearsed)
    assert trained(tmp_path / "replayed", inputs) == expected
    assert [rehearsal.num_replays for rehearsal in rehearsals] == [12]
    assert rehearsals[0].num_captures == 2, "one with frames of its own, one without"
