"""Runs of recipes side by side: the settings that differ, and the results with their intervals."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich import box
from rich.table import Table
from rich.text import Text

from pipeline.core.printable import printable, printable_lines
from pipeline.engine.tracking.values import ComparedRun
from pipeline.reporting.claims import labels, points
from pipeline.reporting.paper_numbers import paper_number
from stages.evaluation.intervals import t_interval
from stages.evaluation.score_table import ScoreTable

ENDS = ("_low", "_high")
NOT_RESULTS = ("system/",)
MIN_SAMPLINGS = 2
SAME = "+0.0 (+0.0 to +0.0)"
OF_SAMPLINGS = ("seed", "part", "splits", "num_samplings", "num_full_samplings", "samplings_per_job")
"""Settings by which labelled clips are drawn."""


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
    paired: tuple[ComparedValue, ...] = ()
    """Differences of accuracy from the first run, in points, over the samplings that both share."""
    has_paper: bool = False
    """True if the results have a cell more: what the paper has, as far as it is confirmed."""

    @property
    def changes(self) -> Comparison:
        """The same without costs, and without results and differences that are equal in all runs."""
        return replace(
            self,
            results=tuple(
                row
                for row in self.results
                if not row.name.startswith("cost/") and len(set(row.cells[: len(self.runs)])) > 1
            ),
            paired=tuple(row for row in self.paired if set(row.cells[1:]) - {"–", SAME}),
        )

    @property
    def parts(self) -> tuple[tuple[str, str, tuple[str, ...], tuple[ComparedValue, ...]], ...]:
        """The title, a sentence, the further headings and the rows of each table."""
        paper = ("the paper",) if self.has_paper else ()
        parts = [
            ("Settings that differ", "", (), self.settings),
            ("Results", "Values in parentheses are the ends of 95% intervals.", paper, self.results),
        ]
        if self.paired:
            said = "Points of accuracy, with 95% intervals over the samplings of labelled clips, which both runs share."
            parts.append(("Paired differences from the first run", said, (), self.paired))
        return tuple(parts)


def compare(runs: Sequence[ComparedRun]) -> Comparison:
    """Compares runs: settings that are not equal in all of them, and every result that one of them has."""
    names = sorted({name for run in runs for name in run.params})
    settings = [ComparedValue(name=name, cells=tuple(run.params.get(name, "–") for run in runs)) for name in names]
    measured = {name for run in runs for name in run.metrics if not name.startswith(NOT_RESULTS)}
    metrics = sorted(measured, key=_with_numbers)
    results = [
        ComparedValue(name=name, cells=tuple(_measured(run.metrics, name) for run in runs))
        for name in metrics
        if not _is_end(name, metrics) and "_by_" not in name.partition("/")[0]
    ]
    published = {row.name: paper_number(runs[0].recipe, row.name) for row in results}
    has_paper = len({run.recipe for run in runs}) == 1 and any(published.values())
    if has_paper:
        results = [replace(row, cells=(*row.cells, published[row.name] or "")) for row in results]
    return Comparison(
        runs=tuple(runs),
        settings=tuple(row for row in settings if len(set(row.cells)) > 1),
        results=tuple(results),
        paired=tuple(_paired(runs)),
        has_paper=has_paper,
    )


def _paired(runs: Sequence[ComparedRun]) -> list[ComparedValue]:
    """Returns differences from the first run in each cell that two runs have, of one split and the same samplings."""
    first, *others = ([values for table in run.scores for values in _by_cell(table).items()] for run in runs)
    rows = []
    for cell, before in first:
        cells = [
            _difference(before, dict(after).get(cell, {})) if _share_samplings(run, runs[0]) else "–"
            for run, after in zip(runs[1:], others, strict=True)
        ]
        if set(cells) != {"–"}:
            rows.append(ComparedValue(name=cell, cells=("–", *cells)))
    return rows


def _share_samplings(one: ComparedRun, other: ComparedRun) -> bool:
    """Returns whether both runs drew the same labelled clips, and were measured by the same test clips."""
    drawn = [
        {
            name: text
            for name, text in run.params.items()
            if name.rpartition(".")[2] in OF_SAMPLINGS and not name.startswith("pretrain.")
        }
        for run in (one, other)
    ]
    return drawn[0] == drawn[1] and bool(one.tests) and one.tests == other.tests


def _by_cell(table: ScoreTable) -> dict[str, dict[int, float]]:
    """Returns model and label count -> sampling -> accuracy, the mean over encoders; nothing of several splits."""
    if table.num_splits > 1:
        return {}
    values: dict[str, dict[int, list[float]]] = {}
    for row in table.samplings:
        cell = values.setdefault(f"{row.model}, {labels(row.labels_per_class)}", {})
        cell.setdefault(row.sampling, []).append(row.accuracy)
    return {name: {sampling: sum(each) / len(each) for sampling, each in cell.items()} for name, cell in values.items()}


def _difference(before: Mapping[int, float], after: Mapping[int, float]) -> str:
    shared = sorted(before.keys() & after.keys())
    if len(shared) < MIN_SAMPLINGS:
        return "–"
    interval = t_interval([after[s] - before[s] for s in shared])
    return f"{points(interval.mean)} ({points(interval.low)} to {points(interval.high)})"


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Returns the comparison as tables for the terminal."""
    headings = [f"{run.name}\n{run.run_id[:8]}, {run.started_at[:16].replace('T', ' ')}" for run in comparison.runs]
    tables = []
    for title, said, more, rows in comparison.parts:
        table = Table(title=Text(title, "bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        if caption := said if rows else "None.":
            table.caption, table.caption_justify = Text(caption), "left"
        table.add_column("", overflow="fold")
        for heading in (*headings, *more):
            table.add_column(Text(printable_lines(heading)), justify="right", overflow="fold")
        for row in rows:
            table.add_row(Text(printable(row.name)), *(Text(printable(cell)) for cell in row.cells))
        tables.append(table)
    return tables


def comparison_page(comparison: Comparison) -> str:
    """Returns the comparison as one HTML page that needs nothing beside it."""
    return html_templates().get_template("comparison.html.j2").render(comparison=comparison)


def html_templates() -> Environment:
    """Returns the templates of pages: whatever is filled in is escaped, and control characters with it."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Markup is a subclass of str that is already escaped: only plain text is made printable.
        finalize=lambda value: printable(value) if type(value) is str else value,
    )


def _measured(metrics: Mapping[str, float], name: str) -> str:
    if name not in metrics:
        return "–"
    quantity, slash, rest = name.partition("/")
    low, high = (metrics.get(f"{quantity}{end}{slash}{rest}") for end in ENDS)
    text = _number(metrics[name])
    return text if low is None or high is None else f"{text} ({_number(low)} to {_number(high)})"


def _with_numbers(name: str) -> list[str]:
    """Returns a key by which `2 labels` comes before `10 labels`."""
    return [part.zfill(9) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _is_end(name: str, names: Sequence[str]) -> bool:
    """Returns true for the end of an interval whose middle is among the names."""
    quantity, slash, rest = name.partition("/")
    return any(quantity.endswith(end) and f"{quantity.removesuffix(end)}{slash}{rest}" in names for end in ENDS)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) and abs(value) < 1e15 else f"{value:,.4g}"
