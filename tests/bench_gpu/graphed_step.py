"""One training step of the composite, forward and backward, as it is and as one CUDA graph.

    python -m tests.bench_gpu.graphed_step --batch 256

A graph launches its kernels at once: `ratio` (graphed over plain) tells how much of the plain step is Python and
launches. Both take turns; figures are medians. `largest_difference` compares the gradients of both, relative to the
largest of each weight's. The training loop runs the plain step; this says what a graph would be worth there.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from stages.models.composite import Composite
from stages.models.config import CompositeSpec
from tests.bench.lstm_step import product_flops, timed


def make_step(model: Composite, past_TBD: Tensor, future_TBD: Tensor) -> Callable[[], None]:
    """Forward and backward. Gradients are made anew by each step; autocast must not keep casts from one to the next."""

    def step() -> None:
        with torch.autocast(past_TBD.device.type, torch.bfloat16, cache_enabled=False):
            loss = model.losses(model(past_TBD, future_TBD), past_TBD, future_TBD).total
        loss.backward()

    return step


def graphed(model: Composite, step: Callable[[], None]) -> Callable[[], object]:
    """The step, captured; replaying it overwrites the gradients that lie where they lay at capture."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            model.zero_grad(set_to_none=True)
            step()
    torch.cuda.current_stream().wait_stream(aside)
    model.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def gradients(model: Composite) -> list[Tensor]:
    return [weight.grad.detach().clone() for weight in model.parameters() if weight.grad is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--rehearse", action="store_true", help="a toy on CPU, where both are the plain step")
    args = parser.parse_args()
    toy = args.rehearse
    device = torch.device("cpu" if toy else "cuda")
    config = CompositeSpec(dim=32 if toy else 4096, num_units=8 if toy else 2048, num_layers=2)
    torch.manual_seed(0)
    batch = 4 if toy else args.batch
    past_TBD = torch.rand(config.num_frames_in, batch, config.dim, device=device)
    future_TBD = torch.rand(config.num_frames_out, batch, config.dim, device=device)
    # Two copies: the graph owns its gradients' memory, which the plain step must not throw away.
    plain_model, graphed_model = Composite(config).to(device), Composite(config).to(device)
    graphed_model.load_state_dict(plain_model.state_dict())
    forward_backward = make_step(plain_model, past_TBD, future_TBD)

    def plain() -> None:
        plain_model.zero_grad(set_to_none=True)
        forward_backward()

    captured = make_step(graphed_model, past_TBD, future_TBD)
    replay = captured if toy else graphed(graphed_model, captured)
    for _ in range(3):
        plain()
    replay()
    differences = [
        float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-12))
        for ours, theirs in zip(gradients(graphed_model), gradients(plain_model), strict=True)
    ]
    rounds = [(timed(plain, device.type)[0], timed(replay, device.type)[0]) for _ in range(args.repetitions)]
    plain_s, graphed_s = (statistics.median(column) for column in zip(*rounds, strict=True))
    flops = product_flops(config, batch)[0]
    line = {
        "benchmark": "lstm_step_graphed",
        "seconds": round(graphed_s, 6),
        "plain_seconds": round(plain_s, 6),
        "ratio": round(graphed_s / plain_s, 3),
        "teraflops_per_second": round(flops / graphed_s / 1e12, 1),
        "largest_difference": max(differences),
        "batch": batch,
        "device": "cpu, rehearsal" if toy else torch.cuda.get_device_name(device),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
