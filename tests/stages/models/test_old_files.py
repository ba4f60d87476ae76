"""Model files that percepts 0.1 wrote: their headers, word for word, with made weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from stages.finetuning.trained_classifiers import TrainedClassifiers
from stages.models import load_encoder
from stages.models.config import MODEL_FILE
from stages.models.weights import METADATA_KEY

D, H, C = 3, 2, 2
TRANSFORM = {"mean": [0.0] * D, "scale": [1.0] * D}
COMPOSITE = {
    "class": "Composite",
    "config": {
        **{"decoders": "composite", "dim": D, "dropout": 0.0, "forget_bias": 1.0, "loss": "gaussian"},
        **{"num_frames_in": 16, "num_frames_out": 13, "num_layers": 1, "num_units": H},
        **{"predict_conditional": False, "reconstruct_conditional": False, "residual": False},
    },
    "transform": TRANSFORM,
}
SAMPLING: dict[str, Any] = {
    **{"class": "TrainedClassifiers", "arm": "LSTM pretrained", "class_names": ["down", "up"], "num_frames": 16},
    **{"labels_per_class": 10, "split": 0, "samplings": [0], "clips": [["0" * 64]], "consulted": [], "groups": []},
    "transform": TRANSFORM,
}
LSTM = {
    **{"dim": D, "dropout": 0.5, "forget_bias": 1.0, "input_dropout": 0.3, "num_classes": C, "num_groups": 1},
    **{"num_layers": 1, "num_units": H},
}
FRAME = {"dim": D, "dropout": 0.0, "input_dropout": 0.0, "num_classes": C, "num_groups": 1, "num_hidden_units": 0}


def lstm_tensors(prefix: str, num_inputs: int) -> dict[str, Tensor]:
    shapes = {"bias": (1, 4 * H), "peephole": (1, 3, H), "recurrent_weight": (1, 4 * H, H)}
    shapes |= {"input_weight": (1, 4 * H, num_inputs)} if num_inputs else {}
    return {f"{prefix}.layers.0.{name}": torch.rand(shape) for name, shape in shapes.items()}


def write(path: Path, header: dict[str, Any], tensors: dict[str, Tensor]) -> bytes:
    metadata = {METADATA_KEY: json.dumps({"version": 1, **header}, sort_keys=True)}
    path.write_bytes(safetensors.torch.save(tensors, metadata=metadata))
    return path.read_bytes()


def test_an_encoder_is_read_and_would_be_written_the_same(tmp_path: Path) -> None:
    tensors = lstm_tensors("encoder", D)
    for decoder in ("reconstruct_decoder", "predict_decoder"):
        tensors |= lstm_tensors(f"{decoder}.lstm", 0)
        tensors |= {f"{decoder}.output.weight": torch.rand(D, H), f"{decoder}.output.bias": torch.rand(D)}
    written = write(tmp_path / MODEL_FILE, COMPOSITE, tensors)
    encoder = load_encoder(str(tmp_path))
    assert (encoder.composite.config.dim, encoder.composite.config.num_units) == (D, H)
    assert encoder.represent(np.ones((1, 16, D), np.float32)).shape == (1, 2 * H)
    encoder.save(str(tmp_path / "again.safetensors"))
    assert (tmp_path / "again.safetensors").read_bytes() == written


@pytest.mark.parametrize(("name", "config"), [("LSTMClassifier", LSTM), ("SingleFrameClassifier", FRAME)])
def test_a_classifier_is_read_and_would_be_written_the_same(tmp_path: Path, name: str, config: dict[str, Any]) -> None:
    num_features = H if name == "LSTMClassifier" else D
    tensors = lstm_tensors("classifier.lstm", D) if name == "LSTMClassifier" else {}
    tensors |= {
        "classifier.output.weight": torch.rand(1, C, num_features),
        "classifier.output.bias": torch.rand(1, C),
        "losses": torch.rand(5, 1),
    }
    header = {**SAMPLING, "classifier": {"name": name, "config": config}}
    written = write(tmp_path / MODEL_FILE, header, tensors)
    trained = TrainedClassifiers.load(str(tmp_path / MODEL_FILE))
    assert trained.classifier.config.model == ("lstm" if name == "LSTMClassifier" else "frame")
    assert trained.probabilities(torch.rand(16, 4, D)).shape == (1, 4, C)
    trained.save(str(tmp_path / "again.safetensors"))
    assert (tmp_path / "again.safetensors").read_bytes() == written
