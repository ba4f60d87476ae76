"""Recipe ucf101: action recognition on UCF-101 by its official splits. Its DAG is in `action_recognition`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.recipes.action_recognition import ActionOptions, recipe
from stages.datasets.official.action_sets import DataSetKey


@dataclass(frozen=True, kw_only=True)
class UCF101Options(ActionOptions):
    """UCF-101: 13,320 clips of 101 actions, three official splits."""

    dataset: ClassVar[DataSetKey] = "ucf101"
    small: ClassVar[int] = 10


RECIPE = recipe(UCF101Options)
