"""Charts as inline SVG: lines with intervals, and a confusion matrix. Equal input gives equal text.

Colours and type come from the page's style sheet through classes (`s0`..`s6` models, `b0`..`b2` baselines), so that a
chart follows the page into dark mode, onto a phone and onto paper. No meaning is in colour alone: every line has its
own marker, dash pattern and a label at its end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.reporting.svg import Chart, Scale, drawing, log_ticks, number, px, tag, ticks

NUM_STYLES = 7
WIDTH_PX = 680
HEIGHT_PX = 350
LEFT_PX, TOP_PX, BOTTOM_PX = 52, 42, 50
LABEL_PX_PER_CHAR = 8.1
"""Width of semibold labels in the widest of the page's fonts."""
TICK_PX_PER_CHAR = 7.2
MAX_LABEL_CHARS = 26
MIN_LABEL_GAP_PX = 17.0
DODGE_PX = 10.0
MAX_MARKERS = 24
LOG_RATIO = 20.0
"""Ratio above which values are shown on a logarithmic axis, if the caller allows it."""

Point = tuple[float, float]
Format = Callable[[float], str]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a chart."""

    name: str
    style: str
    """`s0`..`s6`, or `b0`..`b2` for baselines."""
    points: tuple[Point, ...]
    intervals: tuple[tuple[float, float], ...] = ()
    """(low, high) at each point, or none at all."""
    samples: tuple[Point, ...] = ()
    """Single measurements behind the points."""
    markers: bool = True
    faint: bool = False
    """True for a line that is drawn thin, behind another one."""

    def __post_init__(self) -> None:
        assert self.points
        assert len(self.intervals) in (0, len(self.points))
        assert all(math.isfinite(v) for point in (*self.points, *self.intervals, *self.samples) for v in point)


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    description: str,
    x_label: str,
    y_label: str,
    x_ticks: Sequence[float] | None = None,
    log_x: bool = False,
    log_y: bool = False,
    from_zero: bool = False,
    y_format: Format = number,
    rule: tuple[float, str] | None = None,
    dodge: bool = False,
) -> Chart:
    """Draws lines over one pair of axes.

    Args:
        x_ticks: where to mark the horizontal axis; round numbers by default.
        log_y: allow a logarithmic vertical axis, used where the values span more than LOG_RATIO.
        rule: a horizontal line at a value, with its name (chance level).
        dodge: set series a little apart horizontally, so that their intervals do not hide one another.
    """
    assert series
    longest = max(len(_shortened(s.name)) for s in series)
    right = WIDTH_PX - (22 + LABEL_PX_PER_CHAR * longest)
    xs = [x for s in series for x, _ in s.points]
    ys = [y for s in series for y in _heights(s)] + ([rule[0]] if rule else []) + ([0.0] if from_zero else [])
    log_y = log_y and min(ys) > 0 and max(ys) / min(ys) > LOG_RATIO
    y_ticks = log_ticks(min(ys), max(ys)) if log_y else ticks(min(ys), max(ys))
    x_marks = list(x_ticks) if x_ticks is not None else [t for t in ticks(min(xs), max(xs)) if t <= max(xs) * 1.0001]
    inset = DODGE_PX * (len(series) if dodge else 1)
    x_scale = Scale(min(*xs, *x_marks), max(*xs, *x_marks), LEFT_PX + inset, right - inset, log_x)
    y_scale = Scale(y_ticks[0], y_ticks[-1], HEIGHT_PX - BOTTOM_PX, TOP_PX, log_y)
    parts = [_axes(x_scale, y_scale, x_marks, y_ticks, x_label, y_label, y_format, right)]
    if rule is not None:
        parts.append(_rule(rule, y_scale, right))
    shifts = [DODGE_PX * (i - (len(series) - 1) / 2) if dodge else 0.0 for i in range(len(series))]
    parts += [_line(s, x_scale, y_scale, shift) for s, shift in zip(series, shifts, strict=True)]
    parts.append(_end_labels(series, y_scale, right))
    svg = drawing(WIDTH_PX, HEIGHT_PX, title, description, Markup("").join(parts))
    return Chart(svg, tuple((s.name, _swatch(s)) for s in series), WIDTH_PX / (right + 18))


def confusion_chart(
    matrix: Sequence[Sequence[float]], class_names: Sequence[str], *, title: str, description: str
) -> Chart:
    """Draws a confusion matrix: rows are true classes, columns predictions, a cell its share of the row's clips.

    Only matrices of up to 16 classes hold numbers and names.
    """
    num_classes = len(matrix)
    assert all(len(row) == num_classes for row in matrix)
    assert len(class_names) == num_classes
    named = num_classes <= 16
    cell = 36.0 if named else max(4.0, 560 / num_classes)
    names = [_shortened(name) for name in class_names]
    margin = 14 + TICK_PX_PER_CHAR * max(map(len, names)) if named else 18.0
    top = 18 + 0.75 * (margin - 18) if named else 18.0
    parts = [tag("text", "prediction →", x=margin, y=12, class_="unit")]
    for i, row in enumerate(matrix):
        total = sum(row)
        y = top + i * cell
        if named:
            x = margin + (i + 0.5) * cell
            parts.append(tag("text", names[i], x=margin - 8, y=y + cell / 2 + 4, class_="tick end"))
            turned = f"translate({px(x)} {px(top - 7)}) rotate(-40)"
            parts.append(tag("text", names[i], transform=turned, class_="tick"))
        for j, count in enumerate(row):
            share = count / total if total else 0.0
            parts.append(_cell(margin + j * cell, y, cell, share, diagonal=i == j, text=named))
    side = margin + num_classes * cell
    return Chart(drawing(side + 42, top + num_classes * cell + 6, title, description, Markup("").join(parts)))


def _cell(x: float, y: float, side: float, share: float, *, diagonal: bool, text: bool) -> Markup:
    if not share and not (diagonal and text):
        return Markup("")
    gap = 1.0 if text else 0.25
    size = side - 2 * gap
    kind = "cell diagonal" if diagonal and text else "cell"
    parts = tag("rect", class_=kind, fill_opacity=share, x=x + gap, y=y + gap, width=size, height=size)
    if text and share >= 0.005:
        kind = "in on" if share > 0.55 else "in"
        parts += tag("text", f"{100 * share:.0f}", x=x + side / 2, y=y + side / 2 + 4, class_=kind)
    return parts


def _axes(
    x_scale: Scale,
    y_scale: Scale,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    x_label: str,
    y_label: str,
    y_format: Format,
    right: float,
) -> Markup:
    bottom = y_scale.start
    parts = [tag("text", y_label, x=0, y=13, class_="unit")]
    for tick in y_ticks:
        y = y_scale(tick)
        parts.append(tag("line", x1=LEFT_PX, x2=right, y1=y, y2=y, class_="axis" if tick == y_ticks[0] else "grid"))
        parts.append(tag("text", y_format(tick), x=LEFT_PX - 8, y=y + 4, class_="tick end"))
    for tick in x_ticks:
        x = x_scale(tick)
        parts.append(tag("line", x1=x, x2=x, y1=bottom, y2=bottom + 5, class_="axis"))
        parts.append(tag("text", number(tick), x=x, y=bottom + 20, class_="tick mid"))
    parts.append(tag("text", x_label, x=right, y=bottom + 42, class_="unit end"))
    return Markup("").join(parts)


def _rule(rule: tuple[float, str], y_scale: Scale, right: float) -> Markup:
    y = y_scale(rule[0])
    line = tag("line", x1=LEFT_PX, x2=right, y1=y, y2=y, class_="rule")
    return line + tag("text", rule[1], x=right, y=y - 6, class_="tick end")


def _line(series: Series, x_scale: Scale, y_scale: Scale, shift: float) -> Markup:
    at = [(x_scale(x) + shift, y_scale(y)) for x, y in series.points]
    parts = [tag("circle", cx=x_scale(x) + shift, cy=y_scale(y), r=1.9, class_="sample") for x, y in series.samples]
    parts.append(tag("path", d="M" + "L".join(f"{px(x)} {px(y)}" for x, y in at), class_="line"))
    for (x, _), (low, high) in zip(at, series.intervals, strict=False):
        top, foot = y_scale(high), y_scale(low)
        bar = f"M{px(x - 4)} {px(top)}h8M{px(x)} {px(top)}V{px(foot)}M{px(x - 4)} {px(foot)}h8"
        parts.append(tag("path", d=bar, class_="interval"))
    if series.markers:
        every = -(-len(at) // MAX_MARKERS)
        parts += [_marker(series.style, x, y) for x, y in at[::-1][::every]]
    return tag("g", Markup("").join(parts), class_=_classes(series))


def _marker(style: str, x: float, y: float, r: float = 4.0) -> Markup:
    """Draws a marker, in a shape of its own for each style, so that lines are distinguished without colour."""
    d = 1.35 * r
    shapes = {
        "circle": "",
        "square": f"M{px(x - r)} {px(y - r)}h{px(2 * r)}v{px(2 * r)}h{px(-2 * r)}z",
        "triangle": f"M{px(x)} {px(y - 1.25 * r)}l{px(1.2 * r)} {px(2.1 * r)}h{px(-2.4 * r)}z",
        "diamond": f"M{px(x)} {px(y - d)}l{px(d)} {px(d)}l{px(-d)} {px(d)}l{px(-d)} {px(-d)}z",
        "down": f"M{px(x)} {px(y + 1.25 * r)}l{px(1.2 * r)} {px(-2.1 * r)}h{px(-2.4 * r)}z",
    }
    path = list(shapes.values())[int(style[1:]) % len(shapes)]
    return tag("path", d=path, class_="marker") if path else tag("circle", cx=x, cy=y, r=r, class_="marker")


def _end_labels(series: Sequence[Series], y_scale: Scale, right: float) -> Markup:
    """Writes a name beside the end of each line, spaced where lines end close together."""
    order = sorted(series, key=lambda s: y_scale(s.points[-1][1]))
    heights: list[float] = []
    for s in order:
        wanted = y_scale(s.points[-1][1])
        heights.append(max(wanted, heights[-1] + MIN_LABEL_GAP_PX) if heights else wanted)
    overrun = max(0.0, heights[-1] - y_scale.start)
    for i in reversed(range(len(heights))):
        limit = heights[i + 1] - MIN_LABEL_GAP_PX if i + 1 < len(heights) else heights[i] - overrun
        heights[i] = min(heights[i], limit)
    labels = [
        tag("text", _shortened(s.name), x=right + 12, y=y + 4, class_=f"direct {s.style}")
        for s, y in zip(order, heights, strict=True)
    ]
    return Markup("").join(labels)


def _swatch(series: Series) -> Markup:
    line = tag("path", d="M1 7H33", class_="line")
    marker = _marker(series.style, 17, 7) if series.markers else Markup("")
    group = tag("g", line + marker, class_=_classes(series))
    return tag("svg", group, viewBox="0 0 34 14", width=34, height=14, aria_hidden="true")


def _classes(series: Series) -> str:
    return f"series {series.style}" + (" faint" if series.faint else "")


def _heights(series: Series) -> list[float]:
    return [
        *(y for _, y in series.points),
        *(bound for interval in series.intervals for bound in interval),
        *(y for _, y in series.samples),
    ]


def _shortened(name: str) -> str:
    return name if len(name) <= MAX_LABEL_CHARS else name[: MAX_LABEL_CHARS - 1] + "…"
