"""A training with feedback validates in open loop: what it keeps is best by the frames that a decoder makes alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.stage import Context
from stages.models.config import FeedbackConfig
from stages.pretrain import pretrain
from stages.pretraining.config import OptimizerConfig, WeightsConfig
from tests.stages.made_percepts import make_percepts
from tests.stages.test_pretrain import SMALL, opener


@pytest.mark.parametrize(
    "feedback",
    [FeedbackConfig(probability=1.0, begin=0.0, end=0.5), FeedbackConfig(noise_std=0.3)],
    ids=["own", "noise"],
)
def test_with_feedback_what_is_kept_is_best_in_open_loop(tmp_path: Path, feedback: FeedbackConfig) -> None:
    config = SMALL(predict_conditional=True, dropout=0.0, feedback=feedback, weights=WeightsConfig(keep="best"))
    percepts, statistics = make_percepts(tmp_path / "store", {"unlabelled": 20})
    encoder = pretrain(config, Context.for_test(tmp_path), percepts=percepts, statistics=statistics)
    source, model = opener(config, percepts, statistics)(print), encoder.load()
    sums = torch.zeros(2, dtype=torch.float64)
    for x in source.validation_batches():
        x_TBD = torch.from_numpy(np.ascontiguousarray(x))
        past_TBD, future_TBD = x_TBD[:6], x_TBD[6:]
        errors = [
            (model.open_loop_means(past_TBD).reconstruction.flip(0) - past_TBD).square().sum(-1).mean(0),
            (model.open_loop_means(past_TBD).prediction - future_TBD).square().sum(-1).mean(0),
        ]
        sums += torch.tensor([sum(error.sum().item() for error in errors), x_TBD.shape[1]])
    history = encoder.history()
    assert history is not None
    losses = [point["loss"] for point in history.validation]
    assert history.kept_loss == pytest.approx(sums[0].item() / sums[1].item(), rel=1e-4)
    assert history.kept_loss == min(losses)


def test_the_weights_of_reading_start_at_zero_and_learn_slowly(tmp_path: Path) -> None:
    """AdamW's first step moves every weight that has a gradient by the learning rate."""
    percepts, statistics = make_percepts(tmp_path / "store", {"unlabelled": 20})
    feedback = FeedbackConfig(probability=1.0, begin=0.0, end=0.0, input_rate=0.1)
    optimizer = OptimizerConfig(learning_rate=1e-2, num_warmup_steps=0)
    config = SMALL(predict_conditional=True, feedback=feedback, optimizer=optimizer, num_steps=1)
    trained = pretrain(config, Context.for_test(tmp_path), percepts=percepts, statistics=statistics).load()
    (reading,) = trained.reading_weights()
    assert reading.abs().max().item() == pytest.approx(1e-3, rel=1e-3)
    assert trained.predict_decoder is not None
    assert trained.predict_decoder.output.bias.abs().max().item() == pytest.approx(1e-2, rel=1e-3)
