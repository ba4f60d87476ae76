"""Table 2's models on 32x32 colour patches of videos, by the recipe itself, in one process without Ray and MLflow.

    python -m tests.bench_gpu.patches --videos ../shared/data/web --out bench_gpu --steps 1500

Prints a JSON line a model: the squared error a frame of standardised pixels, summed over 3,072 dimensions, of 13 frames
in open loop, as it is and halved, since it is not known whether the paper's figures carry its code's half; beside it
what copying the last frame costs. Patches of a few videos are few: the models see each many times.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch

from pipeline.engine.store import Store
from pipeline.recipes.model_variants import MODELS
from pipeline.reporting.paper_numbers import PATCHES_COLUMN, TABLE_2
from stages.evaluation.artifacts import PixelScores
from tests.bench.made_videos import make_videos
from tests.bench_gpu.recipe_process import run_recipe
from tests.bench_gpu.table_2 import ROWS

TOY = (
    *("--pretrain.num-units", "8", "--pretrain.batch-size", "4", "--cut.patches-per-video", "8", "--no-pictures"),
    *("--pretrain.optimizer.num-warmup-steps", "1", "--pretrain.precision", "float32", "--num-test-sequences", "8"),
)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", help="to cut patches from; none: some made by the benchmark")
    parser.add_argument("--out", default="bench_gpu", help="directory whose store keeps patches and models")
    parser.add_argument("--steps", type=int, default=1500, help="of each model")
    parser.add_argument("--rehearse", action="store_true", help="a toy on CPU: the composites")
    return parser.parse_args()


def recipe_arguments(args: argparse.Namespace, videos: str) -> list[str]:
    """The command line that makes patches, models and scores in OUT/store."""
    models = [name for name in ROWS.values() if not args.rehearse or MODELS[name].get("decoders") == "composite"]
    return [
        *("patches", "--in-process", "--videos", videos, "--preset", "gpu", "--store", f"{args.out}/store"),
        *("--pretrain.num-steps", str(args.steps), "--pretrain.feedback.probability", "1"),
        *(*(TOY if args.rehearse else ()), "--models", *models),
    ]


def main() -> None:
    args = parse()
    if args.rehearse:
        args.steps = 3
    with tempfile.TemporaryDirectory() as folder:
        if not args.videos:
            make_videos(Path(folder), 4 if args.rehearse else 32, 60 if args.rehearse else 300)
        run_recipe(recipe_arguments(args, args.videos or folder), is_rehearsal=args.rehearse)
    store = Store.open(f"{args.out}/store")
    manifests = [manifest for manifest in store.manifests() if manifest.stage == "score_pixels"]
    newest = max(manifests, key=lambda manifest: manifest.finished_at)
    table = PixelScores(store.directory(newest.stage, newest.key), newest.key).read()
    copied = next(table.value(row) for row in table.baselines if row.model == "copy last frame")
    for row in table.rows:
        error, paper = table.value(row), TABLE_2.number(row.model, PATCHES_COLUMN)
        assert error is not None
        line = {
            "benchmark": "patches",
            "model": row.model,
            "squared_error_a_frame": error,
            "half_of_it": error / 2,
            "copy_last_frame": copied,
            "paper_squared_error_a_frame": paper.value if paper else None,
            "num_steps": args.steps,
            "num_test_sequences": table.num_test_sequences,
            "videos": args.videos or "made",
            "device": "cpu, rehearsal" if args.rehearse else torch.cuda.get_device_name(),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
