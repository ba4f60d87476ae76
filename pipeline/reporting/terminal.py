"""The report in the terminal: the page's tables in at most a screen or two."""

from __future__ import annotations

import shlex

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.core.files import absolute
from pipeline.core.printable import human_bytes, human_seconds, printable
from pipeline.engine.display import NARROW
from pipeline.engine.store import DEFAULT_STORE
from pipeline.reporting.claims import Finding, number_of, points
from pipeline.reporting.findings import findings
from pipeline.reporting.results import Results, count_name, missing_clips
from pipeline.reporting.svg import percent
from pipeline.reporting.view import NodeView, RunView
from stages.evaluation.artifacts import ForecastErrors, PixelScoreTable
from stages.evaluation.score_table import MeanAccuracy, PairedDifference, ScoreTable
from stages.finetuning.artifacts import Classifiers
from stages.models.artifacts import Encoder
from stages.percepts.artifacts import Percepts
from stages.serving.artifacts import VideoTable

MARKS = {"holds": ("✓", "green"), "fails": ("✗", "red"), "open": ("?", "yellow"), "note": ("·", "dim")}
PAIR_MARKS = {"holds": "✓", "reversed": "✗", "unclear": "?"}
LINES_AFTER = 5
"""Lines of a screen beside the results: an empty one, the link to the report (two), what became of an alias, the
prompt."""
MAX_STAGES = 12
MAX_BAD_VIDEOS = 4


def print_results(results: Results, console: Console) -> None:
    """Prints sentences, then tables. Names from outside are printed without markup or control characters.

    Tables are dense on a narrow terminal, and where all but the stages would else be higher than it.
    """
    console.print()
    console.print(_stages(results.view.nodes))  # first, so that a screen ends with what was found
    console.print()
    sentences = [_sentence(finding) for finding in findings(results)]
    parts = [*sentences, *_tables(results, is_dense=False)]
    commands = [Text(command, overflow="fold") for command in next_commands(results.view)]
    num_lines = sum(len(console.render_lines(part, pad=False)) for part in (*parts, *commands))
    is_dense = console.is_terminal and (console.width < NARROW or num_lines + LINES_AFTER > console.height)
    if is_dense:
        parts = [*sentences, *_tables(results, is_dense=True)]
    for part in parts if is_dense else [*parts, Text()]:
        console.print(part)
    for command in commands:
        console.print(command, soft_wrap=True)


def _tables(results: Results, *, is_dense: bool) -> list[RenderableType]:
    """Returns the tables of the results, each after an empty line; dense ones have but one before them all."""
    tables: list[Table] = []
    for scores in (result.content for result in results.scores):
        tables.append(_accuracy(scores, is_dense=is_dense))
        tables += [_paired(scores)] if scores.paired and not is_dense else []
    tables += [_forecast(forecast.content) for forecast in results.forecasts]
    tables += [_pixels(pixels.content) for pixels in results.pixel_scores]
    tables += [_bad_videos(results)] if results.bad_videos else []
    parts: list[RenderableType] = [Text()] if tables and is_dense else []
    for table in tables:
        if is_dense:
            table.box, table.padding = None, (0, 1, 0, 0)
        title, table.title = table.title, None  # a table's own would be cut into lines as short as the table's
        parts += [*([] if is_dense else [Text()]), title or Text(), table]
    return parts


def next_commands(view: RunView) -> list[str]:
    """Returns what to go on with: MLflow's page of the run, and its table, or what its models do with a video."""
    commands = []
    if view.has_mlflow_server:
        commands.append(view.mlflow_url)
    elif view.mlflow_page:
        is_default = view.store_uri == absolute(DEFAULT_STORE)
        commands.append(shlex.join(["percepts", "ui", *([] if is_default else ["--store", view.store_uri])]))
    tables = [node.artifact.directory for node in view.nodes if isinstance(node.artifact, VideoTable)]
    commands += [f"python: pandas.read_parquet({printable(directory)!r})" for directory in tables]
    has_percepts = any(isinstance(node.artifact, Percepts) for node in view.nodes)
    for kind, command in ((Encoder, "predict"), (Classifiers, "classify")):
        models = [node for node in view.nodes if isinstance(node.artifact, kind)]
        if has_percepts and models and not tables:
            commands.append(f"{shlex.join(['percepts', command, printable(models[-1].uri)])} VIDEO")
    return commands


def _sentence(finding: Finding) -> Text:
    mark, style = MARKS[finding.verdict]
    return Text.assemble((f"{mark} ", style), printable(finding.headline))


