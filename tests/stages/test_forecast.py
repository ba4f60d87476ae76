"""Forecasting, against the same errors computed window by window in NumPy."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.core.errors import ConfigError
from pipeline.core.stage import Context
from stages.evaluation.intervals import ratio_interval
from stages.forecast import ForecastConfig, forecast
from stages.models.artifacts import Encoder
from stages.percepts.artifacts import Moments, Percepts, Statistics, write_moments
from stages.percepts.shards import LEDGER_FILE
from stages.pretrain import PretrainConfig, pretrain
from stages.pretraining.config import OptimizerConfig
from stages.video.ledger import write_records
from tests.stages.made_configs import changed
from tests.stages.made_percepts import DIM, circle, make_percepts

Inputs = dict[str, Any]
SMALL = partial(
    changed,
    PretrainConfig(),
    num_units=16,
    num_frames_in=6,
    num_frames_out=4,
    window_stride=2,
    validation_fraction=0.2,
    batch_size=16,
    num_steps=60,
    optimizer=OptimizerConfig(learning_rate=2e-2, num_warmup_steps=4),
)
NUM_TEST, NUM_FRAMES = 5, 24


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    directory = tmp_path_factory.mktemp("store")
    percepts, statistics = make_percepts(directory, {"unlabelled": 20, "test": NUM_TEST}, num_frames=NUM_FRAMES)
    edges = {"percepts": percepts, "statistics": statistics}
    encoder = pretrain(SMALL(), Context.for_test(directory / "pretrain"), **edges)
    return {**edges, "encoders": (encoder,)}


def test_errors_are_those_of_numpy(tmp_path: Path, inputs: Inputs) -> None:
    context = Context.for_test(tmp_path)
    found = forecast(ForecastConfig(window_stride=5, num_frames_ahead=7), context, **inputs).read()
    moments, model = inputs["statistics"].moments(), inputs["encoders"][0].load()
    sums: dict[str, list[Any]] = {"composite LSTM": [], "copy last frame": [], "mean frame": []}
    rebuilt: dict[str, list[Any]] = {"composite LSTM": [], "mean frame": []}
    for video in range(20, 20 + NUM_TEST):
        frames = (circle(video, NUM_FRAMES).astype(np.float32) - moments.mean_D) / moments.std_D
        for start in range(0, NUM_FRAMES - 13 + 1, 5):
            past, future = frames[start : start + 6], frames[start + 6 : start + 13]
            x_T1D = torch.from_numpy(past)[:, None]
            sums["composite LSTM"].append(
                ((model.open_loop_means(x_T1D, 7).prediction.numpy()[:, 0] - future) ** 2).sum(1)
            )
            sums["copy last frame"].append(((past[-1] - future) ** 2).sum(1))
            sums["mean frame"].append((future**2).sum(1))
            rebuilt["composite LSTM"].append(
                ((model.open_loop_means(x_T1D).reconstruction.numpy()[::-1, 0] - past) ** 2).sum(1)
            )
            rebuilt["mean frame"].append((past**2).sum(1))
    assert found.num_windows == len(sums["mean frame"]) == 15
    assert found.num_dims == DIM
    assert found.frames_ahead == (1, 2, 3, 4, 5, 6, 7)
    assert found.predictors.keys() == sums.keys()
    for name, errors in sums.items():
        np.testing.assert_allclose(found.predictors[name], np.mean(errors, axis=0), rtol=1e-4)
        assert found.means[name] == pytest.approx(np.mean(errors), rel=1e-4)
    assert found.reconstruction.keys() == rebuilt.keys()
    for name, errors in rebuilt.items():
        assert found.reconstruction[name] == pytest.approx(np.mean(errors), rel=1e-4)
    assert context.facts["mean frame error"] == found.means["mean frame"]
    # Paired over videos, of three windows each.
    video_N = np.repeat(np.arange(NUM_TEST), 3)
    of_window = {name: np.sum(errors, axis=1) for name, errors in sums.items()}
    assert (found.num_groups, len(found.ratios)) == (NUM_TEST, 2)
    for each in found.ratios:
        interval = ratio_interval(of_window[each.model], of_window[each.baseline], video_N)
        assert interval is not None
        np.testing.assert_allclose((each.ratio, each.low, each.high), interval[:3], rtol=1e-3)
        assert each.ratio == pytest.approx(found.means[each.model] / found.means[each.baseline])


def test_intervals_are_over_groups_of_videos(tmp_path: Path, inputs: Inputs) -> None:
    """Videos of a group count once; one group has no interval."""
    percepts = inputs["percepts"]
    for number, groups in enumerate((["a"] * 5, ["a", "a", "b", "b", None])):
        records = [
            replace(record, group=groups[place - 20]) if record.part == "test" else record
            for place, record in enumerate(percepts.records())
        ]
        regrouped = Path(percepts.uri).with_name(f"groups {number}")
        shutil.copytree(percepts.uri, regrouped)
        write_records(str(regrouped / LEDGER_FILE), records)
        edges = {**inputs, "percepts": Percepts(str(regrouped))}
        found = forecast(ForecastConfig(), Context.for_test(tmp_path / f"out {number}"), **edges).read()
        assert found.num_groups == len(dict.fromkeys(groups))
        assert [each.low is None for each in found.ratios] == [found.num_groups == 1] * 2


def test_a_trained_model_foretells_better_than_copies_and_means(tmp_path: Path, inputs: Inputs) -> None:
    means = forecast(ForecastConfig(), Context.for_test(tmp_path), **inputs).read().means
    assert means["composite LSTM"] < 0.7 * min(means["copy last frame"], means["mean frame"])


@pytest.mark.parametrize("decoders", ["autoencoder", "future"])
def test_a_model_with_one_decoder_is_measured_on_what_it_does(tmp_path: Path, inputs: Inputs, decoders: str) -> None:
    config = SMALL(decoders=decoders, num_steps=1)
    edges = {name: inputs[name] for name in ("percepts", "statistics")}
    encoder = pretrain(config, Context.for_test(tmp_path / "pretrain"), **edges)
    found = forecast(ForecastConfig(), Context.for_test(tmp_path), encoders=(encoder,), **edges).read()
    assert ("future LSTM" in found.predictors) == (decoders == "future")
    assert ("autoencoder LSTM" in found.reconstruction) == (decoders == "autoencoder")
    assert {"copy last frame", "mean frame"} <= found.predictors.keys()


def test_bad_inputs_are_named(tmp_path: Path, inputs: Inputs) -> None:
    context = Context.for_test(tmp_path)
    with pytest.raises(ConfigError, match="the longest of 5 videos has 24 frames"):
        forecast(ForecastConfig(num_frames_ahead=19), context, **inputs)
    with pytest.raises(ConfigError, match="num_frames_ahead is 0"):
        replace(ForecastConfig(), num_frames_ahead=0)


def test_a_part_that_is_too_short_is_left_out_and_ends_nothing(tmp_path: Path, inputs: Inputs) -> None:
    context = Context.for_test(tmp_path)
    short, _ = make_percepts(tmp_path / "short", {"unlabelled": 2, "test": 2}, num_frames=8)
    made = forecast(ForecastConfig(), context, **{**inputs, "percepts": short})
    assert (made.read().num_windows, made.metrics(context.facts).values) == (0, {})
    assert "nothing is scored: a window is 10 frames long" in str(context.facts["left_out"])
    made = forecast(ForecastConfig(parts=("nowhere",)), Context.for_test(tmp_path / "nowhere"), **inputs)
    assert made.read().num_windows == 0


def test_a_model_of_other_statistics_is_measured_in_the_units_of_those_that_are_connected(
    tmp_path: Path, inputs: Inputs
) -> None:
    moments = inputs["statistics"].moments()
    write_moments(str(tmp_path / "others"), Moments(moments.mean_D + 1, 2 * moments.std_D, 9))
    others = {**inputs, "statistics": Statistics(str(tmp_path / "others"))}
    same, scaled = (
        forecast(ForecastConfig(), Context.for_test(tmp_path), **given).read() for given in (inputs, others)
    )
    # Twice the deviation is a quarter of the squared error; the mean has no part in a difference.
    assert scaled.predictors["composite LSTM"] == pytest.approx([e / 4 for e in same.predictors["composite LSTM"]])


def test_the_encoder_edge_is_typed() -> None:
    assert forecast.edges["encoders"].artifact is Encoder


def test_many_models_make_one_table(tmp_path: Path, inputs: Inputs) -> None:
    edges = {name: inputs[name] for name in ("percepts", "statistics")}
    settings: dict[str, dict[str, Any]] = {
        "autoencoder LSTM": {"decoders": "autoencoder"},
        "conditional future LSTM": {"decoders": "future", "predict_conditional": True},
        "composite LSTM, conditional future": {"predict_conditional": True},
    }
    encoders = tuple(
        pretrain(SMALL(num_steps=1, **each), Context.for_test(tmp_path / name), **edges)
        for name, each in settings.items()
    )
    found = forecast(ForecastConfig(), Context.for_test(tmp_path), encoders=encoders, **edges).read()
    alone = [
        forecast(ForecastConfig(), Context.for_test(tmp_path / str(n)), encoders=(encoder,), **edges).read()
        for n, encoder in enumerate(encoders)
    ]
    names = list(settings)
    baselines = ["copy last frame", "mean frame"]
    assert set(found.means) == {*names[1:], *baselines}
    assert set(found.reconstruction) == {names[0], names[2], baselines[1]}
    for each in alone:
        assert all(found.means[name] == mean for name, mean in each.means.items())
        assert all(found.reconstruction[name] == mean for name, mean in each.reconstruction.items())


def test_models_of_other_windows_are_refused(tmp_path: Path, inputs: Inputs) -> None:
    edges = {name: inputs[name] for name in ("percepts", "statistics")}
    longer = pretrain(SMALL(num_steps=1, num_frames_in=7), Context.for_test(tmp_path / "longer"), **edges)
    with pytest.raises(ConfigError, match=r"models of \[6, 7\] frames in"):
        forecast(ForecastConfig(), Context.for_test(tmp_path), encoders=(*inputs["encoders"], longer), **edges)
    with pytest.raises(ConfigError, match="no encoder"):
        forecast(ForecastConfig(), Context.for_test(tmp_path), encoders=(), **edges)
