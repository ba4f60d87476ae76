"""Pretraining on pixels: digits and patches."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.arrays import write_array
from pipeline.core.stage import Context
from stages.datasets.artifacts import Digits, Patches, PatchesManifest, write_digits
from stages.datasets.dataset_factories import DigitsFactory
from stages.datasets.mnist import PARTS, DigitSet
from stages.datasets.patches import ChannelMoments
from stages.models.pretrained import Pretrained
from stages.percepts.transforms import Standardisation
from stages.pretrain import pretrain
from tests.stages.test_pretrain import SMALL, history_of


def test_digits_and_patches_are_learned_from_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sets = {part: DigitSet(rng.integers(0, 255, (9, 28, 28), np.uint8), np.arange(9, dtype=np.uint8)) for part in PARTS}
    write_digits(str(tmp_path / "digits"), sets)
    config = SMALL(num_steps=2, num_layers=1, loss="bernoulli", max_validation_batches=1, batch_size=2)
    encoder = pretrain(config, Context.for_test(tmp_path / "a"), digits=Digits(str(tmp_path / "digits")))
    assert Pretrained.load(encoder.uri).transform is None
    # A frame of 4096 pixels at probability one half.
    assert history_of(encoder)["train"][0]["predict_loss"] == pytest.approx(4096 * np.log(2), rel=0.05)

    for part in PARTS:
        write_array(str(tmp_path / f"patches/{part}.npy"), rng.integers(0, 255, (4, 10, 32, 32, 3), np.uint8))
    moments = ChannelMoments(mean=(127,) * 3, std=(74,) * 3)
    Patches(str(tmp_path / "patches")).write(PatchesManifest(num_frames=10, parts={}, moments=moments))
    config = SMALL(num_steps=2, num_layers=1, batch_size=2)
    encoder = pretrain(config, Context.for_test(tmp_path / "b"), patches=Patches(str(tmp_path / "patches")))
    standardisation = Pretrained.load(encoder.uri).transform
    assert isinstance(standardisation, Standardisation)
    assert standardisation.scale_D.shape == (3072,)


def test_a_start_at_the_mean_costs_what_the_mean_frame_costs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = np.zeros((9, 28, 28), np.uint8)
    images[:, 8:20, 10:18] = rng.integers(100, 255, (9, 12, 8))
    write_digits(str(tmp_path / "digits"), {part: DigitSet(images, np.arange(9, dtype=np.uint8)) for part in PARTS})
    digits = Digits(str(tmp_path / "digits"))
    config = SMALL(
        num_steps=1, num_layers=1, loss="bernoulli", max_validation_batches=2, batch_size=64, start_at_mean=True
    )
    history = history_of(pretrain(config, Context.for_test(tmp_path / "a"), digits=digits))
    source = DigitsFactory(digits=digits, num_frames=10, seed=0)()
    mean_D = np.mean([source.batch(step, 64) for step in range(8)], axis=(0, 1, 2), dtype=np.float64).clip(1e-3, 1)
    x_TBD = np.concatenate(list(islice(source.validation_batches(), 2)), axis=1)[6:]
    cost = -(x_TBD * np.log(mean_D) + (1 - x_TBD) * np.log(1 - mean_D)).sum(-1).mean()
    # The weights' random start is still to be heard: bias and weights together are a little worse than the mean frame.
    assert cost < history["validation"][0]["predict_loss"] < cost + 40
