"""What an artifact holds of a video: by its class, or by its files where the manifest is of version 0.1."""

import pytest

from pipeline.core.stage import Artifact, Holding
from pipeline.engine.store import Manifest, Output
from pipeline.upkeep.lineage import LISTS_VIDEOS, REMAINS, holding
from stages.datasets.artifacts import Patches
from stages.datasets.splits import Splits
from stages.models.artifacts import Encoder
from stages.percepts.artifacts import Percepts
from stages.video.artifacts import Corpus, Index

FILES = [
    (Index, "index.parquet"),
    (Percepts, "ledger.parquet"),
    (Corpus, "manifest.csv"),
    (Splits, "splits.json"),
    (Patches, "patches.json"),
    (Encoder, "model.safetensors"),
]


def manifest(*files: str, holds: Holding | None = None) -> Manifest:
    outputs = {name: Output(sha256="0" * 64, num_bytes=1) for name in files}
    return Manifest(
        stage="s", version=1, key="s-0", name="s", recipe="r", config={}, inputs={}, outputs=outputs, holds=holds
    )


@pytest.mark.parametrize(("artifact", "name"), FILES)
def test_a_manifest_that_does_not_say_is_read_as_its_class_says(artifact: type[Artifact], name: str) -> None:
    assert holding(manifest(name, "other.bin")) == artifact.holds


@pytest.mark.parametrize(("artifact", "name"), FILES)
def test_a_manifest_that_says_is_believed(artifact: type[Artifact], name: str) -> None:
    assert holding(manifest(name, holds="learned")) == "learned"
    assert Manifest.from_json({**vars(manifest(name, holds=artifact.holds)), "outputs": {}}).holds == artifact.holds


def test_only_what_lists_its_videos_stays_after_a_takedown() -> None:
    assert {a.holds for a in (Index, Percepts, Corpus, Splits)} == LISTS_VIDEOS
    assert Patches.holds not in LISTS_VIDEOS
    assert all(is_removable for holds, (_, is_removable) in REMAINS.items() if holds not in LISTS_VIDEOS)
