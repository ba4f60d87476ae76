"""Recipe hmdb51: action recognition on HMDB-51 by its official splits. Its DAG is in `action_recognition`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.recipes.action_recognition import ActionOptions, build
from pipeline.recipes.recipe import Recipe
from pipeline.recipes.registry import RECIPES
from stages.datasets.action_sets import DataSetKey


@dataclass(frozen=True, kw_only=True)
class HMDB51Options(ActionOptions):
    """HMDB-51: 6,766 clips of 51 actions, three official splits of 70 training and 30 test clips a class."""

    dataset: ClassVar[DataSetKey] = "hmdb51"
    small: ClassVar[int] = 4


RECIPE = Recipe(
    name="hmdb51",
    summary=RECIPES["hmdb51"][1],
    options=HMDB51Options,
    build=build,
)
