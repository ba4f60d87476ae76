"""Model files: round trips on several stores, equal bytes for equal models, one clear line for a wrong file."""

import copy
import json
import uuid
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pipeline.core.errors import CorruptArtifact, SourceError, StoreError
from pipeline.core.files import sha256_file, write_json
from stages.finetuning.trained_classifiers import TrainedClassifiers
from stages.models import load_encoder
from stages.models.artifacts import Encoder
from stages.models.composite import Composite
from stages.models.config import MODEL_FILE, CompositeSpec
from stages.models.pretrained import Pretrained
from stages.models.weights import METADATA_KEY, read_tensors, write_tensors

MODEL = Composite(CompositeSpec(dim=5, num_units=4, num_layers=2, predict_conditional=True, loss="bernoulli"))


@pytest.mark.parametrize("store", ["local", "memory"])
def test_round_trip(store: str, tmp_path: Path) -> None:
    directory = str(tmp_path) if store == "local" else f"memory://{uuid.uuid4().hex}"
    Pretrained(MODEL).save(f"{directory}/{MODEL_FILE}")
    loaded = load_encoder(directory).composite
    assert loaded.config == MODEL.config
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    for (name, theirs), (_, ours) in zip(loaded.named_parameters(), MODEL.named_parameters(), strict=True):
        assert torch.equal(theirs, ours), name


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    for name in "ab":
        Pretrained(MODEL).save(str(tmp_path / name))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_half_precision_file_loads_as_float32(tmp_path: Path) -> None:
    uri = str(tmp_path / MODEL_FILE)
    Pretrained(copy.deepcopy(MODEL).half()).save(uri)
    loaded = load_encoder(uri)
    x = torch.randn(3, 2, 5)
    torch.testing.assert_close(loaded.composite.encode(x)[0].c, MODEL.encode(x)[0].c, atol=1e-3, rtol=1e-3)


def test_encoder_artifact_loads_its_model(tmp_path: Path) -> None:
    Pretrained(MODEL).save(str(tmp_path / MODEL_FILE))
    assert Encoder(str(tmp_path)).load().config == MODEL.config


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no model file"):
        load_encoder(str(tmp_path))


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "foreign"])
def test_a_file_that_is_no_model(damage: str, tmp_path: Path) -> None:
    path = tmp_path / MODEL_FILE
    Pretrained(MODEL).save(str(path))
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "text":
        path.write_text("not weights at all, but long enough to hold a length")
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        safetensors.torch.save_file({"a": torch.zeros(2)}, str(path), metadata={"format": "pt"})
    with pytest.raises(CorruptArtifact, match="is not a model file of percepts") as caught:
        load_encoder(str(path))
    assert "\n" not in str(caught.value)


def rewrite(path: Path, **changes: object) -> None:
    with safetensors.safe_open(str(path), framework="pt") as archive:
        header = json.loads(archive.metadata()[METADATA_KEY])
        tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    safetensors.torch.save_file(tensors, str(path), metadata={METADATA_KEY: json.dumps(header | changes)})


def test_a_newer_format_is_named(tmp_path: Path) -> None:
    path = tmp_path / MODEL_FILE
    Pretrained(MODEL).save(str(path))
    rewrite(path, version=99)
    with pytest.raises(StoreError, match=r"model format 99; this percepts reads up to 1"):
        load_encoder(str(path))


@pytest.mark.parametrize(
    "changes", [{"config": {"dim": 6, "num_units": 4}}, {"config": {"nonsense": 1}}, {"config": {"dim": 0}}]
)
def test_a_config_that_does_not_fit_the_weights(changes: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / MODEL_FILE
    Pretrained(MODEL).save(str(path))
    rewrite(path, **changes)
    with pytest.raises(CorruptArtifact, match="do not fit the config"):
        load_encoder(str(path))


def test_another_kind_of_model_is_named(tmp_path: Path) -> None:
    uri = str(tmp_path / MODEL_FILE)
    write_tensors(uri, {}, {"class": "LSTMClassifier"})
    with pytest.raises(SourceError, match="holds a model of kind LSTMClassifier, not encoder"):
        load_encoder(uri)


def test_a_flipped_bit_of_a_weight_is_said_by_every_loader(tmp_path: Path) -> None:
    path = tmp_path / MODEL_FILE
    write_tensors(str(path), {"w": torch.ones(4)}, {"class": "Composite"})
    write_json(str(tmp_path / "manifest.json"), {"outputs": {MODEL_FILE: {"sha256": sha256_file(str(path))}}})
    assert read_tensors(str(path))[0]["w"].tolist() == [1.0] * 4
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    for load in (read_tensors, load_encoder, TrainedClassifiers.load):
        with pytest.raises(CorruptArtifact, match=r"model\.safetensors is damaged: its sha256 .* verify --repair"):
            load(str(path))
    (tmp_path / "manifest.json").unlink()
    assert read_tensors(str(path))[0]["w"].tolist() != [1.0] * 4  # of a copy nothing is promised
