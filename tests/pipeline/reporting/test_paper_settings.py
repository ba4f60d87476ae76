"""Beside the paper's column stands every setting of the run that is not the paper's, and none that is."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.commands.running.recipe_options import parse
from pipeline.recipes.registry import load_recipe
from pipeline.reporting.paper_settings import other_than_the_papers
from pipeline.reporting.results import read_results
from stages.models.artifacts import Encoder
from stages.pretrain import PretrainConfig
from tests.pipeline.reporting.fake_run import FakeRun


def said(root: Path, config: dict[str, Any]) -> str:
    run = FakeRun(root)
    run.add("pretrain", kind=Encoder, config=config)
    return other_than_the_papers(read_results(run.view))


def test_the_preset_of_the_paper_differs_in_nothing(tmp_path: Path) -> None:
    recipe = load_recipe("moving-mnist")
    options = parse(recipe, ["moving-mnist", "--preset", "paper", "--models", "composite"][1:])
    assert said(tmp_path, asdict(options.pretrain)) == ""


def test_every_difference_is_named_with_both_values(tmp_path: Path) -> None:
    config = asdict(PretrainConfig())
    config["model"]["num_units"] = 128
    text = said(tmp_path, config)
    assert text.startswith("Not the paper's settings: num units 128 (there 2048); num layers 1 (there 2)")
    assert "optimizer's kind adamw (there published)" in text
    assert "residual" not in text
