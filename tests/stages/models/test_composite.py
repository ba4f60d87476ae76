"""The six models: parameter counts, losses, gradients through both decoders, open loop."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.core.errors import ConfigError
from stages.models.composite import Composite
from stages.models.config import CompositeSpec
from stages.models.lstm import LayerState
from tests.stages.models.authority import check_gradients, layer_weights, paper_layer, randomize, sigmoid

T_IN, T_OUT, B, D, H = 4, 3, 2, 5, 6

SIX: list[dict[str, Any]] = [
    {"decoders": "autoencoder"},
    {"decoders": "autoencoder", "reconstruct_conditional": True},
    {"decoders": "future"},
    {"decoders": "future", "predict_conditional": True},
    {"decoders": "composite"},
    {"decoders": "composite", "reconstruct_conditional": True, "predict_conditional": True},
]
BY_LOSS = [
    *((loss, kind) for loss in ("bernoulli", "gaussian") for kind in SIX),
    ("gaussian", SIX[5] | {"residual": True}),
    ("gaussian", SIX[4] | {"residual": True, "autoregressive": True}),
    ("gaussian", SIX[5] | {"residual": True, "autoregressive": True}),
]


def small(num_layers: int = 2, loss: str = "bernoulli", **changes: Any) -> Composite:
    config = CompositeSpec(
        dim=D, num_units=H, num_layers=num_layers, num_frames_in=T_IN, num_frames_out=T_OUT, loss=loss, **changes
    )
    model = Composite(config).double().eval()
    randomize(model, 21)
    return model


def frames(num_steps: int, seed: int) -> Tensor:
    return torch.rand(num_steps, B, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("num_layers", "conditional", "expected"),
    [(2, False, 201_420_800), (1, False, 100_714_496), (2, True, 268_529_664)],
)
def test_parameter_counts_of_the_paper(num_layers: int, conditional: bool, expected: int) -> None:
    config = CompositeSpec(
        dim=4096, num_units=2048, num_layers=num_layers,
        reconstruct_conditional=conditional, predict_conditional=conditional,
    )  # fmt: skip
    with torch.device("meta"):
        model = Composite(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def transcribed(model: Composite, x: Tensor, future: Tensor) -> dict[str, tuple[np.ndarray, float]]:
    """Each decoder's outputs (before the loss's nonlinearity) and loss, in NumPy, teacher-forced."""
    starts = []
    inputs: list[Any] = list(x.numpy())
    for layer in model.encoder.layers:
        steps, h, c = paper_layer(inputs, layer_weights(layer), np.zeros((B, H)), np.zeros((B, H)))
        inputs = [step["h"] for step in steps]
        starts.append((h, c))
    results = {}
    for name, decoder, target in [
        ("reconstruction", model.reconstruct_decoder, x.numpy()[::-1]),
        ("prediction", model.predict_decoder, future.numpy()),
    ]:
        if decoder is None:
            continue
        inputs = [None, *target[:-1]] if decoder.conditional else [None] * len(target)
        for layer, (h, c) in zip(decoder.lstm.layers, starts, strict=True):
            steps, _, _ = paper_layer(inputs, layer_weights(layer), h, c)
            inputs = [step["h"] for step in steps]
        weight, bias = (parameter.detach().numpy() for parameter in decoder.output.parameters())
        out = np.stack([h @ weight.T + bias for h in inputs]) + (x[-1].numpy() if model.config.residual else 0)
        if model.config.autoregressive and name == "prediction":
            weight_PS = decoder.autoregression.weight.detach().numpy()
            for p, s in np.ndindex(weight_PS.shape):
                out[p] += weight_PS[p, s] * (x[s] - (x[-1] if s + 1 < T_IN else 0)).numpy()
        if model.config.loss == "bernoulli":
            p = sigmoid(out)
            errors = -(target * np.log(p) + (1 - target) * np.log(1 - p))
        else:
            errors = (out - target) ** 2
        results[name] = (out, errors.sum(axis=2).mean())
    return results


@pytest.mark.parametrize(("loss", "kind"), BY_LOSS)
def test_outputs_and_losses_are_the_papers(kind: dict[str, Any], loss: str) -> None:
    model = small(loss=loss, **kind)
    x, future = frames(T_IN, 1), frames(T_OUT, 2)
    outputs = model(x, future)
    losses = model.losses(outputs, x, future)
    expected = transcribed(model, x, future)
    for name in ("reconstruction", "prediction"):
        if name in expected:
            np.testing.assert_allclose(getattr(outputs, name).detach(), expected[name][0], atol=1e-13)
            assert getattr(losses, name).item() == pytest.approx(expected[name][1], rel=1e-12)
        else:
            assert getattr(outputs, name) is None
            assert getattr(losses, name) is None
    assert losses.total.item() == pytest.approx(sum(value for _, value in expected.values()), rel=1e-12)


@pytest.mark.parametrize(("loss", "kind"), BY_LOSS)
def test_gradients_of_every_parameter_are_finite_differences(kind: dict[str, Any], loss: str) -> None:
    model = small(loss=loss, **kind)
    x, future = frames(T_IN, 1), frames(T_OUT, 2)
    check_gradients(lambda: model.losses(model(x, future), x, future).total, dict(model.named_parameters()), most=4)


@pytest.mark.parametrize("decoder", ["reconstruct_decoder", "predict_decoder"])
def test_each_decoder_sends_its_gradient_into_the_encoders_h_and_c(decoder: str) -> None:
    """The published code keeps only one decoder's gradient of the encoder's final cell."""
    model = small(decoders="composite")
    encoded = model.encode(frames(T_IN, 1))
    state = tuple(LayerState(*(part.detach().requires_grad_() for part in layer)) for layer in encoded)
    target = frames(T_OUT, 2)
    leaves = {f"layer {m} {name}": getattr(layer, name) for m, layer in enumerate(state) for name in "hc"}
    check_gradients(lambda: getattr(model, decoder)(state, target, target).square().sum(), leaves)


def test_both_decoders_gradients_add_in_the_encoder() -> None:
    model = small(decoders="composite")
    x, future = frames(T_IN, 1), frames(T_OUT, 2)

    def encoder_gradients(part: str) -> list[Tensor]:
        model.zero_grad()
        getattr(model.losses(model(x, future), x, future), part).backward()
        return [parameter.grad.clone() for parameter in model.encoder.parameters()]

    parts = [encoder_gradients(part) for part in ("reconstruction", "prediction", "total")]
    for from_reconstruction, from_prediction, whole in zip(*parts, strict=True):
        assert from_reconstruction.abs().max() > 1e-6
        torch.testing.assert_close(from_reconstruction + from_prediction, whole)


@pytest.mark.parametrize("loss", ["bernoulli", "gaussian"])
def test_conditional_open_loop_feeds_means_back_once(loss: str) -> None:
    model = small(loss=loss, predict_conditional=True)
    x = frames(T_IN, 1)
    state = model.encode(x)
    decoder = model.predict_decoder
    assert decoder is not None
    starts = [(layer.h[0].detach().numpy(), layer.c[0].detach().numpy()) for layer in state]
    weight, bias = (parameter.detach().numpy() for parameter in decoder.output.parameters())
    expected: list[np.ndarray] = []
    for _ in range(7):
        value: Any = expected[-1] if expected else None
        for m, layer in enumerate(decoder.lstm.layers):
            _, h, c = paper_layer([value], layer_weights(layer), *starts[m])
            starts[m], value = (h, c), h
        out = value @ weight.T + bias
        expected.append(sigmoid(out) if loss == "bernoulli" else out)
    got, traces = model.extrapolate_with_traces(x, 7)
    np.testing.assert_allclose(got, np.stack(expected), atol=1e-13)
    assert [tuple(trace.h.shape) for trace in traces] == [(1, 7, B, H)] * 2
    torch.testing.assert_close(model.means(decoder.output(traces[-1].h[0])), got)


def test_unconditional_open_loop_is_what_training_sees() -> None:
    model = small()
    x, future = frames(T_IN, 1), frames(T_OUT, 2)
    outputs = model(x, future)
    torch.testing.assert_close(model.open_loop_means(x).prediction, outputs.prediction.sigmoid())
    torch.testing.assert_close(model.open_loop_means(x).reconstruction, outputs.reconstruction.sigmoid())
    torch.testing.assert_close(model.open_loop_means(x, 100).prediction[:T_OUT], outputs.prediction.sigmoid())


def test_teacher_forcing_equals_open_loop_on_its_own_output() -> None:
    model = small(predict_conditional=True)
    x = frames(T_IN, 1)
    own = model.open_loop_means(x, T_OUT).prediction
    torch.testing.assert_close(model(x, own).prediction.sigmoid(), own)


def test_both_decoders_run_open_loop_from_one_encoding() -> None:
    model = small(decoders="composite", predict_conditional=True)
    x = frames(T_IN, 1)
    reconstruction, _ = model.open_loop_means(x, 7)
    torch.testing.assert_close(reconstruction, model.open_loop_means(x).reconstruction)
    assert model.open_loop(x, 0).prediction is None
    assert small(decoders="autoencoder").open_loop(x).prediction is None
    assert small(decoders="future").open_loop(x).reconstruction is None


def test_an_untrained_residual_model_copies_the_last_frame() -> None:
    config = CompositeSpec(dim=D, num_units=H, num_frames_in=T_IN, num_frames_out=T_OUT, residual=True)
    model, x = Composite(config), frames(T_IN, 1).float()
    reconstruction, prediction = model.open_loop(x)
    assert torch.equal(prediction, x[-1:].expand(T_OUT, B, D))
    assert torch.equal(reconstruction, x[-1:].expand(T_IN, B, D))


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("autoregressive", [False, True])
def test_a_residual_decoder_runs_on_from_the_last_frame(conditional: bool, autoregressive: bool) -> None:
    model = small(loss="gaussian", predict_conditional=conditional, residual=True, autoregressive=autoregressive)
    x = frames(T_IN, 1)
    own = model.open_loop_means(x).prediction
    torch.testing.assert_close(model(x, own).prediction, own)


def test_an_untrained_autoregressive_model_is_the_least_squares_forecast() -> None:
    """Dimensions share the weights, each frame ahead has its own: a regression on T_IN columns, by NumPy."""
    config = CompositeSpec(
        dim=D, num_units=H, num_frames_in=T_IN, num_frames_out=T_OUT, residual=True, autoregressive=True
    )
    model = Composite(config).double()
    sequences = [frames(T_IN + T_OUT, seed).cumsum(0) for seed in range(40)]
    model.fit_autoregression(iter(sequences))

    def columns(x: Tensor) -> Tensor:
        return torch.cat([x[: T_IN - 1] - x[T_IN - 1], x[T_IN - 1 : T_IN]])

    past = np.concatenate([columns(x).flatten(1).T.numpy() for x in sequences])
    ahead = np.concatenate([(x[T_IN:] - x[T_IN - 1]).flatten(1).T.numpy() for x in sequences])
    ridge = np.diag(np.sqrt(1e-3 * np.square(past).sum(0)))
    weight, *_ = np.linalg.lstsq(np.vstack([past, ridge]), np.vstack([ahead, np.zeros((T_IN, T_OUT))]), rcond=None)
    x = frames(T_IN, 99)
    expected = x[-1] + torch.einsum("sbd,sp->pbd", columns(x), torch.from_numpy(weight))
    torch.testing.assert_close(model.open_loop_means(x).prediction, expected)
    # Beyond what was trained the last forecast stays; of a shorter past only the weights of its frames count.
    torch.testing.assert_close(model.open_loop_means(x, T_OUT + 2).prediction[T_OUT:], expected[-1:].expand(2, B, D))
    torch.testing.assert_close(model.open_loop_means(x[-1:]).prediction[0], x[-1] * (1 + weight[-1, 0]))


def test_a_missing_decoder_is_named() -> None:
    with pytest.raises(ValueError, match="autoencoder has no future decoder"):
        small(decoders="autoencoder").extrapolate_with_traces(frames(T_IN, 1), 7)
    with pytest.raises(ValueError, match="give forward"):
        small()(frames(T_IN, 1))


@pytest.mark.parametrize(
    "wrong",
    [{"num_units": 0}, {"dropout": 1.0}, {"decoders": "autoencoder", "predict_conditional": True},
     {"decoders": "future", "reconstruct_conditional": True}, {"loss": "bernoulli", "residual": True},
     {"autoregressive": True}],
)  # fmt: skip
def test_settings_that_break_a_rule(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        CompositeSpec(dim=D, **wrong)


def test_bfloat16_autocast_trains() -> None:
    model = small(loss="gaussian", reconstruct_conditional=True).float().train()
    x, future = frames(T_IN, 1).float(), frames(T_OUT, 2).float()
    exact = model.losses(model(x, future), x, future).total
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.losses(model(x, future), x, future).total
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("conditional", [False, True])
def test_bfloat16_autocast_is_close_in_open_loop(conditional: bool) -> None:
    """Trainings with feedback validate so: a conditional decoder reads frames in the dtype of its own outputs."""
    model = small(loss="gaussian", reconstruct_conditional=conditional, predict_conditional=conditional).float().eval()
    x, future = frames(T_IN, 1).float(), frames(T_OUT, 2).float()
    exact = model.losses(model.open_loop(x), x, future).total
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.losses(model.open_loop(x), x, future).total
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)
