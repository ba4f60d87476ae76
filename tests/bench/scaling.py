"""Step time of the composite at 1 and 2 workers, beside the time of its all-reduce alone and of perfect scaling.

    python -m tests.bench.scaling

One thread a worker and the same global batch, as training shares it; gradients are averaged by DDP over gloo. Perfect
scaling is half the step time of one worker. The ratio is meaningless on a machine whose cores do other work: the load
is printed. docs/scaling.md carries the model from here to many GPUs.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed
import torch.multiprocessing
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from stages.models.composite import Composite
from stages.models.config import CompositeSpec
from stages.pretraining.loop import Objective

WARM_UP = 2


def median_seconds(run: Callable[[], object], num: int) -> float:
    """Of `num` calls, after `WARM_UP` that do not count."""
    seconds = []
    for _ in range(WARM_UP + num):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[WARM_UP:])


def worker(rank: int, num_workers: int, config: CompositeSpec, batch_size: int, num: int, port: int, out: Any) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=num_workers
    )
    objective: nn.Module = Objective(Composite(config))
    if num_workers > 1:
        objective = DistributedDataParallel(objective)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-4)
    x_TBD = torch.randn(config.num_frames_in + config.num_frames_out, batch_size // num_workers, config.dim)

    def step() -> None:
        objective(x_TBD).total.backward()
        optimizer.step()
        optimizer.zero_grad()

    num_parameters = sum(parameter.numel() for parameter in objective.parameters())
    gradients = torch.zeros(num_parameters)
    step_s = median_seconds(step, num)
    all_reduce_s = median_seconds(lambda: torch.distributed.all_reduce(gradients), num)
    if rank == 0:
        out.put({"step_s": step_s, "all_reduce_s": all_reduce_s, "num_parameters": num_parameters})
    torch.distributed.destroy_process_group()


def measure(num_workers: int, config: CompositeSpec, batch_size: int, num: int) -> dict[str, Any]:
    """Figures of a group of `num_workers` processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    out = torch.multiprocessing.get_context("spawn").SimpleQueue()
    torch.multiprocessing.spawn(worker, (num_workers, config, batch_size, num, port, out), nprocs=num_workers)
    found: dict[str, Any] = out.get()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--units", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8)
    given = parser.parse_args()
    config = CompositeSpec(dim=given.dim, num_units=given.units)
    load = os.getloadavg()[0]
    one, two = (measure(num_workers, config, given.batch_size, given.steps) for num_workers in (1, 2))
    print(
        json.dumps(
            {
                "bench": "scaling",
                "model": {"dim": given.dim, "num_units": given.units, "num_parameters": one["num_parameters"]},
                "batch_size": given.batch_size,
                "step_s": {"1 worker": round(one["step_s"], 4), "2 workers": round(two["step_s"], 4)},
                "sequences_per_s": {
                    "1 worker": round(given.batch_size / one["step_s"], 1),
                    "2 workers": round(given.batch_size / two["step_s"], 1),
                },
                "all_reduced_bytes": 4 * one["num_parameters"],
                "all_reduce_s": round(two["all_reduce_s"], 4),
                "perfect_step_s": round(one["step_s"] / 2, 4),
                "ratio": round(one["step_s"] / two["step_s"] / 2, 3),
                "load_before": round(load, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
