"""The recipes by name. A recipe's module is imported when the recipe is loaded, and not before."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Final

from pipeline.core.errors import UsageError

if TYPE_CHECKING:
    from pipeline.recipes.recipe import Recipe

RECIPES: Final = {
    "demo": ("pipeline.recipes.demo", "moving digits on photographs: from video files to a comparison table"),
    "youtube": ("pipeline.recipes.youtube", "unlabelled videos of your own: percepts and a pretrained encoder"),
    "moving-mnist": ("pipeline.recipes.moving_mnist", "two bouncing digits and their future: Table 2"),
    "ucf101": ("pipeline.recipes.ucf101", "action recognition on UCF-101 by its official splits"),
    "hmdb51": ("pipeline.recipes.hmdb51", "action recognition on HMDB-51 by its official splits"),
    "patches": ("pipeline.recipes.patches", "32x32 colour patches of videos of your own: Table 2"),
}
"""Name on the command line -> (module, one line). The module defines `RECIPE`."""


def load_recipe(name: str) -> Recipe:
    """Imports a recipe by its name.

    Raises:
        UsageError: no recipe has this name; the message names the nearest one.
    """
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UsageError(f"there is no recipe {name!r}; {hint}the recipes are: {', '.join(RECIPES)}")
    recipe: Recipe = importlib.import_module(RECIPES[name][0]).RECIPE
    return recipe
