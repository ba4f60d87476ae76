"""Pretraining: it learns, it resumes to the bit, and two workers do what one does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import s3fs
import torch

from pipeline.core.errors import ConfigError, CorruptArtifact, SourceError, TrainingDiverged
from pipeline.core.events import Event, Log, Metrics, Progress
from pipeline.core.stage import Context
from pipeline.core.workers import Workers
from stages.datasets.dataset_factories import PerceptsFactory
from stages.datasets.sequences import PerceptSource
from stages.models.artifacts import Encoder
from stages.models.composite import Composite
from stages.models.pretrained import Pretrained
from stages.percepts.artifacts import Percepts, Statistics
from stages.pretrain import PretrainConfig, pretrain
from stages.pretraining.config import OptimizerConfig
from stages.serving.encoder import _load_pyfunc, example
from tests.stages.made_configs import changed
from tests.stages.made_percepts import DIM, make_percepts

Inputs = dict[str, Any]
SMALL = partial(
    changed,
    PretrainConfig(),
    **{"num_units": 12, "num_layers": 2, "num_frames_in": 6, "num_frames_out": 4, "dropout": 0.2, "window_stride": 2},
    validation_fraction=0.2,
    batch_size=5,
    num_steps=24,
    optimizer=OptimizerConfig(learning_rate=1e-2, num_warmup_steps=4),
    validate_every_steps=10,
    checkpoint_every_steps=5,
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    percepts, statistics = make_percepts(tmp_path_factory.mktemp("store"), {"unlabelled": 20, "test": 5})
    return {"percepts": percepts, "statistics": statistics}


def files_of(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def history_of(encoder: Encoder) -> dict[str, list[dict[str, Any]]]:
    history: dict[str, list[dict[str, Any]]] = json.loads(Path(encoder.path("history.json")).read_text())
    return history


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Exception | float], None]:
    """Makes the source raise, or give a value, at a step."""
    batch = PerceptSource.batch

    def arrange(stop: int, what: Exception | float) -> None:
        def stopping(self: PerceptSource, step: int, *share: int) -> npt.NDArray[np.float32]:
            x_TBD = batch(self, step, *share)
            if step == stop:
                if isinstance(what, Exception):
                    raise what
                x_TBD[:] = what
            return x_TBD

        monkeypatch.setattr(PerceptSource, "batch", stopping)

    return arrange


def test_it_learns_and_leaves_a_whole_artifact(tmp_path: Path, inputs: Inputs) -> None:
    config = SMALL(num_units=24, num_layers=1, dropout=0.0, num_steps=100, batch_size=16)
    context = Context.for_test(tmp_path)
    encoder = pretrain(config, context, **inputs)
    assert sorted(files_of(tmp_path / "out")) == ["history.json", "model.safetensors"]
    history = history_of(encoder)
    assert [point["step"] for point in history["train"]] == list(range(100))
    assert [point["step"] for point in history["validation"]] == list(range(0, 101, 10))
    assert history["train"][0].keys() == {
        "step", "loss", "reconstruct_loss", "predict_loss", "learning_rate", "gradient_norm",
    }  # fmt: skip
    first, last = history["validation"][0], history["validation"][-1]
    # Standardised percepts: the mean frame has an error of about one a dimension.
    assert first["loss"] == pytest.approx(2 * DIM, rel=0.15)
    assert last["loss"] < 0.25 * first["loss"]
    assert last["loss"] == pytest.approx(last["reconstruct_loss"] + last["predict_loss"])
    assert context.facts["validation_loss"] == last["loss"]
    ledger = pd.read_parquet(inputs["percepts"].path("ledger.parquet"))
    learned = ledger[ledger.part == "unlabelled"]
    for name, total in (("num_videos", len(learned)), ("num_frames", learned.frames_decoded.sum())):
        assert context.facts[f"training/{name}"] + context.facts[f"validation/{name}"] == total
    assert context.facts["validation/num_videos"] == 4  # a fifth of 20


def test_the_first_loss_is_that_of_the_whole_batch_in_numpy(tmp_path: Path, inputs: Inputs) -> None:
    config = SMALL(num_steps=1, dropout=0.0, decoders="future")
    history = history_of(pretrain(config, Context.for_test(tmp_path), **inputs))
    source = opener(config, **inputs)()
    torch.manual_seed(config.training.seed)
    model = Composite(config.model.spec(DIM))
    x_TBD = source.batch(0, config.training.batch_size)
    with torch.no_grad():
        predicted = model(torch.from_numpy(x_TBD[:6]), torch.from_numpy(x_TBD[6:])).prediction.numpy()
    error = np.square(predicted.astype(np.float64) - x_TBD[6:]).sum(-1).mean()
    assert history["train"][0]["loss"] == pytest.approx(error, rel=1e-5)
    assert history["train"][0]["reconstruct_loss"] is None


def opener(config: PretrainConfig, percepts: Percepts, statistics: Statistics) -> PerceptsFactory:
    return PerceptsFactory(
        percepts=percepts,
        statistics=statistics,
        parts=config.parts,
        num_frames=config.model.num_frames,
        stride=config.window_stride,
        validation_fraction=config.validation_fraction,
        seed=config.training.seed,
    )


@pytest.mark.parametrize("stops", [(3,), (5,), (12, 13, 23)])
def test_a_resumed_training_equals_an_undisturbed_one_to_the_bit(
    tmp_path: Path,
    inputs: Inputs,
    stops: tuple[int, ...],
    stop_at: Callable[[int, Exception | float], None],
) -> None:
    config = SMALL()
    context = Context.for_test(tmp_path / "stopped")
    for stop in stops:
        stop_at(stop, InterruptedError("stopped"))
        with pytest.raises(InterruptedError):
            pretrain(config, context, **inputs)
        newest = max((int(path.stem[5:]) for path in (tmp_path / "stopped/out/checkpoints").glob("*")), default=0)
        assert newest == stop // 5 * 5
    stop_at(-1, 0.0)
    pretrain(config, context, **inputs)
    pretrain(config, Context.for_test(tmp_path / "undisturbed"), **inputs)
    assert files_of(tmp_path / "stopped/out") == files_of(tmp_path / "undisturbed/out")


def test_checkpoints_in_a_bucket_resume_to_the_bit(
    tmp_path: Path, inputs: Inputs, s3_bucket: str, stop_at: Callable[[int, Exception | float], None]
) -> None:
    context = Context.for_test(tmp_path, uri=f"{s3_bucket}/pretrain")
    stop_at(12, InterruptedError("stopped"))
    with pytest.raises(InterruptedError):
        pretrain(SMALL(), context, **inputs)
    bucket = s3fs.S3FileSystem()
    assert sorted(
        path.rpartition("/")[2] for path in bucket.glob(f"{s3_bucket}/pretrain/checkpoints/*.safetensors")
    ) == [
        "step-00000005.safetensors",
        "step-00000010.safetensors",
    ]
    stop_at(-1, 0.0)
    pretrain(SMALL(), context, **inputs)
    pretrain(SMALL(), Context.for_test(tmp_path / "undisturbed"), **inputs)
    found = {path.rpartition("/")[2]: bucket.cat_file(path) for path in bucket.find(f"{s3_bucket}/pretrain")}
    assert found == files_of(tmp_path / "undisturbed/out")


def test_a_broken_checkpoint_is_passed_over(
    tmp_path: Path, inputs: Inputs, stop_at: Callable[[int, Exception | float], None]
) -> None:
    said: list[Event] = []
    context = Context.for_test(tmp_path / "stopped", workers=Workers(emit=said.append))
    stop_at(18, InterruptedError("stopped"))
    with pytest.raises(InterruptedError):
        pretrain(SMALL(), context, **inputs)
    stop_at(-1, 0.0)
    checkpoints = sorted((tmp_path / "stopped/out/checkpoints").iterdir())
    assert [path.name for path in checkpoints] == ["step-00000010.safetensors", "step-00000015.safetensors"]
    checkpoints[-1].write_bytes(checkpoints[-1].read_bytes()[:-100])
    pretrain(SMALL(), context, **inputs)
    lines = [event.line for event in said if isinstance(event, Log)]
    assert lines[0].startswith("passing over a checkpoint: ")
    assert lines[1:] == ["resuming from step 10 of 24"]
    pretrain(SMALL(), Context.for_test(tmp_path / "undisturbed"), **inputs)
    assert files_of(tmp_path / "stopped/out") == files_of(tmp_path / "undisturbed/out")


def test_progress_and_curves_are_told_live(tmp_path: Path, inputs: Inputs) -> None:
    said: list[Event] = []
    encoder = pretrain(SMALL(), Context.for_test(tmp_path, workers=Workers(emit=said.append)), **inputs)
    last = [event for event in said if isinstance(event, Progress)][-1]
    assert (last.done, last.total, last.unit) == (24, 24, "steps")
    assert last.note.startswith("loss ")
    curves = [event for event in said if isinstance(event, Metrics)]
    told = {event.step: event.values["validation_loss"] for event in curves if "validation_loss" in event.values}
    assert told == {point["step"]: point["loss"] for point in history_of(encoder)["validation"]}
    assert all(event.values["sequences_per_second"] > 0 for event in curves if "loss" in event.values)


def test_a_finished_training_is_not_begun_again(
    tmp_path: Path, inputs: Inputs, stop_at: Callable[[int, Exception | float], None]
) -> None:
    pretrain(SMALL(), Context.for_test(tmp_path), **inputs)
    before = files_of(tmp_path / "out")
    stop_at(0, AssertionError("a step was taken"))
    pretrain(SMALL(), Context.for_test(tmp_path), **inputs)
    assert files_of(tmp_path / "out") == before


def test_only_broken_checkpoints_are_an_error(tmp_path: Path, inputs: Inputs) -> None:
    checkpoint = tmp_path / "out/checkpoints/step-00000005.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"no")
    with pytest.raises(CorruptArtifact, match="remove that directory"):
        pretrain(SMALL(), Context.for_test(tmp_path), **inputs)


def test_divergence_names_the_step_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, inputs: Inputs, stop_at: Callable[[int, Exception | float], None]
) -> None:
    stop_at(13, float("nan"))
    with pytest.raises(TrainingDiverged, match=r"step 13: loss nan, gradient norm nan"):
        pretrain(SMALL(), Context.for_test(tmp_path), **inputs)
    checkpoints = sorted((tmp_path / "out/checkpoints").iterdir())
    assert [path.name for path in checkpoints] == ["step-00000005.safetensors", "step-00000010.safetensors"]


@pytest.mark.parametrize("world_size", [2, 3])
def test_workers_together_see_what_one_sees(inputs: Inputs, world_size: int) -> None:
    config = SMALL()
    source = opener(config, **inputs)()
    for step in (0, 7, 100):
        alone = source.batch(step, config.training.batch_size)
        shares = [source.batch(step, config.training.batch_size, rank, world_size) for rank in range(world_size)]
        np.testing.assert_array_equal(np.concatenate(shares, axis=1), alone)


def test_validation_videos_are_never_trained_on(inputs: Inputs) -> None:
    source = opener(SMALL(), **inputs)()
    assert len(source.train.store.videos) == 16
    assert len(source.validation.store.videos) == 4
    assert not set(source.train.store.videos) & set(source.validation.store.videos)


def test_bad_inputs_are_named(tmp_path: Path, inputs: Inputs) -> None:
    context = Context.for_test(tmp_path)
    with pytest.raises(ConfigError, match=r"a window is 34 frames long, and the longest of 20 videos has 24 frames"):
        pretrain(SMALL(num_frames_in=30), context, **inputs)
    with pytest.raises(SourceError, match="parts here: test, unlabelled"):
        pretrain(SMALL(parts=("nowhere",)), context, **inputs)
    with pytest.raises(ConfigError, match="give one"):
        pretrain(SMALL(), context, percepts=inputs["percepts"])
    with pytest.raises(ConfigError, match="num_steps is 0"):
        SMALL(num_steps=0)
    with pytest.raises(ConfigError, match="num_units"):
        SMALL(num_units=0)


def test_the_encoder_stands_alone(tmp_path: Path, inputs: Inputs) -> None:
    encoder = pretrain(SMALL(), Context.for_test(tmp_path), **inputs)
    served = _load_pyfunc(encoder.uri)
    source = opener(SMALL(), **inputs)()
    raw_NTD = source.train.gather(np.arange(3)).swapaxes(0, 1)
    moments = inputs["statistics"].moments()
    x_NTD = (raw_NTD.astype(np.float64) - moments.mean_D) / moments.std_D
    state = encoder.load().encode(torch.from_numpy(x_NTD.swapaxes(0, 1).astype(np.float32)))
    expected = torch.cat([part[0] for layer in state for part in layer], dim=1).detach().numpy()
    found = served.predict(raw_NTD)
    assert found.shape == (3, 2 * 2 * 12)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    example_in, example_out = example(encoder.uri)
    answer = served.predict(example_in)
    assert (answer.shape, answer.dtype) == (example_out.shape, example_out.dtype)
    with pytest.raises(ConfigError, match=r"\(N, T, 8\)"):
        served.predict(raw_NTD[0])


def test_a_pretrained_model_survives_its_file(tmp_path: Path, inputs: Inputs) -> None:
    encoder = pretrain(SMALL(), Context.for_test(tmp_path), **inputs)
    pretrained = Pretrained.load(encoder.uri)
    pretrained.save(str(tmp_path / "again.safetensors"))
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "out/model.safetensors").read_bytes()


def test_a_residual_model_starts_at_copying(tmp_path: Path, inputs: Inputs) -> None:
    config = SMALL(residual=True, max_validation_batches=10_000)
    history = history_of(pretrain(config, Context.for_test(tmp_path), **inputs))
    x_TBD = np.concatenate(list(opener(config, **inputs)().validation_batches()), axis=1)
    past_TBD, future_TBD = np.split(x_TBD, [config.model.num_frames_in])
    copied = ((future_TBD - past_TBD[-1]) ** 2).sum(-1).mean()
    assert history["validation"][0]["predict_loss"] == pytest.approx(copied, rel=1e-5)
    assert history["validation"][-1]["predict_loss"] < copied
    with pytest.raises(ConfigError, match="leave start_at_mean"):
        SMALL(residual=True, start_at_mean=True)


@pytest.mark.parametrize("kind", ["adamw", "published"])
def test_half_precision_learns_and_resumes_to_the_bit(
    tmp_path: Path,
    inputs: Inputs,
    kind: Literal["adamw", "published"],
    stop_at: Callable[[int, Exception | float], None],
) -> None:
    optimizer = OptimizerConfig(kind=kind, learning_rate=1e-2, num_warmup_steps=4)
    config = SMALL(precision="bfloat16", start_at_mean=True, optimizer=optimizer)
    context = Context.for_test(tmp_path / "stopped")
    stop_at(12, InterruptedError("stopped"))
    with pytest.raises(InterruptedError):
        pretrain(config, context, **inputs)
    stop_at(-1, 0.0)
    half = history_of(pretrain(config, context, **inputs))
    pretrain(config, Context.for_test(tmp_path / "undisturbed"), **inputs)
    assert files_of(tmp_path / "stopped/out") == files_of(tmp_path / "undisturbed/out")
    single = history_of(
        pretrain(
            replace(config, training=replace(config.training, precision="float32")),
            Context.for_test(tmp_path / "single"),
            **inputs,
        )
    )
    assert half["train"][0]["loss"] != single["train"][0]["loss"]
    assert half["train"][0]["loss"] == pytest.approx(single["train"][0]["loss"], rel=1e-2)
    assert half["train"][-1]["loss"] == pytest.approx(single["train"][-1]["loss"], rel=0.05)
