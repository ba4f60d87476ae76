"""Authority: the definition. The global batch of a step is one thing, however many workers share it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import ConfigError
from stages.datasets import moving_mnist
from stages.datasets.patches import ChannelMoments
from stages.datasets.sequences import (
    MovingMNISTSource,
    OnDevice,
    PatchesSource,
    PerceptSource,
    SequenceSource,
    hold_out,
    share,
)
from stages.percepts.reader import open_store
from stages.percepts.transforms import Standardisation
from stages.percepts.windows import Windows
from stages.video.ledger import VideoRecord
from tests.stages.percepts.made_store import video_name, write_shard

NUM_FRAMES = 6


def moving_mnist_source(seed: int) -> MovingMNISTSource:
    train, validation = np.random.default_rng(0).integers(0, 256, (2, 9, 28, 28)).astype(np.uint8)
    return MovingMNISTSource(
        train=train, validation=validation, seed=seed, num_frames=NUM_FRAMES, num_validation=7, validation_batch=3
    )


def patches_source(seed: int) -> PatchesSource:
    patches = np.random.default_rng(0).integers(0, 256, (11, NUM_FRAMES + 2, 32, 32, 3)).astype(np.uint8)
    moments = ChannelMoments(mean=(100, 110, 120), std=(50, 60, 70))
    return PatchesSource(
        train=patches, validation=patches[:7], moments=moments, num_frames=NUM_FRAMES, seed=seed, validation_batch=3
    )


def percept_source(directory: Path, seed: int) -> PerceptSource:
    write_shard(str(directory / "a.parquet"), {1: [12], 2: [20], 3: [12]})
    store = open_store(str(directory / "a.parquet"))
    windows = Windows(store.select([video_name(1), video_name(2)]), length=NUM_FRAMES)
    validation = Windows(store.select([video_name(3)]), length=NUM_FRAMES)
    rng = np.random.default_rng(0)
    standardise = Standardisation(
        rng.standard_normal(store.dim).astype(np.float32), rng.random(store.dim, dtype=np.float32) + 1
    )
    return PerceptSource(train=windows, validation=validation, transform=standardise, seed=seed, validation_batch=3)


@pytest.fixture(params=["moving_mnist", "patches", "percepts"])
def sources(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[SequenceSource, SequenceSource]:
    """A source, and the same with another seed."""
    if request.param == "percepts":
        return percept_source(tmp_path, 0), percept_source(tmp_path, 1)
    make = moving_mnist_source if request.param == "moving_mnist" else patches_source
    return make(0), make(1)


def test_workers_share_the_global_batch(sources: tuple[SequenceSource, SequenceSource]) -> None:
    source, other_seed = sources
    whole = source.batch(3, 8)
    assert whole.dtype == np.float32
    assert whole.shape == (NUM_FRAMES, 8, source.dim) == (source.num_frames, 8, source.dim)
    assert whole.flags.c_contiguous
    for world_size in (2, 3, 8):
        parts = [source.batch(3, 8, rank, world_size) for rank in range(world_size)]
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    np.testing.assert_array_equal(source.batch(3, 8), whole)
    assert not np.array_equal(source.batch(4, 8), whole)
    assert not np.array_equal(other_seed.batch(3, 8), whole)


def test_a_batch_made_on_a_device_is_the_batch(sources: tuple[SequenceSource, SequenceSource]) -> None:
    source, _ = sources
    assert isinstance(source, OnDevice)
    for step in (3, 4):  # one after the other through the same memory
        made = source.batch_on(torch.device("cpu"), step, 8, 1, 2)
        assert made.is_contiguous()
        np.testing.assert_array_equal(made.numpy(), source.batch(step, 8, 1, 2))


def test_validation_is_fixed(sources: tuple[SequenceSource, SequenceSource]) -> None:
    source, other_seed = sources
    pieces = list(source.validation_batches())
    assert [piece.shape[1] for piece in pieces] == [3, 3, 1]
    assert all(piece.dtype == np.float32 and piece.shape[::2] == (NUM_FRAMES, source.dim) for piece in pieces)
    for again, piece in zip(other_seed.validation_batches(), pieces, strict=True):
        np.testing.assert_array_equal(again, piece)


def test_an_epoch_holds_every_sequence_once(tmp_path: Path) -> None:
    for source in (patches_source(5), percept_source(tmp_path, 5)):
        num = source.num_sequences
        one_by_one = [source.batch(step, 1).tobytes() for step in range(num)]
        assert len(set(one_by_one)) == num


def test_moving_mnist_is_the_generator_s_stream() -> None:
    source = moving_mnist_source(4)
    expected = moving_mnist.sequences(source.train, seed=4, first=3 * 8, num=8, num_frames=NUM_FRAMES)
    np.testing.assert_array_equal(source.batch(3, 8), expected)
    assert source.num_sequences is None


def test_patches_are_cut_and_standardised() -> None:
    source = patches_source(0)
    pieces = np.concatenate(list(source.validation_batches()), axis=1)
    np.testing.assert_array_equal(pieces, source.moments.standardise(source.validation)[:NUM_FRAMES])
    with pytest.raises(ConfigError, match="cut longer ones"):
        PatchesSource(train=source.train, validation=source.validation, moments=source.moments, num_frames=9)


def test_percepts_are_windows_standardised(tmp_path: Path) -> None:
    source = percept_source(tmp_path, 0)
    raw = source.validation.gather(np.arange(len(source.validation)))
    expected = (raw - source.transform.mean_D) / source.transform.scale_D
    np.testing.assert_allclose(np.concatenate(list(source.validation_batches()), axis=1), expected, rtol=1e-6)


@given(batch=st.integers(1, 300), world=st.integers(1, 16))
def test_shares_are_even(batch: int, world: int) -> None:
    if batch < world:
        with pytest.raises(ConfigError, match="cannot be shared"):
            share(batch, 0, world)
        return
    parts = [range(batch)[share(batch, rank, world)] for rank in range(world)]
    assert [n for part in parts for n in part] == list(range(batch))
    assert {len(part) for part in parts} <= {batch // world, batch // world + 1}


def record(name: str, group: str | None = None) -> VideoRecord:
    return VideoRecord(uri=name, sha256=name, size_bytes=1, verdict="ok", group=group)


def test_groups_are_held_out_whole() -> None:
    records = [record(f"video{n}", f"group{n // 3}" if n < 60 else None) for n in range(70)]
    kept, out = hold_out(records, portion=0.2, seed=0)
    assert sorted(kept + out) == sorted(r.sha256 for r in records)
    assert not {r.group or r.sha256 for r in records if r.sha256 in kept} & {
        r.group or r.sha256 for r in records if r.sha256 in out
    }
    assert hold_out(records[::-1], portion=0.2, seed=0) == (kept[::-1], out[::-1])
    assert hold_out(records, portion=0.2, seed=1) != (kept, out)
    assert len(hold_out([record("a"), record("b")], portion=0.01, seed=0)[1]) == 1


def test_holding_everything_out_is_refused() -> None:
    with pytest.raises(ConfigError, match="leaves none to train on"):
        hold_out([record("a", "g"), record("b", "g")], portion=0.5, seed=0)
