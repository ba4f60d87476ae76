"""The recipes of the two data sets: what they ask for, and the nodes that they share."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import DataSetError
from pipeline.recipes import RECIPES
from pipeline.run import main


@pytest.mark.parametrize(("recipe", "size"), [("ucf101", "6,932,971,618 bytes"), ("hmdb51", "51 rars")])
def test_without_the_data_it_says_what_to_put_where(recipe: str, size: str, tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match=r"needs --videos .* and --lists; videos and lists missing") as found:
        main([recipe])
    assert size in found.value.instructions
    assert f"python pipeline/run.py {recipe} --videos" in found.value.instructions
    with pytest.raises(DataSetError, match="; lists missing"):
        main([recipe, "--videos", str(tmp_path)])


@pytest.mark.parametrize("recipe", ["ucf101", "hmdb51"])
def test_one_command_plans_it(recipe: str, shared_data: Path, tmp_path: Path) -> None:
    options = RECIPES[recipe].options(
        videos=(str(shared_data / recipe),), lists=str(shared_data / "splits" / recipe), splits=(1, 2)
    )
    plan = RECIPES[recipe].build(options)
    nodes = {node.name: node for node in plan.nodes}
    assert list(nodes)[:4] == ["ingest", "split", "extract", "standardize"]
    assert nodes["split"].config.dataset == recipe
    assert nodes["standardize"].config.splits == (1, 2)
