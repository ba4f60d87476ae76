"""Forward and backward of the composite as training runs them, one CUDA graph, against cuDNN's LSTM and the chip.

    python -m tests.bench_gpu.graphed_step --batch 256
    python -m tests.bench_gpu.graphed_step --batch 512 --one-lane           # layers and decoders one after the other
    python -m tests.bench_gpu.graphed_step --batch 512 --library-products   # no product by a kernel of the project's
    python -m tests.bench_gpu.graphed_step --batch 512 --steps-at-once 2    # how closely a layer follows the one below

Prints one JSON line. `ratio` is the graph's time over that of the same composite of torch.nn.LSTM, which has no
peepholes; `share_of_cube` the rate of its matrix products over that of an 8192 cube in the same process;
`plain_seconds` the same step launched from Python. All take turns; figures are medians. `difference` compares the
gradients of both with those of the equations as they stand, in float32: the largest, relative to each weight's norm.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from stages.models import stack
from stages.models.composite import Composite
from stages.models.config import CompositeSpec
from stages.models.cuda import fused_steps
from stages.models.cuda.queues import Queues
from stages.models.lstm_equations import EquationSteps
from stages.pretraining.cuda_graph import CapturedGradients, capture_on_cuda
from tests.bench.lstm_step import PeerComposite, product_flops, timed
from tests.bench.lstm_step import make_step as make_peer_step

CUBE = 8192


def gradients_of(model: Composite, *, precise: bool = False) -> Callable[[Tensor, Tensor | None], Tensor]:
    """Adds the gradients of a batch of (past, future), and returns its loss."""

    def gradients(past_TBD: Tensor, future_TBD: Tensor | None) -> Tensor:
        with torch.autocast(past_TBD.device.type, torch.bfloat16, enabled=not precise):
            loss = model.losses(model(past_TBD, future_TBD), past_TBD, future_TBD).total
        loss.backward()
        return loss.detach()

    return gradients


def largest_difference(model: Composite, expected: list[Tensor]) -> float:
    """Of the model's gradients from the expected ones, relative to the norm of each."""
    found = [weight.grad for weight in model.parameters() if weight.grad is not None]
    return max(float((ours - theirs).norm() / theirs.norm()) for ours, theirs in zip(found, expected, strict=True))


def by_equations(model: Composite, past_TBD: Tensor, future_TBD: Tensor) -> list[Tensor]:
    """Gradients in float32, by the equations as they stand."""
    kept, stack.new_steps = stack.new_steps, EquationSteps
    try:
        gradients_of(model, precise=True)(past_TBD, future_TBD)
    finally:
        stack.new_steps = kept
    gradients = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
    model.zero_grad()
    return gradients


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repetitions", type=int, default=11)
    parser.add_argument("--one-lane", action="store_true", help="layers and decoders one after the other")
    parser.add_argument("--library-products", action="store_true", help="no product by a kernel of the project's")
    parser.add_argument("--steps-at-once", type=int, help="steps a layer takes before the one above follows")
    parser.add_argument("--rehearse", action="store_true", help="a toy on CPU, where both are the plain step")
    args = parser.parse_args()
    if args.one_lane:
        stack.Queues = lambda device, num_queues: Queues(device, 1)
        stack.STEPS_AT_ONCE = 1 << 20
    if args.library_products:
        fused_steps._product_pays = lambda weight_GKH, batch: False
    if args.steps_at_once:
        stack.STEPS_AT_ONCE = args.steps_at_once
    print(json.dumps(measure(args)))


def measure(args: argparse.Namespace) -> dict[str, object]:
    toy = args.rehearse
    device = torch.device("cpu" if toy else "cuda")
    spec = CompositeSpec(dim=32 if toy else 4096, num_units=8 if toy else 2048, num_layers=2)
    batch, cube_size = (4, 64) if toy else (args.batch, CUBE)
    torch.manual_seed(0)
    past_TBD = torch.randn(spec.num_frames_in, batch, spec.dim, device=device)
    future_TBD = torch.randn(spec.num_frames_out, batch, spec.dim, device=device)
    model, peer = Composite(spec).to(device), PeerComposite(spec).to(device)
    expected = by_equations(model, past_TBD, future_TBD)
    gradients = gradients_of(model)

    def plain() -> None:
        model.zero_grad()
        gradients(past_TBD, future_TBD)

    captured = CapturedGradients(gradients, model.parameters(), capture_on_cuda)
    graphed: Callable[[], object] = plain if toy else lambda: captured(past_TBD, future_TBD)
    graphed()
    difference = largest_difference(model, expected)
    repeated = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
    graphed()
    repeats = largest_difference(model, repeated) == 0.0
    peer_step = make_peer_step(lambda: peer(past_TBD, future_TBD), peer, device.type)
    left, right = (torch.randn(cube_size, cube_size, device=device).bfloat16() for _ in range(2))
    steps: list[Callable[[], object]] = [graphed, peer_step, plain, lambda: torch.mm(left, right)]
    for step in steps * 2:
        step()
    rounds = [
        [timed(step, device.type, 1 + 4 * (step is steps[3]))[0] for step in steps] for _ in range(args.repetitions)
    ]
    graphed_s, peer_s, plain_s, cube_s = (statistics.median(column) for column in zip(*rounds, strict=True))
    rate, cube_rate = product_flops(spec, batch)[0] / graphed_s, 2.0 * cube_size**3 / cube_s
    return {
        "benchmark": "lstm_step_graphed",
        "batch": batch,
        "seconds": round(graphed_s, 6),
        "cudnn_seconds": round(peer_s, 6),
        "ratio": round(graphed_s / peer_s, 3),
        "plain_seconds": round(plain_s, 6),
        "teraflops_per_second": round(rate / 1e12, 1),
        "cube_teraflops_per_second": round(cube_rate / 1e12, 1),
        "share_of_cube": round(rate / cube_rate, 3),
        "difference": difference,
        "repeats_to_the_bit": repeats,
        "one_lane": args.one_lane,
        "library_products": args.library_products,
        "steps_at_once": stack.STEPS_AT_ONCE,
        "device": "cpu, rehearsal" if toy else torch.cuda.get_device_name(device),
    }


if __name__ == "__main__":
    main()
