"""The charts of a report: results, their drawings and the descriptions that screen readers read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.core.printable import human_seconds
from pipeline.reporting.charts import NUM_STYLES, Point, Series, confusion_chart, line_chart
from pipeline.reporting.dag_chart import Box, dag_chart
from pipeline.reporting.svg import Chart, percent
from pipeline.reporting.view import RunView
from stages.evaluation.artifacts import BASELINES, ForecastErrors
from stages.evaluation.score_table import ScoreTable
from stages.models.artifacts import TrainingHistory

MAX_LOSS_POINTS = 200
MAX_BOXES = 40
NUM_CONFUSIONS = 3


@dataclass(frozen=True)
class ChartFigure:
    """A chart under a title, with its caption."""

    title: str
    chart: Chart
    caption: str


def model_styles(models: Sequence[str]) -> dict[str, str]:
    """Assigns a style to each model, the same in every chart and table; the last (expected best) has the first."""
    return {model: f"s{(len(models) - 1 - i) % NUM_STYLES}" for i, model in enumerate(models)}


def label_curve(scores: ScoreTable) -> ChartFigure:
    """Draws accuracy against labels a class, every sampling a dot, of the models that were measured at each count."""
    styles = model_styles(scores.models)
    counts = [n for n in scores.label_counts if n]
    series = []
    for model in scores.models:
        row = [score for n in counts if (score := scores.score(model, n)) is not None]
        if len(row) < len(counts):
            continue
        samples = [
            (float(s.labels_per_class), s.accuracy) for s in scores.samplings if s.model == model and s.labels_per_class
        ]
        points = [(float(s.labels_per_class), s.mean) for s in row]
        intervals = tuple((s.low, s.high) for s in row) if all(s.has_interval for s in row) else ()
        series.append(
            Series(name=model, style=styles[model], points=tuple(points), intervals=intervals, samples=tuple(samples))
        )
    said = ". ".join(f"{s.name}: " + ", ".join(f"{percent(y)} at {x:.0f}" for x, y in s.points) for s in series)
    chart = line_chart(
        series,
        title="Accuracy against labelled clips a class",
        description=said,
        x_label="labelled clips a class",
        y_label="test accuracy",
        x_ticks=[float(n) for n in counts],
        log_x=True,
        from_zero=True,
        y_format=percent,
        rule=(scores.chance, f"chance {percent(scores.chance)}"),
        dodge=True,
    )
    caption = (
        f"Mean over {'splits and ' if scores.num_splits > 1 else ''}samplings of the labels; bars are 95% intervals of "
        "the mean, small dots the single samplings. "
        f"The horizontal axis is logarithmic; {scores.num_test_clips:,} test clips."
    )
    return ChartFigure("Accuracy against labels", chart, caption)


def confusions(scores: ScoreTable) -> tuple[ChartFigure, ...]:
    """Draws a confusion matrix a model at the largest label count, the best model first."""
    most = scores.label_counts[-1]
    means = {model: score.mean if (score := scores.score(model, most)) else 0.0 for model in scores.confusion}
    return tuple(_confusion(scores, model) for model in sorted(means, key=lambda name: -means[name]))


def _confusion(scores: ScoreTable, model: str) -> ChartFigure:
    matrix, names = scores.confusion[model], scores.class_names
    mixed = []
    for i in range(len(matrix)):
        for j in range(i):
            total = sum(matrix[i]) + sum(matrix[j])
            mixed.append(((matrix[i][j] + matrix[j][i]) / total if total else 0.0, names[j], names[i]))
    worst = [pair for pair in sorted(mixed, key=lambda pair: -pair[0])[:NUM_CONFUSIONS] if pair[0] > 0]
    said = "; ".join(f"{a} and {b} ({percent(share)} of their clips)" for share, a, b in worst)
    caption = f"Most often taken for one another: {said}." if said else "No clip was taken for another class."
    chart = confusion_chart(matrix, names, title=f"Confusion of {model}", description=caption)
    return ChartFigure(model, chart, caption)


def forecast_chart(forecast: ForecastErrors) -> ChartFigure:
    """Draws the error of every predictor at each frame ahead."""
    models = [name for name in forecast.predictors if name not in BASELINES]
    styles = {**model_styles(models), **{name: f"b{i}" for i, name in enumerate(BASELINES)}}
    xs = [float(frame) for frame in forecast.frames_ahead]
    series = [
        Series(name=name, style=styles[name], points=tuple(zip(xs, errors, strict=True)))
        for name, errors in forecast.predictors.items()
    ]
    said = ". ".join(f"{name}: mean {mean:.4g}" for name, mean in forecast.means.items())
    chart = line_chart(
        series,
        title="Error of predicted frames",
        description=said,
        x_label="frames ahead",
        y_label=forecast.unit,
        x_ticks=xs if len(xs) <= 16 else None,
        from_zero=True,
    )
    caption = f"Lower is better. {forecast.num_windows:,} windows of percepts with {forecast.num_dims:,} dimensions."
    return ChartFigure("Predicting frames that were not seen", chart, caption)


def loss_curve(name: str, history: TrainingHistory) -> ChartFigure | None:
    """Draws training and validation loss of each decoder; None if no step was recorded."""
    rows = (*history.train, *history.validation)
    parts = [
        part for part in ("reconstruct_loss", "predict_loss") if any(row.get(part) is not None for row in rows)
    ] or ["loss"]
    series = []
    for i, part in enumerate(parts):
        decoder = part.removesuffix("_loss")
        for kind, steps in (("train", history.train), ("validation", history.validation)):
            points = thinned([(float(row["step"] or 0), loss) for row in steps if (loss := row.get(part)) is not None])
            if points:
                is_train = kind == "train"
                series.append(
                    Series(
                        name=f"{decoder}, {kind}", style=f"s{i}", points=points, markers=not is_train, faint=is_train
                    )
                )
    if not series:
        return None
    last = ". ".join(f"{s.name}: from {s.points[0][1]:.4g} to {s.points[-1][1]:.4g}" for s in series)
    chart = line_chart(
        series, title=f"Loss of {name}", description=last, x_label="optimiser steps",
        y_label="loss, sum over dimensions per frame", log_y=True,
    )  # fmt: skip
    caption = "Thin: training batches; with markers: validation. Mean over sequences and the decoder's frames."
    return ChartFigure(f"Loss of {name}", chart, caption)


def thinned(points: Sequence[Point]) -> tuple[Point, ...]:
    """Reduces a curve to at most MAX_LOSS_POINTS points: means over equal stretches, at the stretch's last step."""
    size = -(-len(points) // MAX_LOSS_POINTS) or 1
    stretches = [points[i : i + size] for i in range(0, len(points), size)]
    return tuple((part[-1][0], sum(y for _, y in part) / len(part)) for part in stretches)


def plan_chart(view: RunView) -> Markup | None:
    """Draws the run's graph; None if no node names its parents, or there are too many to be read."""
    if len(view.nodes) > MAX_BOXES or not any(node.parents for node in view.nodes):
        return None
    boxes = [
        Box(
            name=node.name,
            note=f"made in {human_seconds(node.seconds)}" if node.state == "made" else "reused",
            made=node.state == "made",
            parents=node.parents,
        )
        for node in view.nodes
    ]
    said = "; ".join(f"{node.name} reads {', '.join(node.parents) or 'nothing'}" for node in view.nodes)
    return dag_chart(boxes, title=f"Stages of {view.recipe}", description=said)
