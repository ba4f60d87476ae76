"""Recipe hmdb51: action recognition on HMDB-51 by its official splits. Its DAG is in `action_recognition`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.recipes.action_recognition import ActionOptions, recipe
from stages.datasets.official.action_sets import DataSetKey


@dataclass(frozen=True, kw_only=True)
class HMDB51Options(ActionOptions):
    """HMDB-51: 6,766 clips of 51 actions, three official splits of 70 training and 30 test clips a class."""

    dataset: ClassVar[DataSetKey] = "hmdb51"
    small: ClassVar[int] = 4


RECIPE = recipe(HMDB51Options)
