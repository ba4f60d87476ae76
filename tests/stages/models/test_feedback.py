"""Scheduled sampling in parallel passes, against the model's own open loop and against a step-by-step transcription."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.core.errors import ConfigError
from stages.models.composite import Composite
from stages.models.config import CompositeSpec, FeedbackConfig
from stages.models.feedback import Feedback, read_own_frames

NUM_IN, NUM_OUT, BATCH, DIM = 5, 4, 3, 6


@pytest.fixture(params=["bernoulli", "gaussian"])
def model(request: pytest.FixtureRequest) -> Composite:
    torch.manual_seed(1)
    config = CompositeSpec(
        dim=DIM,
        num_units=7,
        num_layers=2,
        reconstruct_conditional=True,
        predict_conditional=True,
        num_frames_in=NUM_IN,
        num_frames_out=NUM_OUT,
        loss=request.param,
    )
    return Composite(config).double()


@pytest.fixture
def frames() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x_TBD = torch.rand(NUM_IN + NUM_OUT, BATCH, DIM, generator=generator, dtype=torch.float64)
    return x_TBD[:NUM_IN], x_TBD[NUM_IN:]


def test_always_own_and_enough_passes_is_the_open_loop(model: Composite, frames: tuple[Tensor, Tensor]) -> None:
    always = Feedback(torch.ones(NUM_IN - 1, BATCH, dtype=torch.bool), num_passes=NUM_IN - 1)
    outputs, alone = model(*frames, always), model.open_loop(frames[0])
    for ours, theirs in zip(outputs, alone, strict=True):
        assert ours is not None
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)


def test_never_own_is_teacher_forcing(model: Composite, frames: tuple[Tensor, Tensor]) -> None:
    never = Feedback(torch.zeros(NUM_IN - 1, BATCH, dtype=torch.bool), num_passes=2)
    for ours, theirs in zip(model(*frames, never), model(*frames), strict=True):
        assert ours is not None
        assert torch.equal(ours, theirs)


def test_a_mixture_is_what_single_steps_make_of_it(model: Composite, frames: tuple[Tensor, Tensor]) -> None:
    """The transcription walks step by step, and reads its own last mean or the true frame as drawn."""
    is_own_SB = torch.rand(NUM_IN - 1, BATCH, generator=torch.Generator().manual_seed(3)) < 0.5
    past_TBD, future_TBD = frames
    decoder, state = model.predict_decoder, model.encode(past_TBD)
    assert decoder is not None
    expected, read_BD = [], None
    for step in range(NUM_OUT):
        h_GTBH, state = decoder.lstm(None if read_BD is None else read_BD[None, None], state, num_steps=1)
        expected.append(decoder.read_out(h_GTBH[0], None)[0])
        if step + 1 < NUM_OUT:
            read_BD = torch.where(is_own_SB[step][:, None], model.means(expected[-1]), future_TBD[step])
    prediction = model(past_TBD, future_TBD, Feedback(is_own_SB, num_passes=NUM_OUT - 1)).prediction
    torch.testing.assert_close(prediction, torch.stack(expected), rtol=0, atol=1e-13)


def test_gradients_flow_through_the_training_pass_alone(model: Composite, frames: tuple[Tensor, Tensor]) -> None:
    """Finite differences of a weight, with the frames that are read held where they were."""
    past_TBD, future_TBD = frames
    feedback = Feedback(torch.ones(NUM_IN - 1, BATCH, dtype=torch.bool), num_passes=2)
    model.losses(model(past_TBD, future_TBD, feedback), past_TBD, future_TBD).total.backward()
    decoder = model.predict_decoder
    assert decoder is not None
    own_TBD = torch.cat([torch.zeros_like(future_TBD[:1]), future_TBD])
    with torch.no_grad():
        read_SBD = feedback.mix(
            future_TBD[:-1],
            lambda read: decoder.means(decoder._run(read[:-1], model.encode(past_TBD), len(read), None)),
        )
        own_TBD = torch.cat([read_SBD, future_TBD[-1:]])
        weight, place, change = decoder.output.weight, (2, 3), 1e-6

        def loss(delta: float) -> float:
            weight[place] += delta
            output = decoder(model.encode(past_TBD), own_TBD, past_TBD)
            weight[place] -= delta
            outputs = model(past_TBD, future_TBD)._replace(prediction=output)
            value = model.losses(outputs, past_TBD, future_TBD).prediction
            assert value is not None
            return float(value)

        slope = (loss(change) - loss(-change)) / (2 * change)
    assert weight.grad is not None
    assert float(weight.grad[place]) == pytest.approx(slope, rel=1e-6)


def test_noise_is_added_to_the_true_frames_alone(model: Composite, frames: tuple[Tensor, Tensor]) -> None:
    past_TBD, future_TBD = frames
    decoder, state = model.predict_decoder, model.encode(past_TBD)
    assert decoder is not None
    torch.manual_seed(4)
    noisy = decoder(state, future_TBD, past_TBD, Feedback(None, num_passes=1, noise_std=0.5))
    torch.manual_seed(4)
    read_SBD = future_TBD[:-1] + 0.5 * torch.randn_like(future_TBD[:-1])
    torch.testing.assert_close(noisy, decoder(state, torch.cat([read_SBD, future_TBD[-1:]]), past_TBD))
    # Frames that are the decoder's own have none.
    always = torch.ones(NUM_IN - 1, BATCH, dtype=torch.bool)
    own, clean = (decoder(state, future_TBD, past_TBD, Feedback(always, NUM_IN - 1, std)) for std in (0.5, 0.0))
    torch.testing.assert_close(own, clean)


def test_the_probability_rises_linearly_between_two_shares_of_the_training() -> None:
    config = FeedbackConfig(probability=0.8, begin=0.25, end=0.75)
    values = [config.probability_at(step, 100) for step in (0, 25, 50, 75, 99)]
    assert values == pytest.approx([0, 0, 0.4, 0.8, 0.8])
    assert read_own_frames(config, seed=0, step=25, num_steps=100, num_reads=3, batch_size=4, rows=slice(0, 4)) is None


def test_the_draw_has_its_probability_and_does_not_depend_on_how_many_workers_share_it() -> None:
    config = FeedbackConfig(probability=0.3, begin=0, end=0)
    draw = {"seed": 5, "step": 7, "num_steps": 10, "num_reads": 40, "batch_size": 400}
    whole = read_own_frames(config, rows=slice(0, 400), **draw)
    halves = [read_own_frames(config, rows=rows, **draw) for rows in (slice(0, 150), slice(150, 400))]
    assert whole is not None
    assert halves[0] is not None
    assert halves[1] is not None
    assert torch.equal(whole, torch.cat([halves[0], halves[1]], 1))
    # The standard deviation of the mean of 16,000 draws is 0.0036.
    assert float(whole.double().mean()) == pytest.approx(0.3, abs=5 * np.sqrt(0.3 * 0.7 / 16_000))


def test_a_decoder_whose_reading_weights_are_zero_is_the_unconditional_one(
    model: Composite, frames: tuple[Tensor, Tensor]
) -> None:
    plain = replace(model.config, reconstruct_conditional=False, predict_conditional=False)
    unconditional = Composite(plain).double()
    reading = model.reading_weights()
    assert [weight.shape for weight in reading] == [(1, 4 * 7, DIM)] * 2
    assert unconditional.reading_weights() == []
    for weight in reading:
        torch.nn.init.zeros_(weight)
    unconditional.load_state_dict({name: model.state_dict()[name] for name in unconditional.state_dict()})
    for ours, theirs in zip((*model(*frames), *model.open_loop(frames[0])), unconditional(*frames) * 2, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "settings",
    [
        {"probability": 1.5},
        {"probability": float("nan")},
        {"begin": 0.7, "end": 0.6},
        {"end": 2},
        {"num_passes": 0},
        {"noise_std": -0.1},
        {"input_rate": 0, "probability": 1},
        {"input_rate": 1.5, "probability": 1},
        {"input_rate": 0.1},
    ],
)
def test_settings_outside_their_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"feedback|num_passes is 0|noise_std is -0"):
        FeedbackConfig(**settings)  # type: ignore[arg-type]
