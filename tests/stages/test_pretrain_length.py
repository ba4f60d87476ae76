"""The length of a pretraining: by steps or by passes over what there is to learn from; and what is said of it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.core.errors import ConfigError
from pipeline.core.events import Event, Metrics, Progress
from pipeline.core.rates import GROUP_START_S, WORKER_START_S
from pipeline.core.stage import Context, Estimate, Resources, config_dict
from pipeline.core.workers import Workers
from pipeline.engine.keys import key_of
from pipeline.engine.plan import Plan
from stages.datasets.sequences import PerceptSource
from stages.models.artifacts import Encoder, passes_text
from stages.models.config import CompositeConfig
from stages.pretrain import PretrainConfig, pretrain, sequence_flop
from stages.pretraining.config import OptimizerConfig, TrainingConfig
from stages.pretraining.optimisation import learning_rate
from tests.stages.made_percepts import make_percepts

TWO_PASSES = PretrainConfig(
    model=CompositeConfig(num_units=8, num_frames_in=6, num_frames_out=4),
    training=TrainingConfig(
        num_steps=None,
        num_passes=2.5,
        batch_size=5,
        checkpoint_every_steps=4,
        optimizer=OptimizerConfig(learning_rate=1e-2, num_warmup_steps=4),
    ),
    window_stride=2,
    validation_fraction=0.2,
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    percepts, statistics = make_percepts(tmp_path_factory.mktemp("store"), {"unlabelled": 10})
    return {"percepts": percepts, "statistics": statistics}


def trained(root: Path, inputs: dict[str, Any], config: PretrainConfig, **of_context: Any) -> tuple[Encoder, Context]:
    context = Context.for_test(root, **of_context)
    return pretrain(config, context, **inputs), context


def test_steps_and_their_learning_rates_follow_from_the_sequences(tmp_path: Path, inputs: dict[str, Any]) -> None:
    said: list[Event] = []
    workers = Workers(emit=said.append)
    encoder, context = trained(tmp_path, inputs, TWO_PASSES, workers=workers)
    num_sequences = 8 * 8  # eight videos of 24 frames, in windows of ten frames every two
    num_steps = math.ceil(2.5 * num_sequences / 5)
    assert (context.facts["num_sequences"], context.facts["num_steps"]) == (num_sequences, num_steps)
    assert encoder.metrics(context.facts).values["share_of_pass"] == pytest.approx(2.5, abs=5 / num_sequences)
    history = encoder.history()
    assert history is not None
    optimizer = TWO_PASSES.training.optimizer
    rates = [learning_rate(optimizer, step, num_steps) for step in range(num_steps)]
    assert [point["learning_rate"] for point in history.train] == rates
    last = [event for event in said if isinstance(event, Progress)][-1]
    assert (last.done, last.total) == (num_steps, num_steps)
    assert "2.5 passes" in last.note
    curve = [event.values["passes"] for event in said if isinstance(event, Metrics) and "passes" in event.values]
    assert curve[-1] == pytest.approx(num_steps * 5 / num_sequences)
    # The same steps, given as steps, are the same training.
    steps = replace(TWO_PASSES, training=replace(TWO_PASSES.training, num_steps=num_steps, num_passes=None))
    same, _ = trained(tmp_path / "steps", inputs, steps)
    assert Path(same.path("model.safetensors")).read_bytes() == Path(encoder.path("model.safetensors")).read_bytes()


def test_a_resume_by_passes_is_exact(tmp_path: Path, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed, _ = trained(tmp_path / "whole", inputs, TWO_PASSES)
    batch = PerceptSource.batch

    def stopping(self: PerceptSource, step: int, *share: int) -> npt.NDArray[np.float32]:
        if step == 14:
            raise RuntimeError("stop")
        return batch(self, step, *share)

    with monkeypatch.context() as patch:
        patch.setattr(PerceptSource, "batch", stopping)
        with pytest.raises(RuntimeError, match="stop"):
            trained(tmp_path / "resumed", inputs, TWO_PASSES)
    resumed, _ = trained(tmp_path / "resumed", inputs, TWO_PASSES)
    for name in ("model.safetensors", "history.json"):
        assert Path(resumed.path(name)).read_bytes() == Path(undisturbed.path(name)).read_bytes()


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="never end"):
        TWO_PASSES.training.steps(None)
    for passes in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match="num_passes is"):
            TrainingConfig(num_steps=None, num_passes=passes)


def test_choices_that_were_not_made_are_in_no_key() -> None:
    """So that what was trained before there were passes and warm starts is found again."""
    by_steps = PretrainConfig()
    assert "num_passes" not in config_dict(by_steps)["training"]
    assert config_dict(TWO_PASSES)["training"]["num_passes"] == 2.5
    before = dict.fromkeys(("percepts", "statistics", "digits", "patches"))
    assert Plan("test").add(pretrain, by_steps).key == key_of(pretrain, by_steps, None, before)
    by_three = replace(TWO_PASSES, training=replace(TWO_PASSES.training, num_passes=3.0))
    assert Plan("test").add(pretrain, TWO_PASSES).key != Plan("test").add(pretrain, by_three).key


def test_a_plan_knows_the_steps_and_what_devices_change() -> None:
    assert pretrain.estimate is not None
    frames = Estimate(num_videos=100, num_frames=30_000, num_bytes=30_000 * 2 * 4096)
    wide = replace(TWO_PASSES, model=CompositeConfig(num_layers=2), window_stride=8)
    estimate = pretrain.estimate(wide, {"percepts": frames, "statistics": frames})
    # A video of 300 frames has 34 windows of 29 frames.
    assert estimate.note == "about 2.5 passes over 2,755 sequences in 1,378 steps"
    assert pytest.approx(100 * 34 * 0.8, rel=0.02) == 2755
    assert estimate.work is not None
    on_gpu, on_cores = Resources(num_workers=1, gpus_per_worker=1), Resources(num_workers=2)
    assert estimate.work.seconds(on_cores) > 10 * estimate.work.seconds(on_gpu)
    on_gpus = replace(on_gpu, num_workers=8)
    assert estimate.duration_s(on_gpu) == pytest.approx(WORKER_START_S + estimate.work.seconds(on_gpu))
    in_a_group = WORKER_START_S + GROUP_START_S + estimate.work.seconds(on_gpu) / 8
    assert estimate.duration_s(on_gpus) == pytest.approx(in_a_group)
    unknown = pretrain.estimate(wide, {"percepts": Estimate(), "statistics": Estimate()})
    assert unknown.duration_s(Resources()) is None


def test_the_work_of_a_sequence_by_hand() -> None:
    # 512 sequences of the paper's model: 8.8 TFLOP, as tests/bench_gpu counts them from the shapes.
    assert 512 * sequence_flop(CompositeConfig(num_layers=2), 4096) == pytest.approx(8.80e12, rel=1e-3)
    assert passes_text(64_000, 4_000_000) == "1.60% of a pass over 4,000,000 sequences"
    assert passes_text(160, 1) == "160 passes over 1 sequence"
    assert passes_text(99_900, 100_000) == "one pass over 100,000 sequences"
