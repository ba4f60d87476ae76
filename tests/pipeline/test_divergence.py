"""A training that diverges, through the command line: what is said, the exit status, and what is left."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.engine.store import Store
from stages.models.composite import Composite
from stages.models.config import CompositeSpec
from stages.pretraining.config import OptimizerConfig
from stages.pretraining.optimisation import build_optimizer, restore_training_state
from tests.pipeline.commands.test_run import run

NUM_UNITS = 8


def test_a_diverging_run_names_step_loss_and_norm_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    root = tmp_path / "store"
    # The learning rate goes up by 100 a step, which no model bears for long.
    done = run(
        [
            *("moving-mnist", "--store", str(root), "--workers", "1", "--num-test-sequences", "20"),
            *("--pretrain.num-units", str(NUM_UNITS), "--pretrain.num-steps", "200", "--pretrain.batch-size", "4"),
            *("--pretrain.optimizer.learning-rate", "1e5", "--pretrain.optimizer.num-warmup-steps", "1000"),
            *("--pretrain.max-validation-batches", "1", "--pretrain.checkpoint-every-steps", "2"),
            *(
                "--in-process",
                "--no-tracking",
            ),  # how errors leave a worker of Ray, tests/cluster/test_training_group.py has
        ]
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    said = re.search(
        r"stage 'pretrain composite' \(key (?P<key>pretrain-[0-9a-f]{16})\): training diverged at step (?P<step>\d+): "
        r"loss \S+, gradient norm \S+ \(smallest loss before: \S+\)",
        " ".join(done.stderr.split()),
    )
    assert said, done.stderr
    step = int(said["step"])
    assert step > 2
    checkpoints = sorted((root / "pretrain" / said["key"] / "checkpoints").glob("step-*.safetensors"))
    assert len(checkpoints) in (1, 2)
    model = Composite(CompositeSpec(dim=4096, num_units=NUM_UNITS, num_frames_in=10, num_frames_out=10))
    found_step, extra = restore_training_state(str(checkpoints[-1]), model, build_optimizer(OptimizerConfig(), model))
    assert step - 2 <= found_step <= step
    assert extra["smallest_loss"] < float("inf")
    assert {manifest.stage for manifest in Store.open(str(root)).manifests()} == {"load_digits"}
