"""Statistics by official splits: of training clips alone, recounted with NumPy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.errors import ConfigError
from pipeline.core.files import write_json
from pipeline.core.stage import Context
from stages.datasets.splits import SPLITS_FILE, Splits
from stages.percepts.artifacts import Percepts
from stages.percepts.shards import LEDGER_FILE
from stages.percepts.transforms import Standardisation
from stages.standardize import StandardizeConfig, standardize
from stages.video.ledger import write_records
from tests.stages.made_percepts import circle, make_percepts

PARTS = {
    "a": ["train", "test"],
    "b": ["validation", "train"],
    "c": [None, "train"],
    "d": ["test", "test"],
    "e": ["train", "train"],
}
NUM_FRAMES = 24


def labelled(root: Path) -> tuple[Percepts, Splits]:
    """Clips a to e of two official splits; e is the same file as d."""
    percepts, _ = make_percepts(root, {"unlabelled": 4}, num_frames=NUM_FRAMES)
    records = percepts.records()
    names = zip(PARTS, [*records, records[3]], strict=True)
    named = [replace(record, uri=f"/data/{name}.avi") for name, record in names]
    write_records(percepts.path(LEDGER_FILE), named)
    clips = [{"name": name, "label": "x", "group": f"x/{name}", "parts": parts} for name, parts in PARTS.items()]
    splits = Splits(str(root / "split"))
    counts = [{"train": 3, "test": 1}] * 2
    write_json(splits.path(SPLITS_FILE), {"name": "Small", "counts": counts, "found": [{}, {}], "clips": clips})
    return percepts, splits


@pytest.mark.parametrize(("numbers", "videos"), [((1,), [0, 1]), ((2,), [1, 2]), ((1, 2), [1, 2]), ((), [1, 2])])
def test_no_clip_that_a_split_tests_is_looked_at(tmp_path: Path, numbers: tuple[int, ...], videos: list[int]) -> None:
    percepts, splits = labelled(tmp_path)
    config = StandardizeConfig(splits=numbers)
    moments = standardize(config, Context.for_test(tmp_path), percepts=percepts, splits=splits).moments()
    rows = np.concatenate([circle(number, NUM_FRAMES) for number in videos]).astype(np.float64)
    assert moments.num_rows == len(rows)
    np.testing.assert_allclose(moments.mean_D, rows.mean(0), rtol=1e-6)
    np.testing.assert_allclose(moments.std_D, rows.std(0), rtol=1e-6)


def test_what_cannot_be_standardised(tmp_path: Path) -> None:
    percepts, splits = labelled(tmp_path)
    context = Context.for_test(tmp_path)
    with pytest.raises(ConfigError, match="no official splits are connected"):
        standardize(StandardizeConfig(splits=(1,)), context, percepts=percepts)
    with pytest.raises(ConfigError, match="there is no split 3 of Small; its official splits are 1, 2"):
        standardize(StandardizeConfig(splits=(3,)), context, percepts=percepts, splits=splits)
    with pytest.raises(ConfigError, match="cannot both"):
        StandardizeConfig(splits=(1,), parts=("train",))


def test_where_every_clip_is_tested_percepts_stay_as_they_are(tmp_path: Path) -> None:
    percepts, splits = labelled(tmp_path)
    write_records(percepts.path(LEDGER_FILE), [percepts.records()[3]])
    said: list[str] = []
    context = Context.for_test(tmp_path, emit=lambda event: said.append(getattr(event, "line", "")))
    statistics = standardize(StandardizeConfig(), context, percepts=percepts, splits=splits)
    assert said == ["every clip that is there is tested in one of the splits 1, 2: nothing is standardised"]
    assert context.facts["num_frames"] == 0
    frames = torch.from_numpy(circle(3, NUM_FRAMES))
    assert torch.equal(Standardisation.of(statistics.moments())(frames), frames.float())
