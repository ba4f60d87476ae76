"""What a run's artifacts say, as typed values: the one reader behind the page, the terminal and the sentences.

Artifacts are found by the files that they hold (`scores.json`, `history.json`, `forecast.json`, `pixel_scores.json`,
`gallery.json`, `ledger.parquet`, `index.parquet`), so that a recipe may have any number of each, or none.
"""

from __future__ import annotations

import base64
import json
import mimetypes
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from pipeline.errors import CorruptArtifact
from pipeline.files import join, list_files, read_bytes, read_json, size_bytes
from pipeline.report_view import NodeView, RunView
from stages.percepts.ledger import VideoRecord, read_records

MAX_PICTURE_BYTES = 8_000_000
"""A larger picture is named by its URI and not put into the page, which people send by mail."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Accuracy (0..1) of one classifier trained on one sampling of the labels."""

    model: str
    labels_per_class: int
    sampling: int
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Score:
    """Mean accuracy (0..1) over samplings and its 95% interval."""

    model: str
    labels_per_class: int
    mean: float
    low: float
    high: float
    num_samplings: int


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Mean of (better - worse) over the same samplings, accuracy, and its 95% interval."""

    worse: str
    better: str
    labels_per_class: int
    difference: float
    low: float
    high: float
    num_samplings: int

    @property
    def verdict(self) -> str:
        """`holds` where the interval is above zero, `reversed` where it is below, else `unclear`."""
        return "holds" if self.low > 0 else "reversed" if self.high < 0 else "unclear"


@dataclass(frozen=True, kw_only=True)
class Scores:
    """One `scores.json`."""

    name: str
    class_names: tuple[str, ...]
    num_test_clips: int
    chance: float
    samplings: tuple[Sampling, ...]
    summary: tuple[Score, ...]
    paired: tuple[Pair, ...]
    confusion: dict[str, tuple[tuple[float, ...], ...]]

    @property
    def models(self) -> tuple[str, ...]:
        """Models as the file orders them: first those that are expected to be worst."""
        chain = [name for pair in self.paired for name in (pair.worse, pair.better)]
        return tuple(dict.fromkeys([*chain, *(score.model for score in self.summary)]))

    @property
    def label_counts(self) -> tuple[int, ...]:
        return tuple(sorted({score.labels_per_class for score in self.summary}))

    def score(self, model: str, labels_per_class: int) -> Score | None:
        """The cell of the table, None where it was not measured."""
        wanted = (model, labels_per_class)
        return next((s for s in self.summary if (s.model, s.labels_per_class) == wanted), None)

    def best(self, labels_per_class: int) -> Score:
        """The highest mean at a label count; the first of equals."""
        return max((s for s in self.summary if s.labels_per_class == labels_per_class), key=lambda score: score.mean)

    def pairs(self, labels_per_class: int) -> tuple[Pair, ...]:
        return tuple(pair for pair in self.paired if pair.labels_per_class == labels_per_class)


@dataclass(frozen=True, kw_only=True)
class History:
    """One `history.json`: losses (sum over dimensions, mean over sequences and frames) by optimiser step."""

    name: str
    train: tuple[dict[str, float], ...]
    validation: tuple[dict[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """One `forecast.json`: error of each predictor at each frame ahead."""

    name: str
    unit: str
    num_windows: int
    num_dims: int
    frames_ahead: tuple[int, ...]
    predictors: dict[str, tuple[float, ...]]
    means: dict[str, float]
    reconstruction: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class PixelScore:
    """A row of `pixel_scores.json`; None: not measured."""

    model: str
    cross_entropy: float | None = None
    squared_error: float | None = None
    mse: float | None = None
    ssim: float | None = None
    seconds: float | None = None
    num_sequences_seen: int | None = None


@dataclass(frozen=True, kw_only=True)
class PixelScores:
    """One `pixel_scores.json`: one protocol, one unit."""

    name: str
    protocol: str
    unit: str
    rows: tuple[PixelScore, ...]
    baselines: tuple[PixelScore, ...]

    @property
    def in_nats(self) -> bool:
        return self.unit.startswith("nats")

    def value(self, row: PixelScore) -> float | None:
        """The figure that `unit` names, lower is better; None where it was not measured."""
        if self.in_nats:
            return row.cross_entropy
        return row.squared_error if row.squared_error is not None else row.mse

    @property
    def best(self) -> PixelScore | None:
        """The model with the lowest value; None where nothing was measured."""
        measured = [(value, i) for i, row in enumerate(self.rows) if (value := self.value(row)) is not None]
        return self.rows[min(measured)[1]] if measured else None


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of a gallery; `data_uri` is None where the file is too large for the page."""

    title: str
    caption: str
    kind: str
    uri: str
    data_uri: str | None


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The rows of one `ledger.parquet` (`decoded`) or `index.parquet` (promises only)."""

    name: str
    decoded: bool
    records: tuple[VideoRecord, ...]

    def count(self, verdict: str) -> int:
        return sum(record.verdict == verdict for record in self.records)

    def frames(self, kind: str) -> int:
        """Sum of `frames_<kind>` (expected, decoded, dropped or missing) over the videos whose frames were counted."""
        return sum(getattr(record, f"frames_{kind}") for record in self.records if record.frames_decoded is not None)

    @property
    def frames_promised(self) -> int:
        """Frames that the videos say they hold, counted or not."""
        return sum(record.frames_expected for record in self.records)


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that a report shows, in the order of the plan."""

    view: RunView
    scores: tuple[Scores, ...]
    histories: tuple[History, ...]
    forecasts: tuple[Forecast, ...]
    pixel_scores: tuple[PixelScores, ...]
    galleries: tuple[tuple[Picture, ...], ...]
    ledgers: tuple[Ledger, ...]
    percepts: tuple[NodeView, ...]
    """The nodes that wrote a ledger."""

    @property
    def videos(self) -> Ledger:
        """Every video of the run once, as the first ledger (else index) that names it has it."""
        rows = [record for ledger in self.ledgers for record in ledger.records]
        unique = {record.uri: record for record in reversed(rows)}
        records = tuple(reversed(unique.values()))
        return Ledger(name="all", decoded=any(ledger.decoded for ledger in self.ledgers), records=records)

    @property
    def bad_videos(self) -> tuple[VideoRecord, ...]:
        """Every video that is partial or rejected in some ledger or index, once a verdict and reason."""
        bad = [record for ledger in self.ledgers for record in ledger.records if record.verdict != "ok"]
        return tuple({(record.uri, record.verdict, record.reason): record for record in bad}.values())


