"""Pretraining is exact: killed and resumed it is the same to the bit, and sample ids never depend on workers."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cluster.session import Session
from pipeline.core.events import Event, Log
from pipeline.core.stage import Context, Resources
from pipeline.core.workers import Workers
from stages.datasets.dataset_factories import PerceptsFactory
from stages.datasets.sequences import PerceptSource
from stages.models.artifacts import Encoder
from stages.models.config import CompositeConfig, FeedbackConfig
from stages.pretrain import PretrainConfig, pretrain
from stages.pretraining.config import EarlyStopConfig, OptimizerConfig, TrainingConfig, WeightsConfig
from stages.pretraining.loop import pretraining_loop
from stages.pretraining.training_plan import TrainingPlan
from tests.stages.made_configs import changed
from tests.stages.made_percepts import DIM, make_percepts

FRESH = multiprocessing.get_context("forkserver")
# Imported once and not in each.
FRESH.set_forkserver_preload(["stages.pretraining.loop", "tests.stages.made_percepts"])

CONFIG = PretrainConfig(
    model=CompositeConfig(num_units=10, num_frames_in=6, num_frames_out=4, dropout=0.2, predict_conditional=True),
    training=TrainingConfig(
        batch_size=7,
        num_steps=60,
        optimizer=OptimizerConfig(learning_rate=3e-2, num_warmup_steps=4),
        weights=WeightsConfig(average_decay=0.8, keep="best"),
        early_stop=EarlyStopConfig(patience=2, min_improvement=0.15),
        feedback=FeedbackConfig(probability=0.5, input_rate=0.3),
        validate_every_steps=4,
        checkpoint_every_steps=5,
    ),
    window_stride=2,
    validation_fraction=0.2,
)
IN_PARTS = Resources(num_workers=1, max_sequences_per_worker=3)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    percepts, statistics = make_percepts(tmp_path_factory.mktemp("store"), {"unlabelled": 20})
    return {"percepts": percepts, "statistics": statistics}


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def train_until(root: Path, inputs: dict[str, Any], killed_at: int | None) -> None:
    """A process of its own: trains, and ends with SIGKILL when it comes to read step `killed_at`."""
    batch = PerceptSource.batch

    def deadly(self: PerceptSource, step: int, *share: int) -> npt.NDArray[np.float32]:
        if step == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return batch(self, step, *share)

    PerceptSource.batch = deadly  # type: ignore[method-assign]
    pretrain(CONFIG, Context.for_test(root, resources=IN_PARTS), **inputs)


def test_killed_at_random_steps_it_ends_with_the_same_bits(tmp_path: Path, inputs: dict[str, Any]) -> None:
    """With dropout, parts of a batch, an average of the weights, the best of them kept, and an early stop."""
    encoder = pretrain(CONFIG, Context.for_test(tmp_path / "undisturbed", resources=IN_PARTS), **inputs)
    history = json.loads(Path(encoder.path("history.json")).read_text())
    num_steps = history["num_steps"]
    assert 12 <= num_steps < 60, "the early stop is part of what is tested"
    rng = np.random.default_rng()
    kills = sorted(rng.integers(1, num_steps, 3).tolist())
    print(f"killed at the steps {kills} of {num_steps}")
    for killed_at in (*kills, None):
        process = FRESH.Process(target=train_until, args=(tmp_path / "killed", inputs, killed_at))
        process.start()
        process.join()
        assert process.exitcode == (0 if killed_at is None else -signal.SIGKILL)
    assert files_of(tmp_path / "killed/out") == files_of(tmp_path / "undisturbed/out")
    assert sorted(files_of(tmp_path / "killed/out")) == ["history.json", "model.safetensors"]


@dataclass(frozen=True)
class Recording:
    """Opens a source that writes down which windows the loop was given."""

    opener: PerceptsFactory
    directory: str
    stop_at: int | None = None

    def __call__(self, log: Callable[[str], None]) -> PerceptSource:
        source = self.opener(log)
        read, directory, stop_at = source.batch, Path(self.directory), self.stop_at
        directory.mkdir(parents=True, exist_ok=True)

        def recording(step: int, batch_size: int, rank: int = 0, world_size: int = 1) -> npt.NDArray[np.float32]:
            if step == stop_at:
                raise InterruptedError("stopped")
            ids = source.ids(step, batch_size, rank, world_size).tolist()
            (directory / f"{step:03d}-{rank}-of-{world_size}").write_text(json.dumps(ids))
            return read(step, batch_size, rank, world_size)

        object.__setattr__(source, "batch", recording)
        return source


def seen(directory: Path) -> dict[int, list[int]]:
    """Step -> numbers of the windows of the whole batch, whoever read them.

    A worker that is stopped may have read ahead what the other has not: such a step is that of who read it whole.
    """
    steps: dict[int, dict[int, list[tuple[int, list[int]]]]] = {}
    for path in sorted(directory.iterdir()):
        step, rank, _, world_size = path.name.split("-")
        steps.setdefault(int(step), {}).setdefault(int(world_size), []).append(
            (int(rank), json.loads(path.read_text()))
        )
    found = {}
    for step, by_size in steps.items():
        whole = [
            [number for _, ids in sorted(shares) for number in ids]
            for world_size, shares in by_size.items()
            if len(shares) == world_size
        ]
        assert whole, f"no group has read all of step {step}"
        assert all(ids == whole[0] for ids in whole), f"step {step} was dealt out in different ways"
        found[step] = whole[0]
    return found


def plan_of(root: Path, inputs: dict[str, Any], **changes: Any) -> TrainingPlan:
    opener = PerceptsFactory(**inputs, parts=("unlabelled",), num_frames=10, stride=2, validation_fraction=0.2, seed=0)
    return TrainingPlan(
        uri=str(root / "out"),
        open_source=Recording(opener, str(root / "seen"), **changes),
        model=replace(CONFIG.model, dropout=0.0).spec(DIM),
        training=TrainingConfig(
            optimizer=CONFIG.training.optimizer,
            seed=0,
            batch_size=7,
            num_steps=20,
            validate_every_steps=10,
            max_validation_batches=4,
            checkpoint_every_steps=4,
        ),
    )


def train_on_ray(root: Path, inputs: dict[str, Any], num_workers: int, stop_at: int | None) -> list[str]:
    from cluster.workers import RayWorkers

    said: list[Event] = []
    workers = RayWorkers(source="pretrain", emit=said.append, scratch_uri=f"{root}/scratch")
    workers.train(pretraining_loop, plan_of(root, inputs, stop_at=stop_at), name="pretrain", num_workers=num_workers)
    return [event.line for event in said if isinstance(event, Log)]


@pytest.mark.ray
def test_the_same_windows_in_the_same_order_on_any_number_of_workers(
    tmp_path: Path, inputs: dict[str, Any], ray_session: Session
) -> None:
    """Two workers, stopped at step 13, resumed on one: what one alone sees, and its loss."""
    Workers().train(pretraining_loop, plan_of(tmp_path / "one", inputs), name="one", num_workers=1)
    ray_session.start("two", train_on_ray, tmp_path / "two", inputs, 2, 13)
    while not (ended := ray_session.finished(1.0)):
        pass
    assert "stopped" in str(ended[0].error)
    Workers().train(pretraining_loop, plan_of(tmp_path / "two", inputs), name="two", num_workers=1)
    one, two = seen(tmp_path / "one/seen"), seen(tmp_path / "two/seen")
    for step in range(20):
        print(f"step {step:2d}: one worker {one[step]}; two, then one {two[step]}")
    assert one == two
    assert sorted(one) == list(range(20))
    names = {path.name for path in (tmp_path / "two/seen").iterdir()}
    assert {f"{step:03d}-{rank}-of-2" for step in range(13) for rank in range(2)} < names
    assert {f"{step:03d}-0-of-1" for step in range(13, 20)} < names, "it was not two workers and then one"
    curves = [
        json.loads(Path(Encoder(str(tmp_path / name / "out")).path("history.json")).read_text())
        for name in ("one", "two")
    ]
    for curve in ("train", "validation"):
        alone, both = ([point["loss"] for point in history[curve]] for history in curves)
        np.testing.assert_allclose(both, alone, rtol=1e-4)


@pytest.mark.parametrize("at_once", [1, 3, 7])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(tmp_path: Path, inputs: dict[str, Any], at_once: int) -> None:
    config = partial(changed, CONFIG, dropout=0.0, num_steps=6, early_stop=EarlyStopConfig())
    whole = pretrain(config(), Context.for_test(tmp_path / "whole", resources=Resources(num_workers=1)), **inputs)
    resources = Resources(num_workers=1, max_sequences_per_worker=at_once)
    parts = pretrain(config(), Context.for_test(tmp_path / "parts", resources=resources), **inputs)
    for name, weight in whole.load().state_dict().items():
        np.testing.assert_allclose(parts.load().state_dict()[name].numpy(), weight.numpy(), atol=2e-5, err_msg=name)
