"""A sentence of a report, its verdict, and how figures are put into words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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
