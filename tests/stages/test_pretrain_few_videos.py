"""Pretraining on few videos: what `few_videos` decides, that it is said, and what a warm start keeps of it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import ConfigError
from pipeline.core.events import Event, Log
from pipeline.core.stage import Context, config_dict
from stages.datasets.augmentation import AugmentationConfig
from stages.models.artifacts import Encoder
from stages.models.config import MODEL_FILE
from stages.models.header import read_header
from stages.pretrain import PretrainConfig, pretrain
from tests.stages.made_configs import changed
from tests.stages.made_percepts import make_percepts

SMALL = partial(
    changed,
    PretrainConfig(),
    **{"num_units": 8, "num_frames_in": 6, "num_frames_out": 4, "window_stride": 2, "num_steps": 6},
    validation_fraction=0.2,
    batch_size=32,
)
NUM_VIDEOS = 12


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    percepts, statistics = make_percepts(tmp_path_factory.mktemp("store"), {"unlabelled": NUM_VIDEOS, "test": 3})
    return {"percepts": percepts, "statistics": statistics}


def trained(root: Path, config: PretrainConfig, **inputs: Any) -> tuple[Encoder, dict[str, Any], str]:
    """Returns the encoder, the settings of the model in its file, and the lines of the log."""
    events: list[Event] = []
    encoder = pretrain(config, Context.for_test(root, emit=events.append), **inputs)
    said = "\n".join(event.line for event in events if isinstance(event, Log))
    return encoder, read_header(encoder.path(MODEL_FILE))["config"], said


def test_few_videos_make_the_model_residual_and_autoregressive(tmp_path: Path, inputs: dict[str, Any]) -> None:
    encoder, settings, said = trained(tmp_path / "few", SMALL(few_videos=NUM_VIDEOS + 1), **inputs)
    assert settings["residual"]
    assert settings["autoregressive"]
    assert "12 videos to learn from, fewer than few_videos=13: the model is residual, autoregressive" in said
    # Videos of a circle are foretold by their own past: the linear start is far below copying, before any step.
    copying, _, _ = trained(tmp_path / "copying", SMALL(residual=True), **inputs)
    starts = [each.history() for each in (encoder, copying)]
    assert starts[0] is not None
    assert starts[1] is not None
    first, copied = (history.validation[0]["predict_loss"] for history in starts if history is not None)
    assert first is not None
    assert copied is not None
    assert first < 0.3 * copied
    # As many videos as the limit are not few; then, and without the setting, the file is the same.
    enough, plain = (
        trained(tmp_path / name, config, **inputs)
        for name, config in (("enough", SMALL(few_videos=NUM_VIDEOS)), ("plain", SMALL()))
    )
    assert "fewer than" not in enough[2]
    files = [Path(encoder.path(MODEL_FILE)).read_bytes() for encoder, _, _ in (enough, plain)]
    assert files[0] == files[1]
    assert "autoregressive" not in plain[1], "files of models that have none are as they were"


def test_a_warm_start_keeps_what_was_decided_when_videos_were_few(tmp_path: Path, inputs: dict[str, Any]) -> None:
    few, _, _ = trained(tmp_path / "few", SMALL(few_videos=NUM_VIDEOS + 1), **inputs)
    more, settings, _ = trained(tmp_path / "more", SMALL(few_videos=1), warm_start=few, **inputs)
    assert settings["residual"]
    assert settings["autoregressive"]
    histories = few.history(), more.history()
    assert histories[0] is not None
    assert histories[1] is not None
    assert histories[1].validation[0]["loss"] == histories[0].validation[-1]["loss"]


def test_settings_that_are_given_are_not_decided() -> None:
    given = SMALL(few_videos=100, residual=True)
    assert given.for_videos(3) == given
    augmented = SMALL(few_videos=100, augmentation=AugmentationConfig(scale_std=0.1))
    assert augmented.for_videos(3) == augmented
    assert SMALL(few_videos=100).for_videos(99).training.augmentation == AugmentationConfig(flip_signs=True)
    with pytest.raises(ConfigError, match="few_videos is -1"):
        SMALL(few_videos=-1)
    assert "few_videos" not in config_dict(SMALL()), "keys of models that were trained before stay"
    assert "autoregressive" not in config_dict(SMALL())["model"]
