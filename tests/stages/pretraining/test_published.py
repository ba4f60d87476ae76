"""The published training, by its updates against a transcription of the authors' rule that shares nothing with ours.

Shapes: T frames, B sequences, D frame dimensions, H units.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from pipeline.core.stage import Context
from stages.datasets.dataset_factories import PerceptsFactory
from stages.finetuning.arm import EnsembleTrainingConfig
from stages.finetuning.ensemble_training import train_ensemble
from stages.models.classifier import IGNORED_LABEL, LSTMClassifier
from stages.models.composite import Composite
from stages.models.config import ClassifierConfig, CompositeConfig
from stages.pretrain import PretrainConfig, pretrain
from stages.pretraining.config import OptimizerConfig, TrainingConfig
from stages.pretraining.published import draw_published_weights_
from tests.stages.made_percepts import DIM, make_percepts

T_IN, T_OUT, H, B = 4, 3, 5, 6
RATE, MOMENTUM, L2 = 1e-4, 0.9, 1e-2
"""The L2 is a hundred times the published one, so that an update shows it."""


def steps_of(weights: dict[str, Tensor], name: str, h: Tensor, c: Tensor, inputs: list[Tensor | None]) -> list[Tensor]:
    """Runs one layer by section 2.1's equations; returns h of every step, and the last c."""
    recurrent, bias = weights[f"{name}.recurrent_weight"][0], weights[f"{name}.bias"][0]
    peepholes = weights[f"{name}.peephole"][0]
    outputs = []
    for x in inputs:
        gates = h @ recurrent.T + bias
        if x is not None:
            gates = gates + x @ weights[f"{name}.input_weight"][0].T
        i, f, a, o = gates.split(H, dim=1)
        i, f, a = (i + peepholes[0] * c).sigmoid(), (f + peepholes[1] * c).sigmoid(), a.tanh()
        c = f * c + i * a
        o = (o + peepholes[2] * c).sigmoid()
        h = o * c.tanh()
        outputs.append(h)
    return [*outputs, c]


def authors_cost(weights: dict[str, Tensor], x_TBD: Tensor, *, conditional: bool, bernoulli: bool) -> Tensor:
    """Sums over sequences, frames and dimensions: cross-entropy, or half the squared error."""
    zero = torch.zeros(x_TBD.shape[1], H, dtype=torch.float64)
    *hs, c = steps_of(weights, "encoder.layers.0", zero, zero, list(x_TBD[:T_IN]))
    cost = torch.zeros((), dtype=torch.float64)
    for decoder, targets, reads in (
        ("reconstruct_decoder", list(x_TBD[:T_IN].flip(0)), False),
        ("predict_decoder", list(x_TBD[T_IN:]), conditional),
    ):
        inputs = [None, *targets[:-1]] if reads else [None] * len(targets)
        *tops, _ = steps_of(weights, f"{decoder}.lstm.layers.0", hs[-1], c, inputs)
        for top, target in zip(tops, targets, strict=True):
            output = top @ weights[f"{decoder}.output.weight"].T + weights[f"{decoder}.output.bias"]
            if bernoulli:
                probability = output.sigmoid()
                cost = cost - (target * probability.log() + (1 - target) * (1 - probability).log()).sum()
            else:
                cost = cost + 0.5 * (output - target).square().sum()
    return cost


def updated(weights: dict[str, Tensor], velocities: dict[str, Tensor], clamp: float) -> dict[str, Tensor]:
    """Returns the weights after a step, and writes its velocities; the first ones are zero."""
    moved = {}
    for name, weight in weights.items():
        assert weight.grad is not None
        decay = 0.0 if name.endswith("bias") else L2
        velocity = MOMENTUM * velocities.get(name, torch.zeros(())) - RATE * (weight.grad + decay * weight.detach())
        velocities[name] = velocity.clamp(-clamp, clamp) if clamp else velocity
        moved[name] = weight.detach() + velocities[name]
    return moved


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    percepts, statistics = make_percepts(tmp_path_factory.mktemp("store"), {"unlabelled": 8})
    return {"percepts": percepts, "statistics": statistics}


