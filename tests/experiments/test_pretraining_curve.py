"""The curve's script on a corpus of a few clips: every point is there, and a second run makes nothing anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.recipes.demo import DemoOptions
from tests.experiments.pretraining_curve import DONE, draw, measure


def small() -> DemoOptions:
    options = DemoOptions()
    return replace(
        options,
        corpus=replace(options.corpus, num_unlabelled=8, num_train=40, num_test=8),
        pretrain=replace(
            options.pretrain,
            model=replace(options.pretrain.model, num_units=8),
            training=replace(options.pretrain.training, batch_size=8),
            validation_fraction=0.3,
        ),
        single_frame=replace(options.single_frame, num_samplings=2, labels_per_class=(5,)),
        scratch=replace(
            options.scratch,
            classifier=replace(options.scratch.classifier, num_units=8),
            training=replace(options.scratch.training, num_steps=2),
            num_samplings=2,
            labels_per_class=(5,),
        ),
        pretrained=replace(
            options.pretrained,
            classifier=replace(options.pretrained.classifier, num_units=8),
            training=replace(options.pretrained.training, num_steps=2),
            num_samplings=2,
            labels_per_class=(5,),
        ),
    )


def test_a_second_run_makes_nothing_anew(tmp_path: Path) -> None:
    found = measure(str(tmp_path), small(), (1, 2), (5,))
    assert [row["num_steps"] for row in found["by_steps"]] == [1, 2]
    assert [row["num_clips"] for row in found["by_clips"]] == [5, 8]
    assert found["by_clips"][-1]["accuracy"] == found["by_steps"][-1]["accuracy"]
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob(DONE)}
    assert measure(str(tmp_path), small(), (1, 2), (5,)) == found
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob(DONE)} == made
    draw(found, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
