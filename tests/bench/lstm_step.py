"""One training step of the composite against the same composite made of torch.nn.LSTM (which has no peepholes).

    python -m tests.bench.lstm_step                       # CPU, float32: T=16, B=64, 1280 -> 512
    python -m tests.bench.lstm_step --device cuda         # bfloat16, 2 x 2048, batch 512, 4096-d percepts

Prints one JSON line. Repetitions of both and of the floor take turns, so that a busy machine slows all of them. Figures
are medians; beside them the ratio of minima and, on CPU, of the processor seconds used. `floor_ratio` = seconds / the
seconds of the same FLOPs at the matrix-product rate that this run measures on the step's own shapes.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from stages.models.composite import Composite
from stages.models.config import CompositeSpec
from stages.models.losses import decoder_loss

Step = Callable[[], None]


class PeerComposite(nn.Module):
    """What people would write: torch.nn.LSTM, decoders fed zeros of one dimension where the paper's are fed nothing."""

    def __init__(self, config: CompositeSpec) -> None:
        super().__init__()
        self.encoder = nn.LSTM(config.dim, config.num_units, config.num_layers)
        self.decoders = nn.ModuleList(nn.LSTM(1, config.num_units, config.num_layers) for _ in range(2))
        self.outputs = nn.ModuleList(nn.Linear(config.num_units, config.dim) for _ in range(2))

    def forward(self, x_TBD: Tensor, future_TBD: Tensor) -> Tensor:
        _, state = self.encoder(x_TBD)
        losses = []
        for decoder, output, target in zip(self.decoders, self.outputs, (x_TBD.flip(0), future_TBD), strict=True):
            h_TBH, _ = decoder(target.new_zeros(*target.shape[:2], 1), state)
            losses.append(decoder_loss(output(h_TBH), target, "gaussian"))
        return torch.stack(losses).sum()


def make_step(compute: Callable[[], Tensor], module: nn.Module, device: str) -> Step:
    """Forward and backward; in bfloat16 autocast on a GPU."""

    def step() -> None:
        module.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = compute()
        loss.backward()  # type: ignore[no-untyped-call]

    return step


def product_flops(config: CompositeSpec, batch: int) -> tuple[float, list[tuple[int, int, int, float]]]:
    """FLOPs of the step's matrix products (2 a multiply-add), and each kind: rows, inner, columns, FLOPs.

    Backward costs two products for each of forward's, but for the frames' own gradient, which nobody needs.
    """
    dim, units, gates = config.dim, config.num_units, 4 * config.num_units
    steps_in, steps_out = config.num_frames_in, config.num_frames_out
    steps = 2 * steps_in + steps_out
    above = config.num_layers - 1
    kinds = [
        (steps_in * batch, dim, gates, 2),
        (steps * batch, units, gates, 3 * above),
        (batch, units, gates, 3 * steps * (1 + above)),
        ((steps_in + steps_out) * batch, units, dim, 3),
    ]
    products = [(m, k, n, 2.0 * m * k * n * times) for m, k, n, times in kinds if times]
    return sum(flops for *_, flops in products), products


def make_floor(products: list[tuple[int, int, int, float]], dtype: torch.dtype, device: str) -> Callable[[], float]:
    """A function that times one product of each shape and returns the seconds that the whole step would take so."""
    draw = partial(torch.randn, dtype=dtype, device=device)
    operands = [(draw(rows, inner), draw(columns, inner), flops) for rows, inner, columns, flops in products]

    def measure() -> float:
        total = 0.0
        for left, right, flops in operands:
            once = 2.0 * left.shape[0] * left.shape[1] * right.shape[0]
            repeats = max(1, int(2e9 / once)) if device == "cpu" else 20
            total += timed(partial(torch.mm, left, right.T), device, repeats)[0] * flops / once
        return total

    return measure


def timed(step: Callable[[], object], device: str, repeats: int = 1) -> tuple[float, float]:
    """Seconds, and processor seconds of this process, of one call: the mean of `repeats` in a row."""
    if device == "cuda":
        torch.cuda.synchronize()
    start, start_cpu = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats, (time.process_time() - start_cpu) / repeats


def kept_bytes(config: CompositeSpec, *, half: bool) -> int:
    """Bytes a sequence holds between forward and backward: gates and h (2 or 4 bytes), c (4), frames, gradients."""
    small = 2 if half else 4
    layer_steps = config.num_layers * (2 * config.num_frames_in + config.num_frames_out)
    frames = config.num_frames_in + config.num_frames_out  # given in float32; what is encoded is kept in `small`, too
    states = layer_steps * config.num_units * (5 * small + 4)
    return states + config.dim * (frames * 4 + config.num_frames_in * small + frames * small)


