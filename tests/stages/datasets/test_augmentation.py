"""Varied training sequences: the same on any number of workers, and moved as the configuration says."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.core.errors import ConfigError
from stages.datasets.augmentation import AugmentationConfig, augment
from stages.datasets.sequences import share

ALL = AugmentationConfig(offset_std=2.0, scale_std=0.5, flip_signs=True)


def varied(config: AugmentationConfig, x_TBD: Tensor, step: int = 3, rank: int = 0, world_size: int = 1) -> Tensor:
    batch_size = 64
    mine_TBD = x_TBD[:, share(batch_size, rank, world_size)]
    return augment(config, mine_TBD, seed=7, step=step, batch_size=batch_size, rank=rank, world_size=world_size)


def test_the_shares_of_any_number_of_workers_are_those_of_the_whole_batch() -> None:
    x_TBD = torch.randn(5, 64, 16, generator=torch.Generator().manual_seed(0))
    whole = varied(ALL, x_TBD)
    for world_size in (2, 3):
        shares = [varied(ALL, x_TBD, rank=rank, world_size=world_size) for rank in range(world_size)]
        torch.testing.assert_close(torch.cat(shares, 1), whole, rtol=0, atol=0)
    assert not torch.equal(varied(ALL, x_TBD, step=4), whole)


def test_a_sequence_moves_as_a_whole_by_what_was_asked() -> None:
    still_TBD = torch.zeros(5, 64, 256)
    moved = varied(AugmentationConfig(offset_std=2.0), still_TBD)
    assert torch.equal(moved, moved[:1].expand_as(moved))
    assert float(moved[0].std()) == pytest.approx(2.0, rel=0.05)
    ones_TBD = torch.ones(5, 64, 256)
    scaled = varied(AugmentationConfig(scale_std=0.5), ones_TBD)
    assert torch.equal(scaled, scaled[:1, :, :1].expand_as(scaled))
    assert float(scaled[0, :, 0].log().std()) == pytest.approx(0.5, rel=0.3)


def test_half_of_the_dimensions_turn_their_sign_for_all_frames() -> None:
    x_TBD = torch.randn(5, 64, 256, generator=torch.Generator().manual_seed(0))
    flipped = varied(AugmentationConfig(flip_signs=True), x_TBD)
    sign = flipped / x_TBD
    assert torch.equal(sign, sign[:1].expand_as(sign))
    assert set(sign.unique().tolist()) == {-1.0, 1.0}
    assert float((sign[0] > 0).float().mean()) == pytest.approx(0.5, abs=0.02)
    assert not torch.equal(sign[0, 0], sign[0, 1])


def test_nothing_asked_leaves_the_sequences_themselves() -> None:
    x_TBD = torch.randn(5, 64, 16)
    assert augment(AugmentationConfig(), x_TBD, seed=0, step=0, batch_size=64, rank=0, world_size=1) is x_TBD


@pytest.mark.parametrize("value", [-1.0, np.inf, np.nan])
def test_a_deviation_is_a_number_from_zero_on(value: float) -> None:
    with pytest.raises(ConfigError, match="offset_std"):
        AugmentationConfig(offset_std=value)
