"""The report of a run: one self-contained HTML page.

The page needs nothing but itself: style, drawings and pictures are inside, nothing is fetched and no script runs.
Equal runs give equal bytes. Everything that comes from outside (file names, class names, reasons) is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from pipeline.core.files import join, write_bytes
from pipeline.core.printable import human_bytes, human_seconds
from pipeline.reporting.action_tables import action_tables, classifier_nodes, seconds_of
from pipeline.reporting.claims import interval_scope, number_of, points, sentence, validation_clips
from pipeline.reporting.comparison import Comparison, html_templates
from pipeline.reporting.figures import confusions, forecast_chart, label_curve, loss_curve, model_styles, plan_chart
from pipeline.reporting.findings import findings
from pipeline.reporting.introduction import introduction, percept_sentences
from pipeline.reporting.paper_findings import verdict_of
from pipeline.reporting.paper_numbers import (
    LATER,
    MNIST_COLUMN,
    OPEN_LOOP,
    OTHER_SYSTEMS,
    PATCHES_COLUMN,
    STEPS,
    TABLE_2,
    TABLES,
    TEACHER_FORCED,
    PaperTable,
)
from pipeline.reporting.paper_settings import other_than_the_papers
from pipeline.reporting.results import NodeResult, Results, missing_clips
from pipeline.reporting.svg import percent
from stages.evaluation.artifacts import PixelScoreRow, PixelScoreTable
from stages.evaluation.score_table import PairedDifference, ScoreTable

PAGE = "report.html"
MAX_CONFUSION_CLASSES = 16
"""With more classes only the best model's confusion is drawn."""
PAIR_MARKS = {"holds": "✓", "open": "?", "fails": "✗"}
MAX_SUSPECTS = 50
"""Number of test clips shown that may have been pretrained on."""
MAX_BAD_VIDEOS = 200
"""Longer lists are cut, with a count: `percepts ledger` lists them all."""


def write_report(results: Results, directory_uri: str, comparison: Comparison | None = None) -> str:
    """Writes `report.html` into the directory and returns its URI.

    comparison: the run against that of the same recipe before it, if there is one.
    """
    uri = join(directory_uri, PAGE)
    write_bytes(uri, page(results, comparison).encode())
    return uri


def page(results: Results, comparison: Comparison | None = None) -> str:
    """Renders the HTML page."""
    environment = html_templates()
    environment.filters.update(
        percent=percent, points=points, bytes=human_bytes, duration=human_seconds, error=number_of, sentence=sentence
    )
    environment.globals.update(fact=fact, setting=_setting, missing_clips=missing_clips, interval_scope=interval_scope)
    bad = results.bad_videos
    tables = action_tables(results)
    return environment.get_template("report.html.j2").render(
        view=results.view,
        results=results,
        comparison=comparison,
        introduction=introduction(results),
        findings=findings(results),
        percepts=[(node.name, percept_sentences(node)) for node in results.extractions],
        accuracy=[_accuracy(results, result) for result in results.scores],
        forecasts=[(result.content, forecast_chart(result.content)) for result in results.forecasts],
        losses=[figure for r in results.histories if (figure := loss_curve(r.name, r.content)) is not None],
        pixels=[table for result in results.pixel_scores for table in _pixels(result)],
        pictures=[picture for gallery in results.galleries for picture in gallery],
        bad_videos=bad[:MAX_BAD_VIDEOS],
        num_bad_videos=len(bad),
        plan=plan_chart(results.view),
        paper_tables=_recalled_tables(results),
        steps=_paper_steps(result.content for result in results.scores),
        has_tables=bool(tables or results.duplicates),
        action_tables=tables,
        other_systems=[
            (f"{system.name} on {table.scores.dataset}", system.accuracy[table.scores.dataset], system.source)
            for table in tables[:1]
            if table.is_same_data and table.scores.dataset is not None
            for system in OTHER_SYSTEMS
        ],
        not_the_papers=other_than_the_papers(results),
        any_over_splits=any(result.content.num_splits > 1 for result in results.scores),
        selections=results.selections,
        duplicates=results.duplicates,
        max_suspects=MAX_SUSPECTS,
        pair_marks=PAIR_MARKS,
        gain_verdict=verdict_of,
    )


