"""What ends a training ends it with one clear error, an exit status, and the last good checkpoint in its place."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pytest
import torch

from pipeline.core.errors import ConfigError, CorruptArtifact, OutOfMemory, PerceptsError, TrainingDiverged
from pipeline.core.stage import Context
from pipeline.options.command_line import run_command
from stages.datasets.sequences import PerceptSource
from stages.models.config import CompositeConfig
from stages.percepts.artifacts import Percepts
from stages.pretrain import PretrainConfig, pretrain
from stages.pretraining.config import OptimizerConfig, TrainingConfig
from tests.stages.made_percepts import SHARD, make_percepts

CONFIG = PretrainConfig(
    model=CompositeConfig(num_units=8, num_frames_in=6, num_frames_out=4),
    training=TrainingConfig(
        batch_size=6,
        num_steps=20,
        optimizer=OptimizerConfig(learning_rate=1e-2, num_warmup_steps=4),
        validate_every_steps=10,
        checkpoint_every_steps=5,
    ),
    window_stride=2,
    validation_fraction=0.2,
)
BAD_STEP = 13
CUDA_WORDS = "CUDA out of memory. Tried to allocate 2.00 GiB"
HOST_WORDS = (
    "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
)

Inputs = dict[str, Any]
Trouble = Callable[[Path, npt.NDArray[Any]], None]
"""(root of the store, the batch that was just read) -> makes it happen."""


def raising(error: Exception) -> Trouble:
    def happen(root: Path, x_TBD: npt.NDArray[Any]) -> None:
        raise error

    return happen


def nan(root: Path, x_TBD: npt.NDArray[Any]) -> None:
    x_TBD[:] = float("nan")


def overwrite_shard(root: Path, x_TBD: npt.NDArray[Any]) -> None:
    with (root / SHARD).open("r+b") as file:
        file.seek(2000)
        file.write(b"other percepts")


def replace_shard(root: Path, x_TBD: npt.NDArray[Any]) -> None:
    other = root / "other"
    other.write_bytes((root / SHARD).read_bytes() + b"!")
    os.replace(other, root / SHARD)


def change_manifest(root: Path, x_TBD: npt.NDArray[Any]) -> None:
    listed = root / "extract/made/shards.json"
    listed.write_bytes(listed.read_bytes() + b" ")


GOES_ON = "the next run goes on from the checkpoint of step 10"
TROUBLES: dict[str, tuple[Trouble, type[PerceptsError], str, int]] = {
    "host memory": (
        raising(MemoryError()),
        OutOfMemory,
        rf"this machine ran out of memory with 6 sequences .* --max-sequences-per-worker 3, .*; {GOES_ON}",
        1,
    ),
    "host memory, in torch": (raising(RuntimeError(HOST_WORDS)), OutOfMemory, rf"this machine ran out .* {GOES_ON}", 1),
    "GPU memory": (
        raising(torch.OutOfMemoryError(CUDA_WORDS)),
        OutOfMemory,
        rf"the GPU ran out of memory with 6 sequences at once \(CUDA out of memory.*{GOES_ON}",
        1,
    ),
    "not a number": (nan, TrainingDiverged, r"step 13: loss nan, .*lower the learning rate", 1),
    "shard written to": (overwrite_shard, CorruptArtifact, r"circles.parquet has changed while it was being read", 1),
    "shard replaced": (replace_shard, CorruptArtifact, r"circles.parquet has changed while it was being read", 1),
    "manifest": (change_manifest, CorruptArtifact, r"shards.json has changed while its percepts were being read", 1),
}


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    percepts, statistics = make_percepts(tmp_path / "store", {"unlabelled": 20})
    return {"percepts": percepts, "statistics": statistics}


def make_trouble(monkeypatch: pytest.MonkeyPatch, root: Path, trouble: Trouble) -> None:
    batch = PerceptSource.batch

    def troubled(self: PerceptSource, step: int, *share: int) -> npt.NDArray[Any]:
        x_TBD = batch(self, step, *share)
        if step == BAD_STEP:
            trouble(root, x_TBD)
        return x_TBD

    monkeypatch.setattr(PerceptSource, "batch", troubled)


def checkpoints(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "out/checkpoints").iterdir())


def ends_with(status: int, work: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> str:
    """Runs it as a command does; returns what it said."""
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: work() and None)
    assert ended.value.code == status
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


@pytest.mark.parametrize("name", TROUBLES)
def test_trouble_ends_with_one_clear_error_and_the_last_good_checkpoint(
    name: str, tmp_path: Path, inputs: Inputs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trouble, error_type, words, status = TROUBLES[name]
    context = Context.for_test(tmp_path)
    with monkeypatch.context() as patch:
        make_trouble(patch, tmp_path / "store", trouble)
        with pytest.raises(error_type, match=words):
            pretrain(CONFIG, context, **inputs)
        assert checkpoints(tmp_path) == ["step-00000005.safetensors", "step-00000010.safetensors"]
    if error_type is CorruptArtifact:
        # Still not what it was: said again, before anything is trained on it.
        said = ends_with(status, lambda: pretrain(CONFIG, context, **inputs), capsys)
        assert said.startswith("failed: ")
        make_percepts(tmp_path / "store", {"unlabelled": 20})
    resumed = pretrain(CONFIG, context, **inputs)
    undisturbed = pretrain(CONFIG, Context.for_test(tmp_path / "undisturbed"), **inputs)
    for file in ("model.safetensors", "history.json"):
        assert Path(resumed.path(file)).read_bytes() == Path(undisturbed.path(file)).read_bytes()


def test_a_missing_shard_is_named(tmp_path: Path, inputs: Inputs, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "store" / SHARD).unlink()
    said = ends_with(1, lambda: pretrain(CONFIG, Context.for_test(tmp_path), **inputs), capsys)
    assert said.startswith("failed: ")
    assert "circles.parquet" in said
    assert "run the recipe again" in said


def test_a_window_longer_than_every_video_is_refused(
    tmp_path: Path, inputs: Inputs, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(CONFIG, model=replace(CONFIG.model, num_frames_in=30))
    said = ends_with(2, lambda: pretrain(config, Context.for_test(tmp_path), **inputs), capsys)
    assert "a window is 34 frames long, and the longest of 20 videos has 24 frames" in said
    assert "give fewer num_frames_in" in said


@pytest.mark.root
def test_a_full_disk_is_said_and_leaves_the_checkpoint_before(
    tmp_path: Path, inputs: Inputs, capsys: pytest.CaptureFixture[str]
) -> None:
    """Room for two checkpoints and not for a third, on a disk of its own."""
    config = replace(CONFIG, model=replace(CONFIG.model, num_units=64))
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1600k", "tmpfs", str(disk)], check=True)
    try:
        context = Context.for_test(disk)
        said = ends_with(2, lambda: pretrain(config, context, **inputs), capsys)
        assert said.startswith(
            f"error: no space is left to write a checkpoint to {disk}/out: free some there; the next"
        )
        kept = checkpoints(disk)
        assert kept
        assert not [name for name in kept if ".tmp-" in name]
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        resumed = Path(pretrain(config, context, **inputs).path("model.safetensors")).read_bytes()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    undisturbed = pretrain(config, Context.for_test(tmp_path / "undisturbed"), **inputs)
    assert resumed == Path(undisturbed.path("model.safetensors")).read_bytes()


def test_percepts_of_another_artifact_are_not_gone_on_with(tmp_path: Path, inputs: Inputs) -> None:
    """A checkpoint says what it was trained on."""
    with pytest.MonkeyPatch.context() as patch:
        make_trouble(patch, tmp_path / "store", raising(InterruptedError("stopped")))
        with pytest.raises(InterruptedError):
            pretrain(CONFIG, Context.for_test(tmp_path), **inputs)
    others, _ = make_percepts(tmp_path / "others", {"unlabelled": 30})
    with pytest.raises(CorruptArtifact, match=r"began on data that have changed since: restore them, or remove"):
        pretrain(CONFIG, Context.for_test(tmp_path), percepts=Percepts(others.uri), statistics=inputs["statistics"])


def test_settings_that_do_not_go_together_are_refused(tmp_path: Path, inputs: Inputs) -> None:
    with pytest.raises(ConfigError, match=r"standardised percepts are not: set transform.kind=squashed"):
        pretrain(replace(CONFIG, model=replace(CONFIG.model, loss="bernoulli")), Context.for_test(tmp_path), **inputs)
