"""Runs of recipes side by side: the settings that differ, and the results with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich import box
from rich.table import Table
from rich.text import Text

from pipeline.reporting.svg import printable

ENDS = ("_low", "_high")
NOT_RESULTS = ("system/",)


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """A run with its settings and results."""

    run_id: str
    name: str
    started_at: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class ComparedValue:
    """A setting or a result, and its text in every run."""

    name: str
    cells: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs, the settings in which they differ, and their results by quantity."""

    runs: tuple[ComparedRun, ...]
    settings: tuple[ComparedValue, ...]
    results: tuple[ComparedValue, ...]


def compare(runs: Sequence[ComparedRun]) -> Comparison:
    """Compares runs: settings that are not equal in all of them, and every result that one of them has."""
    names = sorted({name for run in runs for name in run.params})
    settings = [ComparedValue(name=name, cells=tuple(run.params.get(name, "–") for run in runs)) for name in names]
    metrics = sorted({name for run in runs for name in run.metrics if not name.startswith(NOT_RESULTS)})
    results = [
        ComparedValue(name=name, cells=tuple(_measured(run.metrics, name) for run in runs))
        for name in metrics
        if not _is_end(name, metrics) and "_by_" not in name.partition("/")[0]
    ]
    return Comparison(
        runs=tuple(runs), settings=tuple(row for row in settings if len(set(row.cells)) > 1), results=tuple(results)
    )


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Returns the comparison as tables for the terminal."""
    headings = [f"{run.name}\n{run.run_id[:8]}, {run.started_at[:16].replace('T', ' ')}" for run in comparison.runs]
    parts = (("Settings that differ", comparison.settings), ("Results, with 95% intervals", comparison.results))
    tables = []
    for title, rows in parts:
        table = Table(title=Text(title, "bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("", overflow="fold")
        for heading in headings:
            table.add_column(Text(_lines(heading)), justify="right", overflow="fold")
        for row in rows:
            table.add_row(Text(printable(row.name)), *(Text(printable(cell)) for cell in row.cells))
        tables.append(table)
    return tables


def comparison_page(comparison: Comparison) -> str:
    """Returns the comparison as one HTML page that needs nothing beside it."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )  # fmt: skip
    return environment.get_template("comparison.html.j2").render(comparison=comparison)


def _measured(metrics: Mapping[str, float], name: str) -> str:
    if name not in metrics:
        return "–"
    quantity, slash, rest = name.partition("/")
    low, high = (metrics.get(f"{quantity}{end}{slash}{rest}") for end in ENDS)
    text = _number(metrics[name])
    return text if low is None or high is None else f"{text} ({_number(low)} to {_number(high)})"


def _is_end(name: str, names: Sequence[str]) -> bool:
    """Returns true for the end of an interval whose middle is among the names."""
    quantity, slash, rest = name.partition("/")
    return any(quantity.endswith(end) and f"{quantity.removesuffix(end)}{slash}{rest}" in names for end in ENDS)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) and abs(value) < 1e15 else f"{value:,.4g}"


def _lines(text: str) -> str:
    return "\n".join(printable(line) for line in text.split("\n"))