@pytest.mark.parametrize("clamp", [0.0, 1e-4])
@pytest.mark.parametrize(("conditional", "loss"), [(False, "gaussian"), (True, "gaussian"), (False, "bernoulli")])
def test_updates_are_the_authors(
    tmp_path: Path, inputs: dict[str, Any], conditional: bool, loss: Any, clamp: float
) -> None:
    config = PretrainConfig(
        model=CompositeConfig(
            num_units=H, num_frames_in=T_IN, num_frames_out=T_OUT, predict_conditional=conditional, loss=loss
        ),
        training=TrainingConfig(
            batch_size=B,
            num_steps=2,  # the second shows the momentum
            initial_weights="published",
            optimizer=OptimizerConfig(
                kind="published", learning_rate=RATE, final_fraction=1.0, num_warmup_steps=0, weight_decay=L2,
                velocity_clamp=clamp,
            ),
        ),
        validation_fraction=0.3,
    )  # fmt: skip
    if loss == "bernoulli":
        config = replace(config, transform=replace(config.transform, kind="squashed"))
    trained = pretrain(config, Context.for_test(tmp_path), **inputs).load().state_dict()
    factory = PerceptsFactory(
        **inputs, parts=config.parts, num_frames=T_IN + T_OUT, stride=config.window_stride,
        validation_fraction=0.3, seed=0, transform_config=config.transform,
    )  # fmt: skip
    source = factory(print)
    torch.manual_seed(0)
    model = Composite(config.model.spec(DIM))
    draw_published_weights_(model)
    first = {name: value.double() for name, value in model.state_dict().items()}
    expected = first
    velocities: dict[str, Tensor] = {}
    for number in range(2):
        x_TBD = torch.from_numpy(np.ascontiguousarray(source.batch(number, B))).double()
        weights = {name: value.clone().requires_grad_() for name, value in expected.items()}
        authors_cost(weights, x_TBD, conditional=conditional, bernoulli=loss == "bernoulli").backward()
        expected = updated(weights, velocities, clamp)
    assert trained.keys() == expected.keys()
    for name, value in trained.items():
        step, authors_step = value.double() - first[name], expected[name] - first[name]
        torch.testing.assert_close(
            step, authors_step, rtol=2e-3, atol=2e-3 * authors_step.abs().max().item() + 1e-8
        )  # an ulp


def test_first_weights_lie_within_the_published_bounds() -> None:
    torch.manual_seed(0)
    model = Composite(CompositeConfig(num_units=64, num_layers=2, forget_bias=1.0).spec(32))
    draw_published_weights_(model)
    for name, weight in model.named_parameters():
        bound = 0.0 if name.endswith("bias") else 0.1 if name.endswith("peephole") else 0.01
        assert weight.abs().max() <= bound
        assert weight.detach().std().item() == pytest.approx(bound / 3**0.5, rel=0.15)


def test_a_classifier_is_trained_by_the_sum_over_steps_and_clips() -> None:
    """Two classifiers side by side, of which one has a clip less; no momentum, no clamp."""
    config = EnsembleTrainingConfig(
        optimizer=OptimizerConfig(
            kind="published", learning_rate=1e-4, momentum=0.0, velocity_clamp=0.0, weight_decay=1e-5,
            num_warmup_steps=0, final_fraction=1.0,
        )
    )  # fmt: skip
    torch.manual_seed(0)
    spec = ClassifierConfig(num_units=H).spec(dim=DIM, num_classes=3, num_members=2)
    classifier = LSTMClassifier(spec)
    draw_published_weights_(classifier)
    layer = classifier.lstm.layers[0]
    assert layer.input_weight.abs().max() <= 0.001
    assert not layer.peephole.any()
    layer.peephole.requires_grad_(False)
    x_GTBD, labels_GB = torch.randn(2, 16, 4, DIM), torch.tensor([[0, 1, 2, 1], [2, 0, 1, IGNORED_LABEL]])
    before = {name: value.clone().double() for name, value in classifier.state_dict().items()}

    class OneStep:
        def __len__(self) -> int:
            return 1

        def step(self, number: int) -> tuple[Tensor, Tensor]:
            return x_GTBD, labels_GB

    train_ensemble(classifier, OneStep(), config)
    for member, num_clips in ((0, 4), (1, 3)):
        weights = {name: value[member : member + 1].clone().requires_grad_() for name, value in before.items()}
        zero = torch.zeros(num_clips, H, dtype=torch.float64)
        frames = list(x_GTBD[member, :, :num_clips].double())
        *tops, _ = steps_of(weights, "lstm.layers.0", zero, zero, frames)
        cost = torch.zeros((), dtype=torch.float64)
        for top in tops:
            logits = top @ weights["output.weight"][0].T + weights["output.bias"][0]
            cost = cost - log_softmax(logits, -1)[range(num_clips), labels_GB[member, :num_clips]].sum()
        cost.backward()
        for name, value in classifier.state_dict().items():
            start, gradient = before[name][member], weights[name].grad
            assert gradient is not None
            decay = 0.0 if name.endswith("bias") else 1e-5
            expected = torch.zeros_like(start) if name.endswith("peephole") else -1e-4 * (gradient[0] + decay * start)
            step = value[member].double() - start
            torch.testing.assert_close(step, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item() + 1e-9)
