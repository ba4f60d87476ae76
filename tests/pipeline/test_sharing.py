"""Percepts belong to videos and extractors, and to no recipe: whoever asks second pays nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.engine.plan import Plan
from pipeline.engine.store import Store
from stages.extract import extract
from stages.ingest import IngestConfig, ingest
from stages.percepts.artifacts import Percepts
from stages.percepts.shards import read_references
from stages.standardize import StandardizeConfig, standardize
from tests.pipeline.small_store import CONFIG, all_bytes, clips, made, root, run_plan, run_recipe
from tests.stages.test_extract import decoded

__all__ = ["clips", "decoded", "made", "root"]


def uses(root: Path, key: str) -> list[str]:
    percepts = Percepts(Store.open(str(root)).directory("extract", key))
    return [use.path for use in read_references(percepts.uri)]


def test_two_recipes_share_percepts(clips: list[str], root: Path, decoded: list[str]) -> None:
    before = all_bytes(str(root))
    first = run_recipe(str(root), clips)
    other = Plan("other")
    index = other.add(ingest, IngestConfig(videos=tuple(clips[1:])))
    percepts = other.add(extract, CONFIG, index=index)
    other.add(standardize, StandardizeConfig(parts=("unlabelled",)), percepts=percepts)
    second = run_plan(str(root), other)
    assert decoded == []
    assert second["extract"].key != first["extract"].key
    assert uses(root, second["extract"].key) == uses(root, first["extract"].key)
    assert second["extract"].facts["num_frames"] == first["extract"].facts["num_frames"] - 10
    assert before.items() <= all_bytes(str(root)).items()


def test_a_changed_layer_leaves_the_old_percepts_as_they_are(clips: list[str], root: Path, decoded: list[str]) -> None:
    before = all_bytes(str(root))
    changed = run_recipe(str(root), clips, replace(CONFIG, convnet=replace(CONFIG.convnet, layer="blocks.0")))
    assert len(decoded) == 6
    after = all_bytes(str(root))
    assert before.items() <= after.items()
    # And back again: nothing is to be made.
    assert run_recipe(str(root), clips)["extract"].key != changed["extract"].key
    assert len(decoded) == 6
    assert all_bytes(str(root)) == after
