"""The definition of a recipe: its options, and the function that builds its plan from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.engine.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe as its module defines it."""

    name: str
    """The name on the command line."""
    summary: str
    """One line for help and for the title of the report."""
    options: type[Any]
    """The dataclass of its options, a subclass of `RunOptions`."""
    build: Callable[[Any], Plan]
    """A function from options to a plan. It raises UsageError where the options do not fit together."""