def largest_batch(memory_bytes: float) -> tuple[int, int]:
    """Bytes a sequence, and the batch that fits, for the paper's 2 x 2048 percept model with AdamW in bfloat16."""
    config = CompositeSpec(dim=4096, num_units=2048, num_layers=2)
    weights = 201_420_800 * (4 * 4 + 2)  # weight, gradient, two moments in float32; the bfloat16 copy
    loss = config.num_frames_in * config.dim * (2 + 4 + 4 + 4)  # outputs, and float32: outputs, targets, gradient
    each = kept_bytes(config, half=True) + loss
    return kept_bytes(config, half=True), int((memory_bytes - weights) / each)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch", type=int, help="sequences (default 64; 512 on cuda)")
    parser.add_argument("--dim", type=int, help="dimensions of a frame (default 1280; 4096 on cuda)")
    parser.add_argument("--units", type=int, help="units a layer (default 512; 2048 on cuda)")
    parser.add_argument("--layers", type=int, help="layers (default 1; 2 on cuda)")
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    return parser.parse_args()


def main() -> None:
    args = parse()
    cuda = args.device == "cuda"
    if args.threads:
        torch.set_num_threads(args.threads)
    config = CompositeSpec(
        dim=args.dim or (4096 if cuda else 1280),
        num_units=args.units or (2048 if cuda else 512),
        num_layers=args.layers or (2 if cuda else 1),
        num_frames_in=16,
        num_frames_out=13 if cuda else 16,
    )
    batch = args.batch or (512 if cuda else 64)
    torch.manual_seed(0)
    x_TBD = torch.randn(config.num_frames_in, batch, config.dim, device=args.device)
    future_TBD = torch.randn(config.num_frames_out, batch, config.dim, device=args.device)
    ours, peer = Composite(config).to(args.device), PeerComposite(config).to(args.device)
    our_step = make_step(lambda: ours.losses(ours(x_TBD, future_TBD), x_TBD, future_TBD).total, ours, args.device)
    peer_step = make_step(lambda: peer(x_TBD, future_TBD), peer, args.device)
    flops, products = product_flops(config, batch)
    floor = make_floor(products, torch.bfloat16 if cuda else torch.float32, args.device)
    for warm_up in (our_step, peer_step, floor):
        for _ in range(2):
            warm_up()
    rounds = [(*timed(our_step, args.device), *timed(peer_step, args.device), floor()) for _ in range(args.repetitions)]
    print(json.dumps(report(args, config, batch, flops, rounds)))


def report(
    args: argparse.Namespace,
    config: CompositeSpec,
    batch: int,
    flops: float,
    rounds: list[tuple[float, float, float, float, float]],
) -> dict[str, object]:
    times = [list(column) for column in zip(*rounds, strict=True)]
    ours_s, ours_cpu_s, peer_s, peer_cpu_s, floor_s = (statistics.median(column) for column in times)
    ours_min_s, _, peer_min_s, _, floor_min_s = (min(column) for column in times)
    kept, largest = largest_batch(80e9)
    return {
        "benchmark": "lstm_step_vs_torch",
        "seconds": round(ours_s, 5),
        "peer_seconds": round(peer_s, 5),
        "ratio": round(ours_s / peer_s, 3),
        "ratio_of_minima": round(ours_min_s / peer_min_s, 3),
        "ratio_of_cpu_seconds": round(ours_cpu_s / peer_cpu_s, 3),
        "floor_ratio": round(ours_s / floor_s, 3),
        "floor_ratio_of_minima": round(ours_min_s / floor_min_s, 3),
        "gflops_per_second": round(flops / ours_s / 1e9, 1),
        "kept_bytes_per_sequence_2x2048_bf16": kept,
        "largest_batch_2x2048_80gb_computed": largest,
        "config": {
            "device": args.device,
            "dtype": "bfloat16" if args.device == "cuda" else "float32",
            "threads": torch.get_num_threads(),
            "batch": batch,
            "dim": config.dim,
            "units": config.num_units,
            "layers": config.num_layers,
            "frames": [config.num_frames_in, config.num_frames_out],
        },
    }


if __name__ == "__main__":
    main()