def read_results(view: RunView) -> Results:
    """Read every artifact of the run.

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
        percepts=tuple(node for node in view.nodes if "ledger.parquet" in files[node.name]),
    )


def _parsed(node: NodeView, name: str, parse: Callable[[NodeView, Any], T]) -> T:
    uri = join(node.uri, name)
    try:
        return parse(node, read_json(uri))
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"{uri} is not what the report expects ({type(error).__name__}: {error})"
        raise CorruptArtifact(f"{problem}; remove its directory and run again") from error


def _record(kind: type[T], value: dict[str, Any]) -> T:
    """A dataclass from a JSON object; what the report does not show is left out."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value[name] for name in value if name in known})


def _scores(node: NodeView, value: Any) -> Scores:
    return Scores(
        name=node.name,
        class_names=tuple(value["class_names"]),
        num_test_clips=int(value["num_test_clips"]),
        chance=float(value["chance"]),
        samplings=tuple(_record(Sampling, row) for row in value["rows"]),
        summary=tuple(_record(Score, row) for row in value["summary"]),
        paired=tuple(_record(Pair, row) for row in value["paired"]),
        confusion={model: tuple(tuple(row) for row in matrix) for model, matrix in value["confusion"].items()},
    )


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
    """Every ledger, and those indexes of which some video is in no ledger."""

    def read(name: str, decoded: bool) -> list[Ledger]:
        nodes = [node for node in view.nodes if name in files[node.name]]
        return [Ledger(name=n.name, decoded=decoded, records=tuple(read_records(n.path(name)))) for n in nodes]

    ledgers = read("ledger.parquet", True)
    counted = {record.uri for ledger in ledgers for record in ledger.records}
    indexes = [i for i in read("index.parquet", False) if any(record.uri not in counted for record in i.records)]
    return (*ledgers, *indexes)
