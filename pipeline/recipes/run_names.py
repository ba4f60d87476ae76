"""Names and descriptions that people read in MLflow: of a run, by its settings, and of a model, by its results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING
from functools import reduce
from hashlib import sha256
from typing import Any, Final

from pipeline.core.printable import printable
from pipeline.core.secrets import masked, public
from pipeline.engine.store import Manifest
from pipeline.options.flags import list_options
from pipeline.recipes.recipe import Recipe
from pipeline.recipes.run_options import HOW_TO_RUN, RunOptions
from stages.models.artifacts import passes_text

MAX_NAMED: Final = 4
MAX_VALUE_CHARACTERS: Final = 24
CUT: Final = "…"
DIGEST_DIGITS: Final = 6


def run_name(recipe: Recipe, options: RunOptions) -> str:
    """Returns the recipe with what differs from its defaults: `demo seed=3 pretrain.num_units=64`.

    A name that does not say all of it has a digest of all of it at its end: `... +3 more (5c1e07)`.
    """
    listed = list_options(recipe.options)
    # `--pretrain.num-steps` and `--scratch.num-steps` are not both called num_steps.
    places = Counter(option.name.rpartition(".")[2] for option in listed)
    changed: dict[str, Any] = {}
    for option in listed:
        value = reduce(getattr, option.path.split("."), options)
        if option.path.split(".")[0] not in HOW_TO_RUN and (option.default is MISSING or value != option.default):
            last = option.name.rpartition(".")[2]
            changed[(option.name if places[last] > 1 else last).replace("-", "_")] = value
    words = [f"{name}={_short(value)}" for name, value in changed.items()]
    named, num_more = words[:MAX_NAMED], len(words) - MAX_NAMED
    rest = [f"+{num_more} more"] if num_more > 0 else []
    if rest or any(word.endswith(CUT) for word in named):
        rest.append(f"({sha256(masked(repr(changed)).encode()).hexdigest()[:DIGEST_DIGITS]})")
    return " ".join([recipe.name, *named, *rest])


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
    return text if len(text) <= MAX_VALUE_CHARACTERS else f"{text[: MAX_VALUE_CHARACTERS - 1]}{CUT}"
