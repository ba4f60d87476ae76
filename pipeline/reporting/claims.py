"""A sentence of a report, its verdict, and how figures are put into words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.reporting.svg import number

Verdict = Literal["holds", "fails", "open", "note"]


@dataclass(frozen=True)
class Finding:
    """A sentence, and the figures behind it."""

    verdict: Verdict
    headline: str
    detail: str = ""


def points(fraction: float) -> str:
    """Writes a difference of accuracies in percentage points, signed: 0.062 -> '+6.2'."""
    return f"{100 * fraction:+.1f}".replace("-", "−")


def listed_words(words: Sequence[str], last: str) -> str:
    """Joins words as a sentence lists them: 'a', 'a and b', 'a, b and c'."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def number_of(value: float) -> str:
    """Writes an error to a tenth: '341.2'."""
    return f"{value:,.1f}" if abs(value) >= 1 else number(value)


def count_of(count: int, noun: str) -> str:
    """Writes a count with its noun: '1 video', '1,360 videos'."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def sentence(text: str) -> str:
    """Capitalises the first letter of a text."""
    return text[:1].upper() + text[1:]
