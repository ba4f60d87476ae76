"""SVG written by hand: escaped elements, scales from data to pixels, round ticks, and how numbers and names are set.

Attribute names take `_` for `-` and `class_` for `class`. No XML namespace is written: the drawings live inside HTML.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.core.printable import printable


@dataclass(frozen=True)
class Chart:
    """A drawing, and what a page needs to set it: on a phone the labels give way to a legend."""

    svg: Markup
    legend: tuple[tuple[str, Markup], ...] = ()
    """(name, a small drawing of its line)."""
    crop: float = 1.0
    """The drawing's width over the width of its part without the labels at the right."""


@dataclass(frozen=True)
class Scale:
    """Data to pixels, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        share = (at - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)


SMALLEST = 1e-300
"""Below this, floats lose digits, and quotients of them their meaning."""


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Returns round numbers, roughly `about` of them, whose first is <= low and whose last is >= high."""
    largest = max(abs(low), abs(high))
    if high - low <= max(SMALLEST, 1e-12 * largest):
        high = low + (largest if largest > SMALLEST else 1.0)
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Returns 1, 2, 5 times powers of ten, from at most `low` to at least `high`; both above 0."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [m * 10.0**decade for decade in decades for m in (1, 2, 5)]
    first = max(i for i, mark in enumerate(marks) if mark <= low * (1 + 1e-9))
    last = min(i for i, mark in enumerate(marks) if mark >= high * (1 - 1e-9))
    return marks[first : last + 1]


def percent(fraction: float) -> str:
    """Writes a fraction in percent: 0.125 -> '12.5%', 0.5 -> '50%'."""
    return f"{100 * fraction:.1f}".removesuffix(".0") + "%"


def number(value: float) -> str:
    """Writes a number with at most three significant digits, or a whole number: 0.25, 12.5, 3,400."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def px(value: float) -> str:
    """Writes a coordinate to a tenth of a pixel; small numbers (opacity) keep three digits."""
    return f"{value:.3f}".rstrip("0").rstrip(".") if abs(value) < 1 else f"{value:.1f}".removesuffix(".0")


def tag(name: str, content: str = "", **attributes: str | float) -> Markup:
    """Builds an element. Content and attributes are escaped; Markup is taken as it is. `name` is never data."""
    pairs = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _value(value)) for key, value in attributes.items()
    )
    inner = content if isinstance(content, Markup) else printable(content)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), pairs, inner)


def drawing(width: float, height: float, title: str, description: str, content: Markup) -> Markup:
    """Builds a whole drawing, with a title and a description that screen readers read."""
    return tag(
        "svg",
        tag("title", title) + tag("desc", description) + content,
        viewBox=f"0 0 {px(width)} {px(height)}",
        role="img",
        aria_label=f"{title}. {description}",
        style=f"--w:{px(width)}",
    )


def _value(value: str | float) -> str:
    return printable(value) if isinstance(value, str) else px(value)
