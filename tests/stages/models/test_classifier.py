"""Classifiers: softmax at every step, groups that do not touch one another, starting from an encoder."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from pipeline.core.errors import ConfigError
from stages.models.classifier import (
    IGNORED_LABEL,
    Classifier,
    LSTMClassifier,
    SingleFrameClassifier,
    classification_losses,
    clip_probabilities,
)
from stages.models.composite import Composite
from stages.models.config import ClassifierSpec, CompositeSpec
from stages.models.lstm import LSTM
from tests.stages.models.authority import layer_weights, paper_layer, randomize

G, T, B, D, H, C = 3, 4, 5, 6, 7, 4


def make(kind: str, groups: int = G, **changes: Any) -> Classifier:
    if kind == "lstm":
        settings = {"num_units": H, "num_layers": 2, **changes}
        return LSTMClassifier(ClassifierSpec(dim=D, num_classes=C, num_members=groups, **settings)).double()
    hidden = H if kind == "hidden" else 0
    return SingleFrameClassifier(
        ClassifierSpec(model="frame", dim=D, num_classes=C, num_members=groups, num_hidden_units=hidden, **changes)
    ).double()


def clips(groups: int = G) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(groups, T, B, D, generator=generator, dtype=torch.float64)
    return x, torch.randint(C, (groups, B), generator=generator)


def test_lstm_logits_are_the_papers_equations() -> None:
    model = make("lstm")
    assert isinstance(model, LSTMClassifier)
    randomize(model, 5)
    x, _ = clips()
    logits = model(x).detach().numpy()
    for group in range(G):
        inputs = list(x[group].numpy())
        for layer in model.lstm.layers:
            steps, _, _ = paper_layer(inputs, layer_weights(layer, group), np.zeros((B, H)), np.zeros((B, H)))
            inputs = [step["h"] for step in steps]
        weight, bias = (parameter[group].detach().numpy() for parameter in model.output.parameters())
        np.testing.assert_allclose(logits[group], np.stack(inputs) @ weight.T + bias, atol=1e-13)


def test_losses_and_clip_predictions_are_means_over_steps() -> None:
    x, labels = clips()
    logits = make("lstm")(x).detach()
    z = logits.numpy()
    p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(clip_probabilities(logits), p.mean(axis=1), atol=1e-13)
    expected = [np.mean([-np.log(p[g, t, b, labels[g, b]]) for t in range(T) for b in range(B)]) for g in range(G)]
    np.testing.assert_allclose(classification_losses(logits, labels), expected, atol=1e-13)


def test_ignored_clips_add_nothing() -> None:
    x, labels = clips()
    labels[0, 2:] = IGNORED_LABEL
    labels[1] = IGNORED_LABEL
    logits = make("lstm")(x)
    losses = classification_losses(logits, labels)
    torch.testing.assert_close(losses[0], classification_losses(logits[:1, :, :2], labels[:1, :2])[0])
    assert losses[1] == 0.0
    assert torch.autograd.grad(losses.sum(), logits)[0][1].count_nonzero() == 0


@pytest.mark.parametrize("kind", ["lstm", "logistic", "hidden"])
def test_grouped_training_equals_separate_trainings(kind: str) -> None:
    grouped = make(kind)
    x, labels = clips()
    alone = [make(kind, 1) for _ in range(G)]
    for group, model in enumerate(alone):
        model.load_state_dict({name: value[group : group + 1] for name, value in grouped.state_dict().items()})

    def train(model: Classifier, x: Tensor, labels: Tensor) -> None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        for _ in range(5):
            optimizer.zero_grad()
            classification_losses(model(x), labels).sum().backward()
            optimizer.step()

    train(grouped, x, labels)
    for group, model in enumerate(alone):
        train(model, x[group : group + 1], labels[group : group + 1])
        for (name, mine), (_, whole) in zip(model.named_parameters(), grouped.named_parameters(), strict=True):
            torch.testing.assert_close(mine[0], whole[group], atol=1e-10, rtol=0, msg=name)


@pytest.mark.parametrize("kind", ["lstm", "logistic", "hidden"])
def test_shared_frames_serve_every_group_but_draw_their_own_dropout(kind: str) -> None:
    model = make(kind, input_dropout=0.5)
    x, _ = clips(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter[:1].expand_as(parameter).clone())
    logits = model(x)
    assert not torch.equal(logits[0], logits[1])
    model.eval()
    logits = model(x)
    assert logits.shape == (G, T, B, C)
    torch.testing.assert_close(logits[0], logits[1])
    torch.testing.assert_close(logits, model(x.repeat(G, 1, 1, 1)))


def test_logistic_regression_finds_what_sklearn_finds() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(C, size=60)
    frames = rng.normal(size=(60, D)) + np.eye(C, D)[labels]
    penalty = 0.05
    peer = LogisticRegression(C=1 / (2 * penalty * 60), tol=1e-10, max_iter=1000).fit(frames, labels)
    model = make("logistic", 1)
    x, targets = torch.from_numpy(frames)[None, None], torch.from_numpy(labels)[None]
    tight = {"tolerance_grad": 1e-12, "tolerance_change": 1e-15}
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=500, **tight, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = classification_losses(model(x), targets).sum() + penalty * model.output.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        np.testing.assert_allclose(clip_probabilities(model(x))[0], peer.predict_proba(frames), atol=1e-5)


def test_starting_from_an_encoder_copies_into_every_group() -> None:
    encoder = Composite(CompositeSpec(dim=D, num_units=H, num_layers=2)).double()
    randomize(encoder, 1)
    model = make("lstm")
    assert isinstance(model, LSTMClassifier)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.start_from(encoder)
    for name, value in encoder.encoder.named_parameters():
        mine = dict(model.lstm.named_parameters())[name]
        assert torch.equal(mine, value.expand_as(mine))
    assert torch.equal(model.output.weight, before["output.weight"])
    x, _ = clips()
    torch.testing.assert_close(model.lstm(x)[1][1].c[2], encoder.encode(x[2])[1].c[0])
    assert isinstance(encoder.encoder, LSTM)


def test_an_encoder_of_another_size_is_refused() -> None:
    model = make("lstm")
    assert isinstance(model, LSTMClassifier)
    with pytest.raises(ConfigError, match="make them equal"):
        model.start_from(Composite(CompositeSpec(dim=D, num_units=H + 1, num_layers=2)))


def test_wrong_settings_and_frames_are_named() -> None:
    with pytest.raises(ConfigError, match="num_classes is 1"):
        ClassifierSpec(model="frame", dim=D, num_classes=1)
    with pytest.raises(ConfigError, match="dropout"):
        ClassifierSpec(dim=D, num_classes=C, dropout=1.5)
    with pytest.raises(ValueError, match="frames have 9 dimensions; this classifier reads 6"):
        make("lstm")(torch.zeros(1, T, B, 9, dtype=torch.float64))
