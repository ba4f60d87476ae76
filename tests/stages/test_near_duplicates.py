"""near_duplicates: planted copies are found and named, strangers are not, and the threshold comes from the data."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.files import read_json
from pipeline.core.stage import Context
from stages.evaluation.similarity import similarities
from stages.near_duplicates import NearDuplicatesConfig, near_duplicates
from stages.percepts.artifacts import Percepts, Statistics
from tests.stages.labelled_store import Clip, make_store

DIM, NUM_FRAMES = 24, 32
CONFIG = NearDuplicatesConfig(false_alarms=0.02)
Made = tuple[Percepts, Statistics]


def clip(part: str, label: str | None, name: str, *, noise: float = 0.4, first: int = 0, copy: int = 0) -> Clip:
    """Frames that drift about the looks of a video; a copy is the same drift, with other noise and a shift in time."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little"))
    look, drift = rng.standard_normal(DIM), rng.standard_normal((4, DIM))
    steps = (first + np.arange(NUM_FRAMES))[:, None] / NUM_FRAMES
    waves = sum(0.5 * np.sin(2 * np.pi * (k + 1) * steps / 3) * drift[k] for k in range(4))
    jitter = np.random.default_rng([copy, *name.encode()]).standard_normal((NUM_FRAMES, DIM))
    return Clip(part, label, (look + waves + noise * jitter).astype(np.float16), group=f"{part} {name}")


def labelled(part: str, per_class: int) -> list[Clip]:
    return [clip(part, f"class {c}", f"{part} {c} {n}") for c in range(5) for n in range(per_class)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_store(tmp_path_factory.mktemp("made"), [*labelled("train", 20), *labelled("test", 20)])


def run(
    directory: Path, made: Made, pretraining: Sequence[Clip], config: NearDuplicatesConfig = CONFIG
) -> dict[str, Any]:
    unlabelled, _ = make_store(directory / "pretraining", pretraining)
    found = near_duplicates(
        config,
        Context.for_test(directory / "check"),
        pretraining=unlabelled,
        percepts=made[0],
        statistics=made[1],
    )
    table: dict[str, Any] = read_json(found.path("duplicates.json"))
    return table


def test_copies_are_found_and_strangers_are_not(tmp_path: Path, made: Made) -> None:
    strangers = [clip("unlabelled", None, f"stranger {n}") for n in range(60)]
    copies = [clip("unlabelled", None, f"test {c} 3", copy=1, first=4) for c in range(5)]
    table = run(tmp_path, made, [*strangers, *copies])
    tests = [record for record in made[0].records() if record.part == "test"]
    copied = {tests[c * 20 + 3].uri for c in range(5)}
    found = {suspect["test"] for suspect in table["suspects"]}
    assert copied <= found
    assert len(found - copied) <= 6  # 2% of 100 by chance, each twice and a half as many at most
    assert {suspect["pretraining"].rpartition("clip")[2] for suspect in table["suspects"][:5]} == {
        f"{60 + c}.mp4" for c in range(5)
    }
    assert table["recall_of_other_frames"] > 0.9
    assert (table["num_test_clips"], table["num_pretraining_videos"], table["num_strangers"]) == (100, 65, 65)
    assert f"{len(found)} of 100 test clips look like one of the 65 videos" in table["sentence"]


def test_the_very_file_is_a_suspect_whatever_its_frames(tmp_path: Path, made: Made) -> None:
    first = labelled("test", 20)[0]
    same = replace(first, part="test", label=None)
    table = run(tmp_path, made, [same, clip("test", None, "other")], replace(CONFIG, parts=("test",)))
    assert [suspect for suspect in table["suspects"] if suspect["is_same_file"]] == [table["suspects"][0]]
    assert table["suspects"][0]["similarity"] == pytest.approx(1.0, abs=1e-3)


def test_strangers_alone_give_about_as_many_suspects_as_said(tmp_path: Path, made: Made) -> None:
    strangers = [clip("unlabelled", None, f"nobody {n}") for n in range(100)]
    table = run(tmp_path, made, strangers, replace(CONFIG, false_alarms=0.1))
    assert len(table["suspects"]) <= 25
    assert table["stranger_quantiles"]["1"] >= table["threshold"] >= table["stranger_quantiles"]["0.5"]


def test_similarity_is_the_mean_of_the_best_cosines() -> None:
    rng = np.random.default_rng(0)
    one, others = rng.standard_normal((3, 5)), rng.standard_normal((4, 6, 5))
    one /= np.linalg.norm(one, axis=1, keepdims=True)
    others /= np.linalg.norm(others, axis=2, keepdims=True)
    expected = [np.mean([max(frame @ theirs for theirs in other) for frame in one]) for other in others]
    found = similarities(one.astype(np.float32), others.astype(np.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_what_cannot_be_compared_is_refused(tmp_path: Path, made: Made) -> None:
    with pytest.raises(SourceError, match="both are needed"):
        run(tmp_path / "none", made, [clip("unlabelled", None, "x")], replace(CONFIG, test_part="nowhere"))
    with pytest.raises(ConfigError, match="give one between 0 and 1"):
        NearDuplicatesConfig(false_alarms=0)
