"""ray_cluster.yaml passes Ray's own schema check, and what it and docs/cluster.md tell people to type can be typed."""

from __future__ import annotations

import re
import shlex

import pytest
import yaml

from cluster.rendering.render import RENDERERS
from pipeline.commands.cluster import main as cluster
from pipeline.commands.running.recipe_options import parse
from pipeline.commands.submit import SubmitOptions, split
from pipeline.options.command_line import parse_options
from pipeline.recipes.recipe import load_recipe
from tests.conftest import ROOT


def test_ray_accepts_the_cluster_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
    validate_config(prepare_config(config))
    commands = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    assert all("RAY_AUTH_MODE=token" in command for command in commands)


def test_what_vanishes_is_preemptible_and_the_head_is_not() -> None:
    kinds = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())["available_node_types"]
    head = kinds.pop("head")
    assert head["resources"] == {"CPU": 0, "run": 1}
    assert "InstanceMarketOptions" not in head["node_config"]
    for kind in kinds.values():
        assert kind["min_workers"] == 0
        if kind["max_workers"]:
            assert kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert sorted(kind["resources"].get("GPU", 0) for kind in kinds.values()) == [0, 1, 8]


@pytest.mark.parametrize("name", ["ray_cluster.yaml", "docs/cluster.md"])
def test_the_commands_in_it_are_commands(name: str) -> None:
    text = re.sub(r"\\\n#?\s*", " ", (ROOT / name).read_text())
    commands = re.findall(r"(?:python pipeline/run.py|percepts submit) ([a-z].*)", text)
    assert commands
    for command in commands:
        recipe, *words = shlex.split(command.replace(" ...", ""))
        own, flags = split(words)
        parse(load_recipe(recipe), flags)
        parse_options(SubmitOptions, own, prog="percepts submit")


def test_what_the_document_renders_can_be_rendered(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "cluster.md").read_text()
    commands = re.findall(r"^percepts cluster (.*?)(?: +[>#].*)?$", text, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        assert cluster(shlex.split(command.replace(" --settings cluster.toml", ""))) == 0
    kinds = re.findall(r"^\| `([a-z-]+)` \|", text, re.MULTILINE)
    assert kinds == list(RENDERERS)