def fact(name: str, value: float | str | bool) -> str:
    """Writes a fact of a manifest for reading: bytes and seconds in fitting units, numbers with separators."""
    if isinstance(value, str | bool):
        return str(value)
    if name.endswith("bytes"):
        return human_bytes(value)
    if name.endswith("seconds"):
        return human_seconds(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _setting(value: Any) -> str:
    if value is None:
        return "unset"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def _accuracy(results: Results, result: NodeResult[ScoreTable]) -> dict[str, Any]:
    scores, nodes = result.content, classifier_nodes(results, result.node)
    arms = set(scores.models)
    choices = [choice for selection in results.selections if selection.arm in arms for choice in selection.choices]
    figures = confusions(scores)
    by_pair: dict[tuple[str, str], dict[int, PairedDifference]] = {}
    for pair in scores.paired:
        by_pair.setdefault((pair.better, pair.worse), {})[pair.labels_per_class] = pair
    return {
        "name": result.name,
        "scores": scores,
        "styles": model_styles(scores.models),
        "best": {n: best.model for n in scores.label_counts if (best := scores.best(n))},
        "keys": {model: nodes[model][0].key for model in scores.models if model in nodes},
        "seconds": {cell: seconds_of(nodes.get(cell[0], ()), cell[1]) for cell in scores.cells},
        "pairs": by_pair,
        "curve": label_curve(scores)
        if scores.is_evaluated and len([n for n in scores.label_counts if n]) > 1
        else None,
        "chosen_on": validation_clips(
            scores, [one.num_validation_clips for one in choices if one.labels_per_class and one.sampling is None]
        ),
        "confusions": figures if len(scores.class_names) <= MAX_CONFUSION_CLASSES else figures[:1],
    }


def _pixels(result: NodeResult[PixelScoreTable]) -> list[dict[str, Any]]:
    """Returns a table a protocol: the artifact's own and, apart from it, the teacher-forced figures of its models."""
    pixels = result.content
    tables = [_pixel_table(result, pixels.protocol, pixels.value)]
    if pixels.protocol != TEACHER_FORCED and any(pixels.teacher_forced(row) is not None for row in pixels.rows):
        tables.append(_pixel_table(result, TEACHER_FORCED, pixels.teacher_forced))
    return tables


def _pixel_table(
    result: NodeResult[PixelScoreTable], protocol: str, value: Callable[[PixelScoreRow], float | None]
) -> dict[str, Any]:
    """Returns a run's rows, and published ones of the same protocol and unit only."""
    pixels = result.content
    is_own = protocol == pixels.protocol
    column = MNIST_COLUMN if pixels.in_nats else PATCHES_COLUMN
    later = [row for row in LATER if row.protocol == protocol] if pixels.in_nats else []
    published = [(row, number) for row in TABLE_2.rows if (number := TABLE_2.confirmed(row, column)) is not None]
    groups = [[(row, value(row)) for row in rows] for rows in (pixels.rows, pixels.baselines)]
    if not is_own:
        groups = [[(row, number) for row, number in group if number is not None] for group in groups]
    measured = [number for _, number in groups[0] if number is not None]
    return {
        "name": result.name,
        "scores": pixels,
        "protocol": protocol,
        "groups": [group for group in groups if group],
        "lowest": min(measured, default=None),
        "published": published if protocol == OPEN_LOOP else [],
        "later": later,
        "later_has_mse": any(row.mse is not None for row in later),
        "has_mse": is_own and pixels.in_nats and any(row.mse is not None for group in groups for row, _ in group),
        "has_reconstruction": is_own and any(pixels.reconstruction(row) is not None for row in pixels.rows),
    }


def _recalled_tables(results: Results) -> tuple[PaperTable, ...]:
    """Returns the paper's tables of what the run measured that hold figures which are not confirmed."""
    has_pixels = any(result.content.protocol == OPEN_LOOP for result in results.pixel_scores)
    return tuple(table for table in TABLES if (has_pixels if table is TABLE_2 else results.scores))


def _paper_steps(all_scores: Iterable[ScoreTable]) -> list[dict[str, Any]]:
    """Returns differences between two models here and in the paper, never accuracies side by side."""
    steps = []
    for scores in all_scores:
        for worse, better, table, paper_worse, paper_better in STEPS:
            here = [pair for pair in scores.paired if (pair.worse, pair.better) == (worse, better)]
            there = []
            for column in table.columns:
                low, high = table.number(paper_worse, column), table.number(paper_better, column)
                if low is not None and high is not None:
                    there.append((column, (high.value - low.value) / 100))
            if here:
                steps.append({"name": f"{better} over {worse}", "here": here, "there": there, "source": table.source})
    return steps
