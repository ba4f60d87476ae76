"""Reading a run's artifacts into `Results`.

Artifacts are found by the files that they hold (`scores.json`, `history.json`, `forecast.json`, `pixel_scores.json`,
`gallery.json`, `selection.json`, `duplicates.json`, `ledger.parquet`, `index.parquet`), so that a recipe may have any
number of each, or none.
"""

from __future__ import annotations

import base64
import json
import math
import mimetypes
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from pipeline.core.errors import CorruptArtifact
from pipeline.core.files import join, list_files, read_bytes, read_json, size_bytes
from pipeline.reporting.results import (
    Choices,
    Duplicates,
    Forecast,
    Gain,
    History,
    Ledger,
    Pair,
    Picture,
    PixelScore,
    PixelScores,
    Results,
    Sampling,
    Score,
    Scores,
    SuspectPair,
)
from pipeline.reporting.view import NodeView, RunView
from stages.datasets.splits import Coverage
from stages.video.ledger import read_records

MAX_PICTURE_BYTES = 8_000_000
"""A larger picture is named by its URI and not put into the page, which people send by mail."""

MAX_SUSPECTS = 50
"""Test clips that may have been pretrained on, of those that the page counts."""

T = TypeVar("T")


def read_results(view: RunView) -> Results:
    """Reads every artifact of the run.

    Raises:
        CorruptArtifact: a file does not hold what its name promises.
    """
    files = {node.name: frozenset(list_files(node.uri)) for node in view.nodes}

    def all_of(name: str, parse: Callable[[NodeView, Any], T]) -> tuple[T, ...]:
        return tuple(_parsed(node, name, parse) for node in view.nodes if name in files[node.name])

    return Results(
        view=view,
        scores=all_of("scores.json", _scores),
        histories=all_of("history.json", _history),
        forecasts=all_of("forecast.json", _forecast),
        pixel_scores=all_of("pixel_scores.json", _pixel_scores),
        galleries=all_of("gallery.json", _gallery),
        ledgers=_ledgers(view, files),
        choices=tuple(arm for arm in all_of("selection.json", _choices) if arm.choices),
        duplicates=all_of("duplicates.json", _duplicates),
        percepts=tuple(node for node in view.nodes if "ledger.parquet" in files[node.name]),
    )


def _parsed(node: NodeView, name: str, parse: Callable[[NodeView, Any], T]) -> T:
    uri = join(node.uri, name)
    try:
        return parse(node, _finite(read_json(uri)))
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"{uri} is not what the report expects ({type(error).__name__}: {error})"
        raise CorruptArtifact(f"{problem}; remove its directory and run again") from error


def _finite(value: Any) -> Any:
    """Returns the value. Raises ValueError if it holds NaN or infinity, which can be neither drawn nor ranked."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"it holds {value}")
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _finite(part)
    return value


def _record(kind: type[T], value: dict[str, Any]) -> T:
    """Makes a dataclass of a JSON object; what the report does not show is left out."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value[name] for name in value if name in known})


def _scores(node: NodeView, value: Any) -> Scores:
    if not value["cells"]:
        raise ValueError("it names no cells")
    return Scores(
        name=node.name,
        class_names=tuple(value["class_names"]),
        num_test_clips=int(value["num_test_clips"]),
        chance=float(value["chance"]),
        cells=tuple((cell["model"], int(cell["labels_per_class"])) for cell in value["cells"]),
        samplings=tuple(_record(Sampling, row) for row in value["rows"]),
        summary=tuple(_record(Score, _bounded(row)) for row in value["summary"]),
        paired=tuple(_record(Pair, _bounded(row)) for row in value["paired"]),
        confusion={model: tuple(tuple(row) for row in matrix) for model, matrix in value["confusion"].items()},
        dataset=value.get("dataset"),
        num_clips=int(value.get("num_clips", 0)),
        num_official_clips=int(value.get("num_official_clips", 0)),
        coverage=tuple(_record(Coverage, row) for row in value.get("coverage", ())),
        gains=tuple(_record(Gain, _bounded(row)) for row in value.get("gains", ())),
        weights={rule: tuple(w) for rule, w in value["weights"].items()} if "weights" in value else None,
    )


def _choices(node: NodeView, value: Any) -> Choices:
    return Choices(arm=value["arm"], choices=tuple(value["choices"]))


def _duplicates(node: NodeView, value: Any) -> Duplicates:
    pairs = tuple(_record(SuspectPair, row) for row in value["suspects"][:MAX_SUSPECTS])
    return Duplicates(sentence=value["sentence"], num_suspects=len(value["suspects"]), pairs=pairs)


def _bounded(row: dict[str, Any]) -> dict[str, Any]:
    """Replaces bounds that are null by infinities: JSON has none, and one sampling bounds nothing."""
    low, high = row["low"], row["high"]
    return {**row, "low": -math.inf if low is None else low, "high": math.inf if high is None else high}


def _history(node: NodeView, value: Any) -> History:
    def rows(name: str) -> tuple[dict[str, float], ...]:
        return tuple({k: v for k, v in row.items() if v is not None} for row in value[name])

    return History(name=node.name, train=rows("train"), validation=rows("validation"))


def _forecast(node: NodeView, value: Any) -> Forecast:
    return Forecast(
        name=node.name,
        unit=value["unit"],
        num_windows=int(value["num_windows"]),
        num_dims=int(value["num_dims"]),
        frames_ahead=tuple(value["frames_ahead"]),
        predictors={name: tuple(errors) for name, errors in value["predictors"].items()},
        means=dict(value["means"]),
        reconstruction=dict(value["reconstruction"]),
    )


def _pixel_scores(node: NodeView, value: Any) -> PixelScores:
    return PixelScores(
        name=node.name,
        protocol=value["protocol"],
        unit=value["unit"],
        rows=tuple(_record(PixelScore, row) for row in value["rows"]),
        baselines=tuple(_record(PixelScore, row) for row in value.get("baselines", ())),
        num_test_sequences=value.get("num_test_sequences"),
    )


def _gallery(node: NodeView, value: Any) -> tuple[Picture, ...]:
    pictures = []
    for entry in value:
        uri = join(node.uri, entry["file"])
        fits = size_bytes(uri) <= MAX_PICTURE_BYTES
        picture = _record(Picture, {**entry, "uri": uri, "data_uri": _data_uri(uri) if fits else None})
        pictures.append(picture)
    return tuple(pictures)


def _data_uri(uri: str) -> str:
    kind = mimetypes.guess_type(uri)[0]
    if kind is None or not kind.startswith("image/"):
        raise ValueError(f"{uri} is no picture")
    return f"data:{kind};base64,{base64.b64encode(read_bytes(uri)).decode()}"


def _ledgers(view: RunView, files: dict[str, frozenset[str]]) -> tuple[Ledger, ...]:
    """Reads every ledger, and those indexes of which some video is in no ledger."""

    def read(name: str, decoded: bool) -> list[Ledger]:
        nodes = [node for node in view.nodes if name in files[node.name]]
        return [Ledger(name=n.name, decoded=decoded, records=tuple(read_records(n.path(name)))) for n in nodes]

    ledgers = read("ledger.parquet", True)
    counted = {record.uri for ledger in ledgers for record in ledger.records}
    indexes = [i for i in read("index.parquet", False) if any(record.uri not in counted for record in i.records)]
    return (*ledgers, *indexes)
