"""Layers and stacks side by side: in any chunks, they compute what one layer after the other computes."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from stages.models import stack
from stages.models.lstm import LSTM, LayerState, run_together
from tests.stages.models.authority import randomize

G, B, D, H = 2, 3, 4, 5
STEPS = (7, 4)
"""Of two stacks, as the decoders of a composite have."""


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_every_chunk_follows_the_one_below_and_the_one_before(size: int, num_layers: int) -> None:
    shapes = [(num_layers, num_steps) for num_steps in STEPS]
    order = list(stack._front_by_front(shapes, size))
    place = {(r, m, chunk.start): number for number, (r, m, chunk) in enumerate(order)}
    assert len(place) == len(order)
    for r, num_steps in enumerate(STEPS):
        for m in range(num_layers):
            chunks = [chunk for run, layer, chunk in order if (run, layer) == (r, m)]
            assert [t for chunk in chunks for t in chunk] == list(range(num_steps))
            assert all(place[r, m, a.start] < place[r, m, b.start] for a, b in pairwise(chunks))
            assert m == 0 or all(place[r, m - 1, chunk.start] < place[r, m, chunk.start] for chunk in chunks)


def outcome(size: int, monkeypatch: pytest.MonkeyPatch, *, conditional: bool) -> list[Tensor]:
    """Outputs, and gradients of weights, inputs and states, of two stacks together."""
    monkeypatch.setattr(stack, "_chunk_size", lambda *_: size)
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    planned, leaves = [], []
    for number, num_steps in enumerate(STEPS):
        lstm = LSTM(D if conditional else 0, H, 3, num_groups=G).double()
        randomize(lstm, number)
        x_GSBD = draw(G, num_steps - 1, B, D) if conditional else None
        state = tuple(LayerState(draw(G, B, H), draw(G, B, H)) for _ in range(3))
        planned.append(lstm.plan(x_GSBD, state, num_steps))
        leaves += [*lstm.parameters(), *(part for layer in state for part in layer)]
        leaves += [x_GSBD] if x_GSBD is not None else []
    outputs = []
    for h_GTBH, final in run_together(planned, torch.float64):
        outputs += [h_GTBH, *(part for layer in final for part in layer)]
    loss = sum((draw(*output.shape).detach() * output).sum() for output in outputs)
    loss.backward()
    return [*(output.detach() for output in outputs), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_chunks_change_nothing(size: int, conditional: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = outcome(max(STEPS), monkeypatch, conditional=conditional)
    for ours, expected in zip(outcome(size, monkeypatch, conditional=conditional), whole, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-13, atol=1e-13)
