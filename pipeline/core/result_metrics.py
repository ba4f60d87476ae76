"""The results of an artifact as numbers with names, which MLflow shows and compares.

A name is `quantity/what it belongs to/condition`: MLflow's pages group metrics by the part before the first slash. The
ends of an interval have the names `quantity_low/...` and `quantity_high/...`. Names do not depend on settings, so that
runs can be compared by them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class ResultMetrics:
    """The results of one artifact. Every number is finite."""

    values: Mapping[str, float] = field(default_factory=dict)
    """Name -> number: what a run is compared by."""
    curves: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    """Name -> {step: number}: accuracy against labels, error against frames ahead, loss against steps."""
    table: Mapping[str, Sequence[str | float | None]] = field(default_factory=dict)
    """Column -> values, all of one length; empty where the results are no table."""


def finite(values: Mapping[str, float | None]) -> dict[str, float]:
    """Returns the values that are measured: without None, NaN and infinity, which bound the interval of one value."""
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}


def columns(rows: Sequence[Mapping[str, str | float | None]]) -> dict[str, list[str | float | None]]:
    """Returns rows with the same fields as columns; an infinite number becomes None."""
    if not rows:
        return {}
    return {name: [_cell(row[name]) for row in rows] for name in rows[0]}


def _cell(value: str | float | None) -> str | float | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value