def _table(title: str, *headings: str) -> Table:
    """Returns a table whose first column is set left, the others right, the title above, left."""
    table = Table(
        title=Text(printable(title), "bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False
    )
    for i, heading in enumerate(headings):
        table.add_column(Text(printable(heading)), justify="right" if i else "left", overflow="fold")
    return table


def _cell(text: str, style: str = "") -> Text:
    return Text(printable(text), style)


def _accuracy(scores: ScoreTable, *, is_dense: bool) -> Table:
    """Returns the table of accuracies; a dense one has each model's paired differences below it."""
    splits = f" of {scores.num_splits} splits" if scores.num_splits > 1 else ""
    title = f"Accuracy, {scores.num_test_clips:,} test clips{splits}, ± 95% (chance {percent(scores.chance)})"
    pairs = _pairs(scores) if is_dense else {}
    title += "; paired differences, points, ± 95% (? includes zero, ✗ below)" if pairs else ""
    table = _table(title, "labels a class", *(count_name(n) for n in scores.label_counts))
    _say_covered(table, scores)
    best = {n: leader.model for n in scores.label_counts if (leader := scores.best(n))}
    for model in scores.models:
        cells = []
        for n in scores.label_counts:
            text = _interval(scores.score(model, n))
            cells.append(Text(_closer(text) if is_dense else text, "bold" if best.get(n) == model else ""))
        table.add_row(_cell(model), *cells)
        for (better, worse), of_counts in pairs.items():
            if better == model:
                differences = [_closer(_difference(of_counts.get(n))) for n in scores.label_counts]
                table.add_row(_cell(f" over {worse}"), *(text.removeprefix("✓") for text in differences))
    return table


def _say_covered(table: Table, scores: ScoreTable) -> None:
    """Adds a line below a table that says how much of the data set it stands on, if that is not all."""
    if missing := missing_clips(scores):
        table.caption, table.caption_justify = _cell(missing), "left"


def _interval(score: MeanAccuracy | None) -> str:
    return "–" if score is None else f"{100 * score.mean:.1f} {_half(score)}"


def _pairs(scores: ScoreTable) -> dict[tuple[str, str], dict[int, PairedDifference]]:
    """Returns the paired differences by (better, worse) and number of labels."""
    pairs: dict[tuple[str, str], dict[int, PairedDifference]] = {}
    for pair in scores.paired:
        pairs.setdefault((pair.better, pair.worse), {})[pair.labels_per_class] = pair
    return pairs


def _paired(scores: ScoreTable) -> Table:
    title = "Paired differences, points, ± 95% (✓ above zero, ? includes zero, ✗ below)"
    table = _table(title, "better over worse", *(count_name(n) for n in scores.label_counts))
    _say_covered(table, scores)
    for (better, worse), of_counts in _pairs(scores).items():
        table.add_row(_cell(f"{better} over {worse}"), *(_difference(of_counts.get(n)) for n in scores.label_counts))
    return table


def _difference(pair: PairedDifference | None) -> str:
    return "–" if pair is None else f"{PAIR_MARKS[pair.verdict]} {points(pair.difference)} {_half(pair)}"


def _closer(text: str) -> str:
    """Returns a number with its interval without spaces."""
    return text.replace(" ", "")


def _half(measured: MeanAccuracy | PairedDifference) -> str:
    """Writes half of the 95% interval, in points: t intervals are symmetric, and a terminal is narrow."""
    return f"± {50 * (measured.high - measured.low):.1f}" if measured.has_interval else "± ?"


def _forecast(forecast: ForecastErrors) -> Table:
    shown = sorted({0, len(forecast.frames_ahead) // 2, len(forecast.frames_ahead) - 1})
    ahead = [f"{forecast.frames_ahead[i]} ahead" for i in shown]
    table = _table(f"Prediction, {forecast.unit}", "predictor", "mean", *ahead, "reconstruction")
    for name in forecast.names:
        errors = forecast.predictors.get(name)
        values = [] if errors is None else [forecast.means[name], *(errors[i] for i in shown)]
        cells = [number_of(error) for error in values] or [""] * (1 + len(shown))
        rebuilt = forecast.reconstruction.get(name)
        table.add_row(_cell(name), *cells, "" if rebuilt is None else number_of(rebuilt))
    return table


def _pixels(pixels: PixelScoreTable) -> Table:
    table = _table(f"Prediction, {pixels.protocol}", "model", pixels.unit, "MSE", "SSIM", "time")
    for row in (*pixels.rows, *pixels.baselines):
        value = pixels.value(row)
        table.add_row(
            _cell(row.model),
            "not measured" if value is None else number_of(value),
            "" if row.mse is None else number_of(row.mse),
            "" if row.ssim is None else f"{row.ssim:.3f}",
            "" if row.seconds is None else human_seconds(row.seconds),
        )
    return table


def _bad_videos(results: Results) -> Table:
    bad = results.bad_videos
    more = f", {MAX_BAD_VIDEOS} shown" if len(bad) > MAX_BAD_VIDEOS else ""
    table = Table(title=Text(f"Bad videos: {len(bad):,}{more}", "bold"), title_justify="left", box=None, pad_edge=False)
    for no_wrap in (True, True, False):
        table.add_column(no_wrap=no_wrap, overflow="ellipsis")
    table.show_header = False
    for record in bad[:MAX_BAD_VIDEOS]:
        name = record.uri.rstrip("/").rsplit("/", 1)[-1]
        reason = Text(printable(record.reason), no_wrap=True, overflow="ellipsis")
        table.add_row(_cell(record.verdict), _cell(name), reason)
    return table


def _stages(nodes: tuple[NodeView, ...]) -> Table:
    table = _table("Stages", "stage", "", "time", "bytes", "key")
    hidden = nodes[MAX_STAGES:]
    for node in nodes[:MAX_STAGES]:
        cells = (human_seconds(node.seconds), human_bytes(node.num_bytes), node.key)
        table.add_row(_cell(node.name), node.state, *map(_cell, cells))
    if hidden:
        made = sum(node.state == "made" for node in hidden)
        seconds = human_seconds(sum(node.seconds for node in hidden))
        num_bytes = human_bytes(sum(node.num_bytes for node in hidden))
        table.add_row(f"{len(hidden)} more", f"{made} made", seconds, num_bytes, "")
    return table
