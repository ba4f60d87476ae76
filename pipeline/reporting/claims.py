"""A sentence of a report, its verdict, and how figures are put into words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.reporting.results import count_name
from pipeline.reporting.svg import number
from stages.evaluation.score_table import Bounded, ScoreTable

Verdict = Literal["holds", "fails", "open", "note"]


@dataclass(frozen=True)
class Finding:
    """A sentence, and the figures behind it."""

    verdict: Verdict
    headline: str
    detail: str = ""


def together(verdicts: Iterable[Verdict]) -> Verdict:
    """Returns `holds` if every part of a claim holds, `fails` if one fails, else `open`."""
    said = set(verdicts)
    return "fails" if "fails" in said else "open" if "open" in said else "holds"


def points(fraction: float) -> str:
    """Writes a difference of accuracies in percentage points, signed: 0.062 -> '+6.2'."""
    return f"{100 * fraction:+.1f}".replace("-", "−")


def listed_words(words: Sequence[str], last: str) -> str:
    """Joins words as a sentence lists them: 'a', 'a and b', 'a, b and c'."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def number_of(value: float) -> str:
    """Writes an error to a tenth: '341.2'."""
    return f"{value:,.1f}" if abs(value) >= 1 else number(value)


def labels(*counts: int) -> str:
    """Writes numbers of labels: '1 label a class', '1, 2 and 10 labels a class', 'all labels'."""
    noun = "label" if counts == (1,) else "labels"
    return "all labels" if counts == (0,) else f"{listed_words([count_name(n) for n in counts], 'and')} {noun} a class"


def sentence(text: str) -> str:
    """Capitalises the first letter of a text."""
    return text[:1].upper() + text[1:]


def within(limits: Sequence[Bounded], claim: str) -> str:
    """Limits a claim to the one encoder that was pretrained, if one of its intervals speaks of no more than that."""
    return claim + next((bounded.limits for bounded in limits if bounded.limits), "")


def interval_scope(scores: ScoreTable) -> str:
    """Writes what the intervals of a table are over, and what they say nothing of."""
    over = "official splits" if scores.num_splits > 1 else f"draws of labels from {scores.num_train_clips:,} clips"
    numbers = {score.num_encoders for score in scores.summary if score.num_encoders}
    if numbers and min(numbers) > 1:
        over += f" and, where a row was pretrained, its {max(numbers)} encoders"
    said = f"Intervals are over {over}, on these {scores.num_test_clips:,} test clips."
    if 1 in numbers:
        said += (
            " Rows that were pretrained stand for one encoder each, and another seed's may differ by more than an "
            "interval says: --num-encoders 3 measures that."
        )
    return said


def validation_clips(scores: ScoreTable, numbers: Sequence[int]) -> str:
    """Writes on how many further labelled clips settings were chosen; empty where none were.

    numbers: validation clips of every choice.
    """
    if not numbers:
        return ""
    per_class = number(max(numbers) / len(scores.class_names))
    return (
        f"Settings were chosen on up to {per_class} further labelled clips a class, which the horizontal axis does not "
        "count; selection.labels-only chooses within those that it counts."
    )
