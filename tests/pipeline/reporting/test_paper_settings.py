"""Beside the paper's column stands every setting of the run that is not the paper's, and none that is."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands.running.recipe_options import parse
from pipeline.recipes.recipe import load_recipe
from pipeline.reporting.paper_settings import other_than_the_papers
from pipeline.reporting.results import read_results
from stages.models.artifacts import Encoder
from stages.pretrain import PretrainConfig
from stages.pretraining.config import OptimizerConfig
from tests.pipeline.reporting.fake_run import FakeRun, records


def said(root: Path, config: dict[str, Any]) -> str:
    run = FakeRun(root)
    run.add("pretrain", kind=Encoder, config=config)
    return other_than_the_papers(read_results(run.view))


@pytest.mark.parametrize("name", ["moving-mnist", "patches", "youtube", "ucf101", "hmdb51"])
def test_the_preset_of_the_paper_differs_in_nothing(name: str, tmp_path: Path) -> None:
    options = parse(load_recipe(name), ["--preset", "paper", *(["--videos", "v"] if name == "patches" else [])])
    run = FakeRun(tmp_path)
    run.add("pretrain", kind=Encoder, config=asdict(options.pretrain))
    if name not in ("moving-mnist", "patches"):
        run.add("extract", records(), config=asdict(options.extract))
    assert other_than_the_papers(read_results(run.view)) == ""
    optimizer = options.pretrain.training.optimizer
    assert (optimizer.momentum, optimizer.velocity_clamp) == (0.9, 1e-4)
    assert not options.pretrain.training.feedback
    assert not options.pretrain.training.augmentation


@pytest.mark.parametrize("name", ["ucf101", "hmdb51"])
def test_the_preset_of_the_paper_trains_classifiers_as_the_authors_did(name: str) -> None:
    """Their rule itself is transcribed in tests/stages/pretraining/test_published.py."""
    options = parse(load_recipe(name), ["--preset", "paper"])
    for arm in (options.scratch, options.finetuned):
        assert arm.training.optimizer == OptimizerConfig(
            kind="published", learning_rate=1e-4, final_fraction=1.0, num_warmup_steps=0, momentum=0.0,
            velocity_clamp=0.0, weight_decay=1e-5,
        )  # fmt: skip
        assert (arm.initial_weights, arm.frozen_peepholes) == ("published", True)
        assert arm.selection.learning_rates == (1e-4,)
    assert (options.scratch.classifier.num_units, options.scratch.classifier.num_layers) == (2048, 2)


def test_every_difference_is_named_with_both_values(tmp_path: Path) -> None:
    config = asdict(PretrainConfig())
    config["model"]["num_units"] = 128
    text = said(tmp_path, config)
    assert text.startswith("Not the paper's settings: num units 128 (there 2048); num layers 1 (there 2)")
    assert "optimizer's kind adamw (there published)" in text
    assert "residual" not in text
