"""The GPU benchmarks, rehearsed: what cannot run here must at least be right in all that needs no GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from pipeline.commands.running.recipe_options import parse
from pipeline.recipes.model_variants import MODELS, variant
from pipeline.recipes.recipe import load_recipe
from pipeline.reporting.paper_numbers import TABLE_2
from stages.models.pretrained import Pretrained
from tests.bench_gpu.__main__ import commands
from tests.bench_gpu.__main__ import parse as parse_parts
from tests.bench_gpu.largest_batch import largest_fitting
from tests.bench_gpu.moving_mnist import configured, recipe_arguments
from tests.conftest import ROOT


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 23, 512, 17_590])
def test_the_largest_batch_is_found_to_within_a_32nd(limit: int) -> None:
    tried: list[int] = []

    def fits(batch: int) -> bool:
        tried.append(batch)
        return batch <= limit

    found = largest_fitting(fits, 1)
    assert found <= limit <= found + max(1, found // 32)
    assert len(tried) < 30


def test_every_row_of_table_2_is_trained_and_conditional_models_read_themselves() -> None:
    options = parse_parts(["--mnist", "somewhere", "--minutes", "9"])
    rows = commands("table_2", options)
    models = [command[command.index("--model") + 1] for command in rows]
    assert sorted(models) == sorted(TABLE_2.rows)
    assert [model for model, row in zip(models, rows, strict=True) if "--feedback" in row] == [
        model for model in models if "conditional" in model
    ]
    assert all("somewhere" in row for row in rows)
    assert "--minutes" in commands("moving_mnist", options)[0]
    (extraction,) = commands("extract_vgg16_fc6", options)
    assert "--random-weights" in extraction


@pytest.mark.parametrize("model", MODELS)
def test_the_recipe_trains_just_what_was_measured(model: str) -> None:
    args = Namespace(
        model=model, mnist="digits", out="out", rehearse=False, units=None, batch=256, learning_rate=2e-3, minutes=10
    )
    config = configured(args)
    recipe, *flags = recipe_arguments(args, config)
    options = parse(load_recipe(recipe), flags)
    assert options.models == (model,)
    assert variant(options.pretrain, options.models[0]) == config
    assert options.gpus_per_worker == 1
    assert options.digits.mnist == "digits"
    assert options.num_test_sequences == 10_000


BLOCK = """
from importlib.machinery import PathFinder
real = PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in ("ray", "mlflow") else real(name, path, target)
PathFinder.find_spec = find_spec
"""


def rehearsed(folder: Path, module: str, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """A part's toy, run where Ray and MLflow cannot be imported; it ends with `status`."""
    (folder / "sitecustomize.py").write_text(BLOCK)
    done = subprocess.run(
        [sys.executable, "-m", module, "--rehearse", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done


def test_extraction_is_measured_without_ray_and_mlflow(tmp_path: Path) -> None:
    """Two processes of this machine decode, and every figure is there."""
    command = ["tests.bench_gpu.extraction", "--only", "random_vgg16", "--num-videos", "3", "--decoders", "2"]
    done = rehearsed(tmp_path, *command)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    figures = [line["benchmark"] for line in lines if line["benchmark"] not in ("machine", "elapsed")]
    assert figures == [
        *("convnet_alone", "extract_vs_convnet", "extract_vs_convnet", "decode_in_processes"),
        *("extract_large_frames", "convnet_plain", "same_bits", "second_worker"),
    ]
    by_name = {line["benchmark"]: line for line in lines}
    assert by_name["extract_vs_convnet"]["frames"] == 3 * 40
    assert by_name["extract_large_frames"]["frames"] == 6 * 40
    assert by_name["same_bits"]["twice"]
    assert by_name["same_bits"]["shuffled"]
    assert by_name["same_bits"]["short_batch"]
    assert by_name["same_bits"]["sha256"] == by_name["second_worker"]["sha256"]


def test_a_row_of_table_2_is_trained_and_scored_without_ray_and_mlflow(tmp_path: Path) -> None:
    command = ["tests.bench_gpu.table_2", "--feedback", "1", "--model", "composite, conditional future"]
    done = rehearsed(tmp_path, *command)
    row = json.loads(done.stdout)
    assert row["num_test_sequences"] == 20
    assert 0 < row["nats_a_frame"] < 4096
    assert sum(row["nats_by_frame"]) / 10 == pytest.approx(row["nats_a_frame"], abs=0.1)
    assert row["ratio"] == pytest.approx(row["nats_a_frame"] / 341.2, rel=1e-3)
    assert 0 < row["teacher_forced_nats"] < 4096


def test_a_part_that_takes_too_long_is_ended_and_the_next_one_runs(tmp_path: Path) -> None:
    parts = ["--only", "largest_batch", "lstm_step", "--limit-minutes", "0.001"]
    done = rehearsed(tmp_path, "tests.bench_gpu", "--out", str(tmp_path), *parts, status=1)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["benchmark"] for line in lines] == ["largest_batch", "lstm_step"]
    assert all("0.001 min" in line["error"] for line in lines)
    done = rehearsed(tmp_path, "tests.bench_gpu", "--out", str(tmp_path), *parts[:3], "--total-minutes", "0", status=1)
    assert ["not begun" in json.loads(line)["error"] for line in done.stdout.splitlines()] == [True, True]


def test_a_rehearsal_leaves_a_line_a_part_and_a_checkpoint_to_carry_home(tmp_path: Path) -> None:
    parts = ["lstm_step", "lstm_step_graphed", "training_loop", "largest_batch", "moving_mnist", "patches"]
    done = rehearsed(tmp_path, "tests.bench_gpu", "--out", str(tmp_path), "--only", *parts)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines == [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line["benchmark"] for line in lines] == [
        *("lstm_step_vs_torch", "lstm_step_graphed", "lstm_step_graphed"),
        *("training_loop", "training_loop", "training_loop"),
        *("largest_batch_2x2048", "moving_mnist", "patches", "patches"),
    ]
    assert lines[6]["batch"] == 23
    row = lines[7]
    assert row["model"] == "composite, conditional future"
    assert row["num_sequences_seen"] == 20 * 4
    assert 0 < row["nats_a_frame"] < 4096
    assert row["ratio"] == pytest.approx(row["nats_a_frame"] / 341.2, rel=1e-3)
    model = Pretrained.load(row["checkpoint"]).composite
    assert model.config.predict_conditional
    assert Path(row["checkpoint"]).stat().st_size == pytest.approx(row["float16_bytes"], abs=10_000)
    patches = lines[8:]
    assert [row["model"] for row in patches] == ["composite", "composite, conditional future"]
    assert all(0 < row["squared_error_a_frame"] == 2 * row["half_of_it"] for row in patches)
    assert patches[0]["copy_last_frame"] == patches[1]["copy_last_frame"] > 0
    assert (tmp_path / "home" / "composite-conditional-future" / "sequences.png").stat().st_size > 1000
