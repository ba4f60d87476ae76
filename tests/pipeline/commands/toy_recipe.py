"""A recipe of two stages that take no time, for tests of what happens around a run."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.engine.plan import Plan
from pipeline.recipes.recipe import Recipe
from pipeline.recipes.run_options import RunOptions
from tests.pipeline.engine.toy_stages import CountConfig, SumConfig, add, count


@dataclass(frozen=True, kw_only=True)
class ToyOptions(RunOptions):
    """Options of the toy recipe."""

    num: int = 3
    """Numbers that are counted."""
    fail: bool = False
    """Raise an exception in the second stage."""


def build(options: ToyOptions) -> Plan:
    plan = Plan("toy")
    numbers = plan.add(count, CountConfig(num=options.num))
    plan.add(add, SumConfig(fail=options.fail), parts=(numbers,))
    return plan


TOY = Recipe(name="toy", options=ToyOptions, build=build, shown={}, examples=("percepts run toy --store s",))
