"""Names of runs: what differs from the recipe's defaults, and two runs that differ have two names."""

from __future__ import annotations

import re

from pipeline.commands.running.recipe_options import parse
from pipeline.recipes.recipe import load_recipe
from pipeline.recipes.run_names import run_name


def named(*arguments: str) -> str:
    recipe = load_recipe("demo")
    return run_name(recipe, parse(recipe, arguments, "percepts run demo"))


def test_a_name_says_what_differs_from_the_defaults_and_nothing_of_how_it_was_run() -> None:
    assert named() == named("--workers", "1", "--tag", "team=vision") == "demo"
    assert named("--pretrain.num-steps", "300") == "demo pretrain.num_steps=300"
    assert named("--scratch.num-steps", "300") == "demo scratch.num_steps=300"


def test_names_of_runs_that_differ_beyond_what_a_name_shows_are_distinct() -> None:
    five = [
        *("--pretrain.num-steps", "1", "--pretrain.num-units", "2", "--scratch.num-steps", "3"),
        *("--scratch.num-units", "4", "--pretrained.num-units", "4"),
    ]
    names = [named(*five, "--pretrained.num-steps", number) for number in ("5", "6")]
    assert len(set(names)) == 2
    assert all(re.search(r" \+2 more \([0-9a-f]{6}\)$", name) for name in names)
    assert names[0] == named(*five, "--pretrained.num-steps", "5")
    weights = [named("--extract.convnet.weights", f"/{'w' * 40}{number}.pth") for number in (1, 2)]
    assert len(set(weights)) == 2
