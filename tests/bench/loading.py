"""The loader alone against the training that it feeds, and against memcpy: `loader_vs_training`.

    python -m tests.bench.loading                       # percepts of 1280 dimensions, 1 x 512 units
    python -m tests.bench.loading --dim 4096 --units 2048 --batch 32

One JSON line. `sequences_per_second`: windows gathered, standardised and put in their place, from a warm local store of
several files. `training_sequences_per_second`: steps of the composite model (forward, backward, clipping, AdamW) on one
batch that stays in memory. `ratio` is the former over the latter, on the same data, each the median of its rounds,
which take turns, on one core. `ratio_to_memcpy`: bytes of float16 read a second over those that NumPy copies, a batch's
bytes at a time, from anywhere in as much memory as the store takes: neither side finds its source in the cache.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from stages.models.composite import Composite
from stages.models.config import CompositeSpec
from stages.percepts import Windows, open_store
from stages.percepts.transforms import Standardisation
from stages.pretraining.config import OptimizerConfig
from stages.pretraining.loop import Objective
from stages.pretraining.optimisation import build_optimizer, clip_gradients
from tests.bench.windows import write_store

NUM_IN, NUM_OUT = 16, 13
LENGTH = NUM_IN + NUM_OUT


def seconds_of(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=1280)
    parser.add_argument("--units", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(bench(args, Path(scratch))), flush=True)


def bench(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """The line."""
    rng = np.random.default_rng(0)
    percepts_ND = np.maximum(rng.standard_normal((args.frames, args.dim), np.float32), 0).astype(np.float16)
    write_store(folder / "store", percepts_ND, "none", args.files)
    windows = Windows(open_store(str(folder / "store")), length=LENGTH, stride=1)
    standardise = Standardisation(np.full(args.dim, 0.4, np.float32), np.full(args.dim, 0.6, np.float32))
    x_TBD = torch.empty(LENGTH, args.batch, args.dim)

    def load() -> None:
        windows.gather(rng.integers(0, len(windows), args.batch), x_TBD, standardise)

    num_rows = LENGTH * args.batch
    target = np.empty((num_rows, args.dim), np.float16)

    def copy() -> None:
        first = rng.integers(0, args.frames - num_rows)
        np.copyto(target, percepts_ND[first : first + num_rows])

    step = training_step(args, x_TBD)
    load()
    step()
    loading, training, copying = [], [], []
    for _ in range(args.rounds):
        loading += [seconds_of(load) for _ in range(4)]
        training.append(seconds_of(step))
        copying += [seconds_of(copy) for _ in range(4)]
    load_s, step_s, copy_s = map(statistics.median, (loading, training, copying))
    return {
        "benchmark": "loader_vs_training",
        "sequences_per_second": round(args.batch / load_s),
        "training_sequences_per_second": round(args.batch / step_s, 1),
        "ratio": round(step_s / load_s, 1),
        "gigabytes_per_second": round(target.nbytes / load_s / 1e9, 2),
        "memcpy_gigabytes_per_second": round(target.nbytes / copy_s / 1e9, 2),
        "ratio_to_memcpy": round(copy_s / load_s, 2),
        "config": {name: getattr(args, name) for name in ("frames", "dim", "units", "batch", "files")},
    }


def training_step(args: argparse.Namespace, x_TBD: torch.Tensor) -> Callable[[], None]:
    """One step of the composite on a batch that stays where it is."""
    torch.manual_seed(0)
    config = CompositeSpec(dim=args.dim, num_units=args.units, num_frames_in=NUM_IN, num_frames_out=NUM_OUT)
    composite = Composite(config)
    objective, optimizer = Objective(composite), build_optimizer(OptimizerConfig(), composite)

    def step() -> None:
        (objective(x_TBD).total / args.dim).backward()
        clip_gradients(composite, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    main()
