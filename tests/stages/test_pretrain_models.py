"""All six models, from the flags of the command line, on percepts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.commands.running.recipe_options import parse
from pipeline.core.errors import UsageError
from pipeline.core.stage import Context
from pipeline.recipes.demo import DemoOptions
from pipeline.recipes.recipe import load_recipe
from stages.forecast import ForecastConfig, forecast
from stages.models.pretrained import Pretrained
from stages.percepts.transforms import Squashing
from stages.pretrain import pretrain
from tests.stages.made_percepts import DIM, make_percepts

SMALL = (
    *("--pretrain.num-units", "8", "--pretrain.num-frames-in", "6", "--pretrain.num-frames-out", "4"),
    *("--pretrain.batch-size", "6", "--pretrain.num-steps", "8", "--pretrain.validation-fraction", "0.2"),
)
FLAGS = {
    ("autoencoder", False, False): ["--pretrain.decoders", "autoencoder"],
    ("future", False, False): ["--pretrain.decoders", "future"],
    ("composite", False, False): [],
    ("autoencoder", True, False): ["--pretrain.decoders", "autoencoder", "--pretrain.reconstruct-conditional"],
    ("future", False, True): ["--pretrain.decoders", "future", "--pretrain.predict-conditional"],
    ("composite", False, True): ["--pretrain.predict-conditional"],
}


def options_of(*flags: str) -> DemoOptions:
    options = parse(load_recipe("demo"), [*SMALL, *flags])
    assert isinstance(options, DemoOptions)
    return options


@pytest.mark.parametrize("model", FLAGS)
def test_each_of_the_six_learns_from_percepts(model: tuple[str, bool, bool], tmp_path: Path) -> None:
    percepts, statistics = make_percepts(tmp_path / "store", {"unlabelled": 12})
    config = options_of(*FLAGS[model]).pretrain
    assert (config.model.decoders, config.model.reconstruct_conditional, config.model.predict_conditional) == model
    encoder = pretrain(config, Context.for_test(tmp_path), percepts=percepts, statistics=statistics)
    history = json.loads(Path(encoder.path("history.json")).read_text())
    losses = history["train"][-1]
    assert (losses["reconstruct_loss"] is not None) == (model[0] != "future")
    assert (losses["predict_loss"] is not None) == (model[0] != "autoencoder")
    assert history["validation"][-1]["loss"] < history["validation"][0]["loss"]


@pytest.mark.parametrize("kind", ["raw", "squashed"])
def test_a_model_carries_its_transform(kind: str, tmp_path: Path) -> None:
    percepts, statistics = make_percepts(tmp_path / "store", {"unlabelled": 12, "test": 3})
    loss = ["--pretrain.loss", "bernoulli", "--pretrain.transform.squash-lambda", "0.5"] if kind == "squashed" else []
    config = options_of("--pretrain.transform.kind", kind, *loss).pretrain
    inputs = {"percepts": percepts, "statistics": statistics}
    encoder = pretrain(config, Context.for_test(tmp_path), **inputs)
    pretrained = Pretrained.load(encoder.uri)
    x = np.linspace(-1, 8, 5 * DIM, dtype=np.float32).reshape(5, DIM)
    read = pretrained.standardise(torch.from_numpy(x)).numpy()
    if kind == "squashed":
        assert pretrained.transform == Squashing(DIM, 0.5)
        np.testing.assert_allclose(read, 2 / (1 + np.exp(-0.5 * np.maximum(x, 0).astype(np.float64))) - 1, atol=1e-6)
        np.testing.assert_allclose(pretrained.in_units(read), np.maximum(x, 0), rtol=1e-4, atol=1e-5)
    else:
        np.testing.assert_array_equal(read, x)
    # Errors are those of standardised percepts, whatever the model reads: copying the last frame errs alike.
    found = forecast(ForecastConfig(), Context.for_test(tmp_path / "forecast"), encoders=(encoder,), **inputs).read()
    standard = pretrain(options_of().pretrain, Context.for_test(tmp_path / "standard"), **inputs)
    usual = forecast(ForecastConfig(), Context.for_test(tmp_path / "usual"), encoders=(standard,), **inputs).read()
    assert found.means["copy last frame"] == pytest.approx(usual.means["copy last frame"], rel=1e-6)
    assert all(np.isfinite(error) for error in found.means.values())


def test_flags_that_do_not_fit_say_so() -> None:
    with pytest.raises(UsageError, match="keep_checkpoints is 0"):
        options_of("--keep-checkpoints", "0")
    with pytest.raises(UsageError, match="cache_gigabytes is -1"):
        options_of("--cache-gigabytes", "-1")
    assert options_of("--cache", "/fast", "--cache-gigabytes", "200").environment["PERCEPTS_CACHE"] == "/fast"
    assert options_of("--max-sequences-per-worker", "16").on_devices.max_sequences_per_worker == 16
