"""The lines at the top of a report name the percept, the task, the models and the videos of the run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from pipeline.reporting.introduction import introduction
from pipeline.reporting.results import read_results
from stages.extract import ExtractConfig
from stages.models.artifacts import Encoder
from stages.pretrain import PretrainConfig
from tests.pipeline.reporting.fake_run import FakeRun, forecast, pixel_scores, records, scores


def lines(run: FakeRun) -> dict[str, str]:
    return {line.subject: line.sentence for line in introduction(read_results(run.view))}


def test_four_lines_say_what_was_run(tmp_path: Path) -> None:
    extraction, pretraining = ExtractConfig(), PretrainConfig()
    run = FakeRun(tmp_path)
    run.add("extract", records(), facts={"dim": 640}, config=asdict(extraction))
    run.add("pretrain", kind=Encoder, config=asdict(pretraining))
    run.add("evaluate", scores())
    run.add("forecast", forecast())
    said = lines(run)
    assert list(said) == ["Percepts", "Task", "Models", "Videos"]
    for word in (extraction.convnet.name, str(extraction.convnet.layer), "640 numbers", "one frame"):
        assert word in said["Percepts"]
    for word in ("8 classes", "240 test clips", "1, 2, 5 and 10 labelled clips", "next 8 frames"):
        assert word in said["Task"]
    model = pretraining.model
    for word in (
        "composite",
        f"{model.num_units:,} units",
        "16 frames in",
        f"{pretraining.training.num_steps:,} steps",
    ):
        assert word in said["Models"]
    assert said["Videos"].startswith("62 videos")


def test_a_run_of_pixels_has_no_percepts(tmp_path: Path) -> None:
    run = FakeRun(tmp_path)
    run.add("pixels", pixel_scores())
    said = lines(run)
    assert list(said) == ["Task"]
    assert "open loop, in nats/frame" in said["Task"]


def test_models_of_one_size_share_a_sentence(tmp_path: Path) -> None:
    run = FakeRun(tmp_path)
    for decoders in ("autoencoder", "future"):
        config = asdict(PretrainConfig())
        config["model"]["decoders"] = decoders
        run.add(f"pretrain {decoders}", kind=Encoder, config=config)
    assert "autoencoder and future predictor: 1 layer" in lines(run)["Models"]
    config["model"]["num_units"] = 64
    run.add("pretrain small", kind=Encoder, config=config)
    assert lines(run)["Models"].count("layer") == 2  # what shares a size is told once


def test_models_from_several_seeds_are_one_model(tmp_path: Path) -> None:
    run = FakeRun(tmp_path)
    for seed in range(3):
        config = asdict(PretrainConfig())
        config["training"]["seed"] = seed
        run.add(f"pretrain {seed}", kind=Encoder, config=config)
    assert "composite from 3 seeds: 1 layer" in lines(run)["Models"]
