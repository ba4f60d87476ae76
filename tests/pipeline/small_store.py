"""A small real store: encoded clips, an index, percepts and their statistics, with manifests, made in this process."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.files import join, list_files, read_bytes, remove
from pipeline.core.stage import Context, config_dict
from pipeline.engine.plan import Node, Plan
from pipeline.engine.store import Manifest, Store
from stages.convnets.config import ConvnetConfig
from stages.extract import ExtractConfig, extract
from stages.ingest import IngestConfig, ingest
from stages.standardize import StandardizeConfig, standardize
from stages.video.decode import DecodeConfig
from tests.stages.test_extract import encode

CONFIG = ExtractConfig(
    convnet=ConvnetConfig(layer="stem", input_px=32),
    decode=DecodeConfig(short_side_px=32, crop_px=32),
    shard_frames=24,
)


def encode_clips(folder: Path, num_clips: int = 6) -> list[str]:
    """Clips of 10, 12, 14... frames; returns their paths."""
    paths = [folder / f"{number}.mp4" for number in range(num_clips)]
    for number, path in enumerate(paths):
        encode(path, 10 + 2 * number, seed=number)
    return [str(path) for path in paths]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Six of them."""
    return encode_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def made(clips: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean store of three shards; not to be changed."""
    root = tmp_path_factory.mktemp("made") / "store"
    run_recipe(str(root), clips)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    shutil.copytree(made, tmp_path / "store")
    return tmp_path / "store"


def plan_of(videos: Sequence[str], config: ExtractConfig = CONFIG) -> Plan:
    """ingest, extract, standardize."""
    plan = Plan("small")
    index = plan.add(ingest, IngestConfig(videos=tuple(videos)))
    percepts = plan.add(extract, config, index=index)
    plan.add(standardize, StandardizeConfig(), percepts=percepts)
    return plan


def run_recipe(root: str, videos: Sequence[str], config: ExtractConfig = CONFIG) -> dict[str, Manifest]:
    """Makes what is missing of `plan_of`; stage name -> manifest."""
    return run_plan(root, plan_of(videos, config))


def run_plan(root: str, plan: Plan) -> dict[str, Manifest]:
    """Makes what is missing of a plan, as `pipeline.engine.execute` does it; stage name -> manifest."""
    store = Store.open(root, create=True)
    nodes = plan.nodes
    return {node.name: store.find(node.stage.name, node.key) or _make(store, node) for node in nodes}


def _make(store: Store, node: Node) -> Manifest:
    directory = store.directory(node.stage.name, node.key)
    listing_uri = None
    if node.listing is not None:
        listing_uri = f"{store.root}/listing.parquet"
        node.listing.write(listing_uri)
    context = Context(uri=directory, store_uri=store.root, key=node.key, source=node.name, listing_uri=listing_uri)
    inputs: dict[str, Any] = {
        edge: value.stage.produces(store.directory(value.stage.name, value.key), value.key)
        for edge, value in node.inputs.items()
        if isinstance(value, Node)
    }
    node.stage(node.config, context, **inputs)
    if listing_uri is not None:
        remove(listing_uri)
    manifest = Manifest(
        stage=node.stage.name,
        version=node.stage.version,
        key=node.key,
        name=node.name,
        recipe="small",
        config=config_dict(node.config),
        inputs=node.input_keys(),
        snapshot=node.snapshot,
        outputs=store.outputs(node.stage.name, node.key),
        facts=dict(context.facts),
        finished_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )
    store.commit(manifest)
    return manifest


def all_bytes(root: str) -> dict[str, str]:
    """sha256 of every finished file of a store but its manifests, which tell the time, and what is remembered of the
    videos that were probed, which tells theirs."""
    names = [name for name in list_files(root) if not name.endswith("manifest.json") and not name.startswith("probed/")]
    return {name: hashlib.sha256(read_bytes(join(root, name))).hexdigest() for name in names}
