"""The cell against a NumPy transcription of the paper, finite differences, and torch.nn.LSTM."""

import numpy as np
import pytest
import torch

from stages.models.lstm import LSTM, LayerState, State
from tests.stages.models.authority import check_gradients, layer_weights, paper_layer, randomize

G, T, B, D, H = 2, 5, 3, 4, 6


def random_state(num_layers: int, seed: int, *, groups: int = G, requires_grad: bool = False) -> State:
    generator = torch.Generator().manual_seed(seed)

    def draw() -> torch.Tensor:
        return torch.randn(groups, B, H, generator=generator, dtype=torch.float64).requires_grad_(requires_grad)

    return tuple(LayerState(draw(), draw()) for _ in range(num_layers))


def random_inputs(num_steps: int, *, groups: int = G, seed: int = 7) -> torch.Tensor:
    return torch.randn(groups, num_steps, B, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize(
    ("num_with_input", "given_state"), [(T, False), (T, True), (T - 1, True), (2, True), (0, True)]
)
def test_forward_is_the_papers_equations(num_layers: int, num_with_input: int, given_state: bool) -> None:
    lstm = LSTM(D if num_with_input else 0, H, num_layers, num_groups=G).double()
    randomize(lstm, 1)
    x = random_inputs(num_with_input) if num_with_input else None
    state = random_state(num_layers, 2) if given_state else None
    h, final = lstm(x, state, num_steps=T)
    traces, traced_final = lstm.trace(x, state, num_steps=T)
    for group in range(G):
        blind = [None] * (T - num_with_input)
        inputs = blind + ([] if x is None else [step.numpy() for step in x[group]])
        for m, layer in enumerate(lstm.layers):
            start = [part[group].numpy() for part in state[m]] if state else [np.zeros((B, H))] * 2
            steps, last_h, last_c = paper_layer(inputs, layer_weights(layer, group), *start)
            np.testing.assert_allclose(final[m].h[group].detach(), last_h, atol=1e-14)
            np.testing.assert_allclose(final[m].c[group].detach(), last_c, atol=1e-14)
            for name in "ifaoch":
                expected = np.stack([step[name] for step in steps])
                np.testing.assert_allclose(getattr(traces[m], name)[group], expected, atol=1e-14, err_msg=name)
            inputs = [step["h"] for step in steps]
        np.testing.assert_allclose(h[group].detach(), np.stack(inputs), atol=1e-14)
    for layer, traced in zip(final, traced_final, strict=True):
        assert torch.equal(layer.h, traced.h)
        assert torch.equal(layer.c, traced.c)


@pytest.mark.parametrize(
    ("num_with_input", "given_state"), [(T, False), (T, True), (T - 1, False), (T - 1, True), (0, True)]
)
def test_gradients_are_finite_differences(num_with_input: int, given_state: bool) -> None:
    lstm = LSTM(D if num_with_input else 0, H, 2, num_groups=G).double()
    randomize(lstm, 3)
    x = random_inputs(num_with_input).requires_grad_() if num_with_input else None
    state = random_state(2, 4, requires_grad=True) if given_state else None
    generator = torch.Generator().manual_seed(5)
    weights = [torch.randn(G, T, B, H, generator=generator, dtype=torch.float64)]
    weights += [torch.randn(G, B, H, generator=generator, dtype=torch.float64) for _ in range(4)]

    def loss() -> torch.Tensor:
        h, final = lstm(x, state, num_steps=T)
        outputs = [h, *(part for layer in final for part in layer)]
        return sum((w * y).sum() for w, y in zip(weights, outputs, strict=True))

    tensors = dict(lstm.named_parameters())
    if x is not None:
        tensors["x"] = x
    if state is not None:
        tensors |= {f"state{m}{name}": getattr(layer, name) for m, layer in enumerate(state) for name in "hc"}
    check_gradients(loss, tensors)


@pytest.mark.parametrize("output", ["h", "final_h", "final_c"])
def test_each_output_alone_carries_its_gradient(output: str) -> None:
    lstm = LSTM(D, H).double()
    randomize(lstm, 3)
    x = random_inputs(T, groups=1)

    def loss() -> torch.Tensor:
        h, final = lstm(x)
        return {"h": h, "final_h": final[0].h, "final_c": final[0].c}[output].square().sum()

    check_gradients(loss, dict(lstm.named_parameters()))


def test_equals_torch_lstm_without_peepholes() -> None:
    ours, theirs = LSTM(D, H, 2), torch.nn.LSTM(D, H, 2)
    with torch.no_grad():
        for m, layer in enumerate(ours.layers):
            layer.bias.normal_()
            getattr(theirs, f"weight_ih_l{m}").copy_(layer.input_weight[0])
            getattr(theirs, f"weight_hh_l{m}").copy_(layer.recurrent_weight[0])
            getattr(theirs, f"bias_ih_l{m}").copy_(layer.bias[0])
            getattr(theirs, f"bias_hh_l{m}").zero_()
    x = random_inputs(T, groups=1).float()
    state = tuple(LayerState(layer.h.float(), layer.c.float()) for layer in random_state(2, 9, groups=1))
    h, final = ours(x, state)
    peer_state = torch.cat([s.h for s in state]), torch.cat([s.c for s in state])
    peer_h, (peer_last_h, peer_last_c) = theirs(x[0], peer_state)
    torch.testing.assert_close(h[0], peer_h, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(torch.cat([s.h for s in final]), peer_last_h, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(torch.cat([s.c for s in final]), peer_last_c, atol=2e-6, rtol=1e-5)
    (h.square().sum() + final[0].c.sum()).backward()
    (peer_h.square().sum() + peer_last_c[0].sum()).backward()
    for m, layer in enumerate(ours.layers):
        for mine, name in [("input_weight", "weight_ih"), ("recurrent_weight", "weight_hh"), ("bias", "bias_ih")]:
            peer = getattr(theirs, f"{name}_l{m}").grad
            torch.testing.assert_close(getattr(layer, mine).grad[0], peer, atol=2e-5, rtol=1e-4, msg=f"{name}_l{m}")


def test_grouped_equals_separate_models() -> None:
    grouped = LSTM(D, H, 2, num_groups=3).double()
    randomize(grouped, 11)
    x = random_inputs(T, groups=3)
    h, _ = grouped(x)
    h.square().sum().backward()
    for group in range(3):
        alone = LSTM(D, H, 2).double()
        alone.load_state_dict({name: value[group : group + 1] for name, value in grouped.state_dict().items()})
        h_alone, _ = alone(x[group : group + 1])
        h_alone.square().sum().backward()
        torch.testing.assert_close(h[group], h_alone[0], atol=1e-13, rtol=0)
        for (name, parameter), (_, whole) in zip(alone.named_parameters(), grouped.named_parameters(), strict=True):
            torch.testing.assert_close(parameter.grad[0], whole.grad[group], atol=1e-12, rtol=1e-12, msg=name)


def test_shared_inputs_serve_every_group() -> None:
    lstm = LSTM(D, H, num_groups=3).double()
    x = random_inputs(T, groups=1)
    shared, _ = lstm(x)
    copied, _ = lstm(x.repeat(3, 1, 1, 1))
    torch.testing.assert_close(shared, copied, atol=1e-14, rtol=0)


def test_steps_one_by_one_equal_the_whole_sequence() -> None:
    lstm = LSTM(D, H, 2, num_groups=G).double()
    randomize(lstm, 13)
    x = random_inputs(T)
    whole, _ = lstm(x)
    state = None
    for t in range(T):
        step, state = lstm(x[:, t : t + 1], state)
        torch.testing.assert_close(step[:, 0], whole[:, t], atol=1e-14, rtol=0)


def test_dropout_spares_recurrent_connections() -> None:
    torch.manual_seed(0)
    one, two = LSTM(D, H, 1, dropout=0.9), LSTM(D, H, 2, dropout=0.9)
    x = random_inputs(T, groups=1).float()
    assert torch.equal(one(x)[0], one(x)[0]), "one layer has no connection that dropout may touch"
    assert not torch.equal(two(x)[0], two(x)[0])
    two.eval()
    assert torch.equal(two(x)[0], two(x)[0])


def test_start_is_the_papers() -> None:
    torch.manual_seed(0)
    lstm = LSTM(900, 100, 1, forget_bias=1.5)
    layer = lstm.layers[0]
    for weight, fan_in in [(layer.input_weight, 900), (layer.recurrent_weight, 100)]:
        bound = fan_in**-0.5
        assert weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert not layer.peephole.any()
    assert layer.bias[0].view(4, 100).unique(dim=1).flatten().tolist() == [0.0, 1.5, 0.0, 0.0]


def test_bfloat16_autocast_stays_close_and_keeps_c_precise() -> None:
    torch.manual_seed(1)
    lstm = LSTM(32, 24, 2)
    x = torch.randn(1, 12, 8, 32)
    exact, _ = lstm(x)
    exact.square().sum().backward()
    expected = {name: parameter.grad.clone() for name, parameter in lstm.named_parameters()}
    lstm.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        h, final = lstm(x)
        loss = h.float().square().sum()
        traces, _ = lstm.trace(x)
    loss.backward()
    assert h.dtype == torch.bfloat16
    assert torch.equal(traces[-1].h, h)
    assert final[0].c.dtype == torch.float32
    torch.testing.assert_close(h.float(), exact, atol=0.02, rtol=0.05)
    for name, parameter in lstm.named_parameters():
        assert parameter.grad.dtype == torch.float32
        angle = torch.nn.functional.cosine_similarity(parameter.grad.flatten(), expected[name].flatten(), dim=0)
        assert angle > 0.999, name


def test_wrong_inputs_are_named() -> None:
    lstm = LSTM(D, H).double()
    with pytest.raises(ValueError, match="5 dimensions; this LSTM reads 4"):
        lstm(torch.zeros(1, 2, B, 5, dtype=torch.float64))
    with pytest.raises(ValueError, match="the inputs cover 5 steps"):
        lstm(random_inputs(5, groups=1), num_steps=3)
