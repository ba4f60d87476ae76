"""A pretraining that goes on from an encoder: it begins where that one ended, and takes no other one for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.core.errors import ConfigError, CorruptArtifact, SourceError, StoreError
from pipeline.core.stage import Context
from stages.datasets.sequences import PerceptSource
from stages.models.artifacts import Encoder
from stages.models.header import read_header
from stages.models.pretrained import Pretrained
from stages.models.weights import write_tensors
from stages.percepts.artifacts import Moments, Statistics, write_moments
from stages.percepts.transforms import TransformConfig
from stages.pretrain import pretrain
from stages.pretraining.config import WeightsConfig
from tests.stages.made_percepts import make_percepts
from tests.stages.test_pretrain import SMALL

Inputs = dict[str, Any]
SETTINGS = {"num_layers": 1, "dropout": 0.0, "num_steps": 30}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    percepts, statistics = make_percepts(tmp_path_factory.mktemp("store"), {"unlabelled": 20})
    return {"percepts": percepts, "statistics": statistics}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, inputs: Inputs) -> Encoder:
    return pretrain(SMALL(**SETTINGS), Context.for_test(tmp_path_factory.mktemp("source")), **inputs)


def validations(encoder: Encoder) -> list[float | None]:
    history = encoder.history()
    assert history is not None
    return [point["loss"] for point in history.validation]


def test_it_begins_where_its_source_ended(tmp_path: Path, inputs: Inputs, source: Encoder) -> None:
    config = SMALL(**SETTINGS, weights=WeightsConfig(average_decay=0.5))
    went_on = pretrain(config, Context.for_test(tmp_path), warm_start=source, **inputs)
    assert validations(went_on)[0] == validations(source)[-1]
    assert validations(went_on)[-1] < validations(source)[-1]  # type: ignore[operator]  # neither is None


def test_new_videos_are_read_as_the_old_ones_were(tmp_path: Path, inputs: Inputs, source: Encoder) -> None:
    more, statistics = make_percepts(tmp_path / "more", {"unlabelled": 26})
    moments = statistics.moments()
    write_moments(str(tmp_path / "shifted"), Moments(moments.mean_D + 1, 2 * moments.std_D, 9))
    shifted: Inputs = {"percepts": more, "statistics": Statistics(str(tmp_path / "shifted"))}
    went_on = pretrain(SMALL(**SETTINGS), Context.for_test(tmp_path), warm_start=source, **shifted)
    assert Pretrained.load(went_on.uri).transform == Pretrained.load(source.uri).transform
    # Windows of the same kind of video, some of them held out before: about the loss that the source ended with.
    assert validations(went_on)[0] == pytest.approx(validations(source)[-1], rel=0.5)


def test_a_resume_of_it_is_exact(
    tmp_path: Path, inputs: Inputs, source: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = PerceptSource.batch

    def stopping(self: PerceptSource, step: int, *share: int) -> np.ndarray:
        if step == 17:
            raise RuntimeError("stop")
        return batch(self, step, *share)

    def train(root: Path) -> bytes:
        encoder = pretrain(SMALL(**SETTINGS), Context.for_test(root), warm_start=source, **inputs)
        return Path(encoder.path("model.safetensors")).read_bytes()

    with monkeypatch.context() as patch:
        patch.setattr(PerceptSource, "batch", stopping)
        with pytest.raises(RuntimeError, match="stop"):
            train(tmp_path / "stopped")
    assert train(tmp_path / "stopped") == train(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_units": 16}, "has num_units 12, and this pretraining num_units 16: give the same"),
        ({"num_layers": 2, "decoders": "future"}, "has num_layers 1, decoders composite, and this pretraining"),
        ({"transform": TransformConfig(kind="raw")}, "reads percepts standardised: set transform.kind=standardised"),
        ({"start_at_mean": True}, "leave start_at_mean"),
    ],
)
def test_another_model_is_refused(
    tmp_path: Path, inputs: Inputs, source: Encoder, changes: dict[str, Any], words: str
) -> None:
    config = SMALL(**{**SETTINGS, **changes})
    with pytest.raises(ConfigError, match=words):
        pretrain(config, Context.for_test(tmp_path), warm_start=source, **inputs)
    assert not (tmp_path / "out").exists()


def test_a_header_is_read_without_its_weights(tmp_path: Path, source: Encoder) -> None:
    header = read_header(source.path("model.safetensors"))
    assert header["config"]["num_units"] == 12
    assert header["extractor"]["fingerprint"]
    with pytest.raises(SourceError, match="there is no model file"):
        read_header(str(tmp_path / "none"))
    for content in (b"", b"\xff" * 40, b"\x02" + bytes(7) + b"[]"):
        (tmp_path / "broken").write_bytes(content)
        with pytest.raises(CorruptArtifact, match="is not a model file"):
            read_header(str(tmp_path / "broken"))
    save_file({"weight": torch.zeros(1)}, tmp_path / "foreign")
    with pytest.raises(SourceError, match="weights of another program"):
        read_header(str(tmp_path / "foreign"))
    write_tensors(str(tmp_path / "newer"), {"x": torch.zeros(1)}, {"version": 99})
    with pytest.raises(StoreError, match="upgrade percepts"):
        read_header(str(tmp_path / "newer"))
