"""The card of a model that is published: what it is, what it learned from, by digest, and how well it does.

The card is Markdown behind a block of YAML, as model hubs read it. Every figure comes from the artifacts of the store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.core.errors import UsageError
from pipeline.core.printable import human_bytes
from pipeline.engine.store import Manifest, Store
from pipeline.reporting.claims import interval_scope
from pipeline.reporting.note import escape_markdown
from pipeline.reporting.results import count_name
from pipeline.reporting.svg import percent
from stages.evaluation.artifacts import Forecast, ForecastErrors, PixelScores, PixelScoreTable, Scores
from stages.evaluation.score_table import ScoreTable
from stages.models.artifacts import Encoder
from stages.models.config import MODEL_FILE

ENCODER, CLASSIFIERS = "pretrain", "finetune"
EXTRACTION, STATISTICS = "extract", "standardize"
COUNTS: Final = ("num_videos", "num_frames", "num_ok", "seconds_of_video")


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """A model of a store, the data it learned from, and every measurement of it that the store has."""

    manifest: Manifest
    data: tuple[Manifest, ...]
    """The artifacts that it was made of, with the artifacts that those were made of."""
    scores: tuple[ScoreTable, ...] = ()
    """Tables that have rows of it."""
    arms: tuple[str, ...] = ()
    """Names of its rows."""
    forecasts: tuple[ForecastErrors, ...] = ()
    pixels: tuple[PixelScoreTable, ...] = ()
    results: Mapping[str, float] | None = None
    """Figures of its own training, such as the validation loss."""

    @property
    def is_encoder(self) -> bool:
        """True for a pretrained encoder, false for classifiers."""
        return self.manifest.stage == ENCODER


def describe(store: Store, key: str) -> PublishedModel:
    """Gathers what a store knows of one of its models.

    Raises:
        UsageError: the store has no such model.
        CorruptArtifact: a manifest or a table cannot be read.
    """
    manifests = {manifest.key: manifest for manifest in store.manifests()}
    model = manifests.get(key)
    if model is None or model.stage not in (ENCODER, CLASSIFIERS) or MODEL_FILE not in model.outputs:
        known = [known.key for known in manifests.values() if known.stage in (ENCODER, CLASSIFIERS)]
        raise UsageError(f"{store.root} has no model {key}; its models are: {', '.join(known) or 'none'}")
    users = [made for made in manifests.values() if key in made.input_keys()]
    classifiers = [model] if model.stage == CLASSIFIERS else [made for made in users if made.stage == CLASSIFIERS]
    keys = {made.key for made in classifiers}
    of_classifiers = [made for made in manifests.values() if keys & set(made.input_keys())]

    def directory(manifest: Manifest) -> str:
        return store.directory(manifest.stage, manifest.key)

    results = Encoder(directory(model), key).metrics(model.facts).values if model.stage == ENCODER else None
    return PublishedModel(
        manifest=model,
        data=tuple(_ancestors(model, manifests)),
        arms=tuple(dict.fromkeys(str(made.config["arm"]) for made in classifiers)),
        scores=tuple(Scores(directory(m), m.key).read() for m in of_classifiers if m.stage == "evaluate"),
        forecasts=tuple(
            Forecast(directory(m), m.key).read()
            for m in users
            if m.stage == "forecast" and m.facts.get("num_windows") != 0  # nothing was scored
        ),
        pixels=tuple(PixelScores(directory(m), m.key).read() for m in users if m.stage == "score_pixels"),
        results=results,
    )


def model_card(model: PublishedModel, *, title: str, licence: str) -> str:
    """Writes the card, Markdown."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters.update(plain=escape_markdown, percent=percent, count_name=count_name, bytes=human_bytes)
    manifest = model.manifest
    return environment.get_template("model_card.md.j2").render(
        model=model,
        manifest=manifest,
        title=title or f"{manifest.name} {manifest.key}",
        licence=licence,
        settings=_settings(manifest.config),
        rows=[_rows(table, model.arms) for table in model.scores],
        data=[(one, {name: one.facts[name] for name in COUNTS if name in one.facts}) for one in model.data],
        weights=manifest.outputs[MODEL_FILE],
    )


def _ancestors(model: Manifest, manifests: Mapping[str, Manifest]) -> list[Manifest]:
    """Returns every artifact that a model was made of, the nearest first."""
    ancestors: dict[str, Manifest] = {}
    waiting = model.input_keys()
    while waiting:
        key = waiting.pop(0)
        if key in manifests and key not in ancestors:
            ancestors[key] = manifests[key]
            waiting += manifests[key].input_keys()
    return list(ancestors.values())


def _settings(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Returns the settings of a config by their dotted names."""
    settings: list[tuple[str, str]] = []
    for name, value in config.items():
        if isinstance(value, dict):
            settings += _settings(value, f"{prefix}{name}.")
        else:
            settings.append((prefix + name, value if isinstance(value, str) else json.dumps(value)))
    return settings


def _rows(table: ScoreTable, arms: Sequence[str]) -> dict[str, Any]:
    """Returns a table of accuracies: the model's rows, and those that it was compared with."""
    compared = {pair.worse for pair in table.paired if pair.better in arms}
    models = [name for name in table.models if name in arms or name in compared]
    return {"table": table, "models": models, "scope": interval_scope(table)}
