"""The largest batch of the paper's percept model, 2 x 2048, that one GPU trains with AdamW in bfloat16.

    python -m tests.bench_gpu.largest_batch

Doubles the batch until memory runs out, then halves the gap to within a 32nd. Prints one JSON line; `ratio` is the
measured batch over the one that `tests.bench.lstm_step` computes from what is kept for backward.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Callable

import torch

from stages.models.composite import Composite
from stages.models.config import CompositeSpec
from stages.pretraining.config import OptimizerConfig
from stages.pretraining.optimisation import autocast, build_optimizer
from tests.bench.lstm_step import largest_batch

TOY_LIMIT = 23


def largest_fitting(fits: Callable[[int], bool], start: int) -> int:
    """The largest size that `fits`, to within a 32nd; 0 where not even `start` does. `fits` must be monotone."""
    low, high = 0, start
    while fits(high):
        low, high = high, 2 * high
    while low and high - low > max(1, low // 32):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def trains(config: CompositeSpec, batch: int, device: torch.device) -> bool:
    """Whether two training steps of this batch fit; the second has the optimiser's moments beside it."""
    model = Composite(config).to(device)
    optimizer = build_optimizer(OptimizerConfig(), model)
    for _ in range(2):
        past_TBD = torch.rand(config.num_frames_in, batch, config.dim, device=device)
        future_TBD = torch.rand(config.num_frames_out, batch, config.dim, device=device)
        with autocast("bfloat16", device):
            loss = model.losses(model(past_TBD, future_TBD), past_TBD, future_TBD).total
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help=f"a toy on CPU whose memory ends at {TOY_LIMIT}")
    toy = parser.parse_args().rehearse
    device = torch.device("cpu" if toy else "cuda")
    config = CompositeSpec(dim=32 if toy else 4096, num_units=8 if toy else 2048, num_layers=2)

    def fits(batch: int) -> bool:
        if toy and batch > TOY_LIMIT:
            return False
        try:
            return trains(config, batch, device)
        except torch.OutOfMemoryError:
            return False
        finally:
            gc.collect()
            torch.cuda.empty_cache()

    found = largest_fitting(fits, 2 if toy else 512)
    memory_bytes = 80e9 if toy else float(torch.cuda.get_device_properties(device).total_memory)
    computed = largest_batch(memory_bytes)[1]
    line = {
        "benchmark": "largest_batch_2x2048",
        "batch": found,
        "computed_batch": computed,
        "ratio": round(found / computed, 3),
        "memory_bytes": int(memory_bytes),
        "device": "cpu, rehearsal" if toy else torch.cuda.get_device_name(device),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
