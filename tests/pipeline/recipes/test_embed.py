"""Recipe embed: videos of one's own through an encoder of the store, of another store, or of a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.commands.running.recipe_options import parse
from pipeline.core.errors import ConfigError, DigestError, SourceError
from pipeline.engine.plan import Node
from pipeline.engine.store import Store
from pipeline.recipes.recipe import load_recipe
from pipeline.run import main
from stages.models import load_encoder
from stages.models.composite import Composite
from stages.models.config import MODEL_FILE, CompositeSpec
from stages.models.pretrained import Pretrained
from stages.percepts.schema import Extractor
from stages.serving.artifacts import Embeddings
from tests.pipeline.recipes.test_warm_start import SMALL
from tests.pipeline.small_store import encode_clips

RUN = ("--in-process", "--no-tracking", "--workers", "1")


def planned(store: Path, *flags: str) -> dict[str, Node]:
    recipe = load_recipe("embed")
    return {node.name: node for node in recipe.build(parse(recipe, ["--store", str(store), *RUN, *flags])).nodes}


def embeddings_of(store: Path, key: str) -> Embeddings:
    return Embeddings(str(store / "embed" / key), key)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return encode_clips(tmp_path_factory.mktemp("clips"), 5)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, clips: list[str]) -> Path:
    """A store with an encoder of four clips; the fifth is new to it."""
    store = tmp_path_factory.mktemp("embed") / "store"
    assert main(["youtube", "--store", str(store), *SMALL, "--videos", *clips[:4]]) == 0
    return store


def test_a_collection_is_embedded_as_single_videos_are(
    store: Path, clips: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (encoder,) = Store.open(str(store)).manifests("pretrain")
    flags = ("--encoder", encoder.key, "--videos", *clips)
    assert main(["embed", "--store", str(store), *RUN, *flags]) == 0
    printed = capsys.readouterr().out
    node = planned(store, *flags)["embed"]
    assert f"embed/{node.key}/embeddings" in printed
    rows = embeddings_of(store, node.key).table().to_pylist()
    assert list(dict.fromkeys(row["uri"] for row in rows)) == clips
    assert f"{len(rows)} windows of 5 videos, {len(rows[0]['embedding'])} values each" in printed
    for clip in clips:
        embedding_NR = load_encoder(str(store / "pretrain" / encoder.key)).embed(clip)
        got_NR = np.array([row["embedding"] for row in rows if row["uri"] == clip], np.float32)
        np.testing.assert_allclose(got_NR, embedding_NR, rtol=1e-5, atol=1e-6)
    # Percepts are paid for once: those of the four clips that the encoder learned from were there.
    manifest = Store.open(str(store)).find("extract", planned(store, *flags)["extract"].key)
    assert manifest is not None
    assert 0 < int(manifest.facts["num_frames_extracted"]) <= int(manifest.facts["num_frames"]) / 2


def test_a_row_a_video_and_an_encoder_of_elsewhere(tmp_path: Path, store: Path, clips: list[str]) -> None:
    (encoder,) = Store.open(str(store)).manifests("pretrain")
    file = str(store / "pretrain" / encoder.key / MODEL_FILE)
    flags = ("--encoder", file, "--videos", *clips[:2], "--embed.per", "video")
    assert main(["embed", "--store", str(tmp_path / "new"), *RUN, *flags]) == 0
    nodes = planned(tmp_path / "new", *flags)
    assert nodes["encoder"].stage.name == "import_encoder"
    assert nodes["embed"].key == planned(store, "--encoder", encoder.key, *flags[2:])["embed"].key
    rows = embeddings_of(tmp_path / "new", nodes["embed"].key).table().to_pylist()
    assert [row["uri"] for row in rows] == clips[:2]


def test_what_does_not_fit_is_said_before_a_video_is_decoded(tmp_path: Path, store: Path, clips: list[str]) -> None:
    (encoder,) = Store.open(str(store)).manifests("pretrain")
    whole = Pretrained.load(str(store / "pretrain" / encoder.key))
    assert whole.extractor is not None

    def changed(name: str, extractor: Extractor | None) -> str:
        Pretrained(whole.composite, whole.transform, extractor).save(str(tmp_path / name / MODEL_FILE))
        return str(tmp_path / name)

    convnet = {**whole.extractor.settings["convnet"], "version": 99}
    other = Extractor({**whole.extractor.settings, "convnet": convnet}, whole.extractor.dim)
    made_up = Extractor({"made": "for a test"}, whole.extractor.dim)
    torch.manual_seed(0)
    long = Composite(CompositeSpec(dim=whole.extractor.dim, num_units=4, num_frames_in=500, num_frames_out=1))
    Pretrained(long, extractor=whole.extractor).save(str(tmp_path / "long" / MODEL_FILE))
    for name, error, words in (
        ("pretrain-0123456789abcdef", ConfigError, "does not have"),
        (changed("pixels", None), ConfigError, "learned from pixels"),
        (changed("made-up", made_up), ConfigError, "no convnet that can be run here"),
        (changed("other", other), DigestError, "version"),
        (str(tmp_path / "nowhere"), SourceError, "no model file"),
    ):
        with pytest.raises(error, match=words) as refused:
            planned(tmp_path / "store", "--encoder", name, "--videos", *clips)
        assert "\n" not in str(refused.value)
    check = planned(tmp_path / "store", "--encoder", str(tmp_path / "long"), "--videos", *clips)["ingest"].check
    assert check is not None
    assert "an encoder of shorter windows" in check.remedy


def test_limits_are_those_of_the_encoder_unless_given(store: Path, clips: list[str]) -> None:
    (encoder,) = Store.open(str(store)).manifests("pretrain")
    flags = ("--encoder", encoder.key, "--videos", *clips)
    assert planned(store, *flags)["extract"].snapshot == encoder_fingerprint(store, encoder.key)
    nodes = planned(store, *flags, "--limits.max-duration-s", "7")
    assert nodes["extract"].config.limits.max_duration_s == nodes["ingest"].config.limits.max_duration_s == 7


def encoder_fingerprint(store: Path, key: str) -> str:
    extractor = Pretrained.load(str(store / "pretrain" / key)).extractor
    assert extractor is not None
    return extractor.fingerprint


def test_workers_learn_which_plugin_registers_the_convnet(
    tmp_path: Path, clips: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands in the settings of extract, as if the convnet had been named there: percepts have one key."""
    (tmp_path / "net_of_mine.py").write_text(
        "from torch import nn\n"
        "from stages.convnets.registry import Architecture, register\n\n\n"
        '@register("mine")\n'
        "class Mine(Architecture):\n"
        "    def layers(self):\n        return ('last',)\n\n"
        "    def needs_weights(self):\n        return False\n\n"
        "    def network(self, layer, input_px):\n        return nn.AvgPool2d(input_px)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = ("--extract.convnet.plugin", "net_of_mine", "--extract.convnet.name", "mine")
    mine += ("--extract.convnet.layer", "last", "--extract.convnet.grid", "1")
    small = [SMALL[place : place + 2] for place in range(0, len(SMALL), 2)]
    flags = [word for pair in small if pair[0] not in mine for word in pair]
    store = tmp_path / "store"
    assert main(["youtube", "--store", str(store), *flags, *mine, "--videos", *clips]) == 0
    (encoder,) = Store.open(str(store)).manifests("pretrain")
    (made,) = Store.open(str(store)).manifests("extract")
    nodes = planned(store, "--encoder", encoder.key, "--videos", *clips, "--plugin", "net_of_mine")
    assert nodes["extract"].config.convnet.plugin == "net_of_mine"
    assert nodes["extract"].key == made.key
