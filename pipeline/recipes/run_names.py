"""Names and descriptions that people read in MLflow: of a run, by its settings, and of a model, by its results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING
from functools import reduce
from typing import Any, Final

from pipeline.core.printable import printable
from pipeline.core.secrets import public
from pipeline.engine.store import Manifest
from pipeline.options.flags import list_options
from pipeline.recipes.recipe import Recipe
from pipeline.recipes.run_options import HOW_TO_RUN, RunOptions
from stages.models.artifacts import passes_text

MAX_NAMED: Final = 4
MAX_VALUE_CHARACTERS: Final = 24


def run_name(recipe: Recipe, options: RunOptions) -> str:
    """Returns the recipe with what differs from its defaults: `demo num_units=64 steps=300`."""
    changed: dict[str, Any] = {}
    for option in list_options(recipe.options):
        value = reduce(getattr, option.path.split("."), options)
        if option.path.split(".")[0] not in HOW_TO_RUN and (option.default is MISSING or value != option.default):
            changed[option.name.replace("-", "_")] = value
    last = Counter(name.rpartition(".")[2] for name in changed)
    words = [
        f"{name if last[name.rpartition('.')[2]] > 1 else name.rpartition('.')[2].removeprefix('num_')}={_short(value)}"
        for name, value in changed.items()
    ]
    more = [f"and {len(words) - MAX_NAMED} more"] if len(words) > MAX_NAMED else []
    return " ".join([recipe.name, *words[:MAX_NAMED], *more])


def model_description(recipe: str, manifest: Manifest, complete: Mapping[str, Manifest]) -> str:
    """Returns sentences on what a pretrained encoder was trained on and how well it does."""
    data = [m for m in complete.values() if m.key in manifest.input_keys()]
    frames = sum(int(m.facts["num_frames"]) for m in data if m.holds == "percepts" and "num_frames" in m.facts)
    facts = manifest.facts
    sentences = [f"The encoder {manifest.key} of recipe {recipe}."]
    if frames:
        sentences.append(f"It was pretrained on percepts of {frames:,} frames.")
    if "num_sequences_seen" in facts and "num_steps" in facts:
        steps, seen = int(facts["num_steps"]), int(facts["num_sequences_seen"])
        passes = f", {passes_text(seen, float(facts['num_sequences']))}" if "num_sequences" in facts else ""
        sentences.append(f"Training took {steps:,} steps and saw {seen:,} sequences{passes}.")
    if "validation_loss" in facts:
        sentences.append(f"Its validation loss is {float(facts['validation_loss']):.4g}.")
    return " ".join(sentences)


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        text = ",".join(public(str(entry)) for entry in value)
    else:
        text = public(str(value)).rstrip("/").rpartition("/")[2] or str(value)
    text = printable(text)
    return text if len(text) <= MAX_VALUE_CHARACTERS else f"{text[: MAX_VALUE_CHARACTERS - 1]}…"
