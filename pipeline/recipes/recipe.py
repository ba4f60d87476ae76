"""The definition of a recipe, its options and the function that builds its plan from them, and the recipes by name.

A recipe's module is imported when the recipe is loaded, and not before.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pipeline.core.error_words import did_you_mean
from pipeline.core.errors import UsageError

if TYPE_CHECKING:
    from pipeline.engine.plan import Plan

RECIPES: Final = {
    "demo": ("pipeline.recipes.demo", "moving digits on photographs: from video files to a comparison table"),
    "youtube": ("pipeline.recipes.youtube", "unlabelled videos of your own: percepts and a pretrained encoder"),
    "actions": ("pipeline.recipes.actions", "a classifier of labels of your own, from few labelled videos"),
    "classify": ("pipeline.recipes.classify", "the actions of videos of your own, by a finetuned classifier"),
    "embed": ("pipeline.recipes.embed", "embeddings of videos of your own, by a pretrained encoder"),
    "moving-mnist": ("pipeline.recipes.moving_mnist", "two bouncing digits and their future: Table 2"),
    "ucf101": ("pipeline.recipes.action_recognition", "action recognition on UCF-101 by its official splits"),
    "hmdb51": ("pipeline.recipes.action_recognition", "action recognition on HMDB-51 by its official splits"),
    "patches": ("pipeline.recipes.patches", "32x32 colour patches of videos of your own: Table 2"),
}
"""Name on the command line -> (module, one line for help and for the title of the report).

The module defines the recipe under this name in capitals, `MOVING_MNIST`."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe as its module defines it. The rules of all recipes (`run_options`) are added to its own."""

    name: str
    """The name on the command line."""
    options: type[Any]
    """The dataclass of its options, a subclass of `RunOptions`."""
    build: Callable[[Any], Plan]
    """A function from options to a plan. It raises UsageError where the options do not fit together."""
    shown: Mapping[str, Sequence[str]]
    """The options of `--help`: title of a group -> names of flags, without dashes."""
    examples: Sequence[str]
    """Command lines to begin with."""
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The sizes for a kind of machine: name -> {name of a flag: value}."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """The options that cannot be given: name of a flag, or its beginning with a dot at the end -> the reason."""
    only_with: Mapping[str, str] = field(default_factory=dict)
    """The options that have an effect only beside another one: name or beginning -> name of the other one."""
    not_with: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The options that have no effect beside another one: name or beginning -> names of others."""

    @property
    def summary(self) -> str:
        """One line for help and for the title of the report."""
        return RECIPES[self.name][1]


def load_recipe(name: str) -> Recipe:
    """Imports a recipe by its name.

    Raises:
        UsageError: no recipe has this name; the message names the nearest one.
    """
    if name not in RECIPES:
        known = ", ".join(RECIPES)
        raise UsageError(f"there is no recipe {name!r}; {did_you_mean(name, RECIPES)}the recipes are: {known}")
    recipe: Recipe = getattr(importlib.import_module(RECIPES[name][0]), name.replace("-", "_").upper())
    return recipe
