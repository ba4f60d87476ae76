"""A run as a note in Markdown, which MLflow shows on the run's page."""

from __future__ import annotations

from typing import Final

from pipeline.core.printable import printable
from pipeline.reporting.claims import interval_scope
from pipeline.reporting.findings import findings
from pipeline.reporting.results import Results, count_name
from pipeline.reporting.svg import percent
from stages.evaluation.score_table import MeanAccuracy, ScoreTable

MARKS: Final = {"holds": "✓ ", "fails": "✗ ", "open": "? ", "note": ""}
# MLflow's pages show the backslash before < and >.
SPECIAL: Final = str.maketrans(
    {**{character: f"\\{character}" for character in "\\`*_[]|#"}, "<": "&lt;", ">": "&gt;", "&": "&amp;"}
)


def note(results: Results, report_uri: str) -> str:
    """Returns the findings as a list, a table of accuracies a data set, the command, and the address of the report."""
    lines = [
        f"- {MARKS[f.verdict]}{escape_markdown(f.headline)} {escape_markdown(f.detail)}".rstrip()
        for f in findings(results)
    ]
    for scores in (result.content for result in results.scores):
        lines += ["", *_accuracies(scores), "", interval_scope(scores)]
    address = printable(f"file://{report_uri}" if report_uri.startswith("/") else report_uri)
    # Pages of a web server may not link to local files, so that the address stands there to be copied.
    lines += [
        "",
        f"Report: `{address}`, and `report.html` among the artifacts.",
        "",
        "```",
        printable(results.view.command),
        "```",
    ]
    return "\n".join(lines)


def _accuracies(scores: ScoreTable) -> list[str]:
    counts = scores.label_counts
    lines = [
        "| labels a class | " + " | ".join(count_name(n) for n in counts) + " |",
        "|---|" + "---|" * len(counts),
    ]
    for model in scores.models:
        cells = " | ".join(_cell(scores.score(model, n)) for n in counts)
        lines.append(f"| {escape_markdown(model)} | {cells} |")
    return lines


def _cell(score: MeanAccuracy | None) -> str:
    if score is None:
        return "–"
    ends = f" ({100 * score.low:.1f} to {100 * score.high:.1f})" if score.has_interval else ""
    return f"{percent(score.mean)}{ends}"


def escape_markdown(text: str) -> str:
    """Returns a text as Markdown shows it, with control characters escaped."""
    return printable(text).translate(SPECIAL)
