"""Charts against NumPy's arithmetic and the XML parser: what is drawn is where the numbers say, and is well formed."""

from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.reporting.charts import HEIGHT_PX, MIN_LABEL_GAP_PX, WIDTH_PX, Series, confusion_chart, line_chart
from pipeline.reporting.svg import Chart, Scale, log_ticks, number, percent, tag, ticks

finite = st.floats(-1e9, 1e9)


def chart_of(series: list[Series], **changes: object) -> Chart:
    settings = {"title": "t", "description": "d", "x_label": "x", "y_label": "y", **changes}
    return line_chart(series, **settings)  # type: ignore[arg-type]


def parsed(chart: Chart) -> ElementTree.Element:
    return ElementTree.fromstring(str(chart.svg))


def classed(root: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [element for element in root.iter() if name in element.get("class", "").split()]


@given(finite, finite, st.integers(2, 10))
@settings(deadline=None)
def test_ticks_are_even_and_cover_the_values(a: float, b: float, about: int) -> None:
    low, high = sorted((a, b))
    marks = ticks(low, high, about)
    slack = 1e-6 * max(abs(low), abs(high), 1e-12)
    assert marks[0] <= low + slack
    assert marks[-1] >= high - slack
    if high > low * (1 + 1e-6) and high - low > 1e-3:
        np.testing.assert_allclose(np.diff(marks), marks[1] - marks[0], rtol=1e-5)
        assert len(marks) <= about + 2


@given(st.floats(1e-6, 1e6), st.floats(1.0, 1e6))
@settings(deadline=None)
def test_log_ticks_cover_the_values(low: float, ratio: float) -> None:
    marks = log_ticks(low, low * ratio)
    assert marks[0] <= low * (1 + 1e-8)
    assert marks[-1] >= low * ratio * (1 - 1e-8)
    assert marks == sorted(marks)


def test_scale_is_numpys_interpolation() -> None:
    values = np.linspace(2.0, 50.0, 7)
    linear, log = Scale(2.0, 50.0, 300.0, 20.0), Scale(2.0, 50.0, 300.0, 20.0, log=True)
    np.testing.assert_allclose([linear(v) for v in values], np.interp(values, [2, 50], [300, 20]))
    expected = np.interp(np.log(values), np.log([2, 50]), [300, 20])
    np.testing.assert_allclose([log(v) for v in values], expected)


def test_points_intervals_and_rule_stand_where_the_axis_says() -> None:
    points = ((1.0, 0.2), (2.0, 0.5), (4.0, 0.8))
    intervals = ((0.1, 0.3), (0.4, 0.6), (0.75, 0.85))
    series = Series(name="m", style="s0", points=points, intervals=intervals, samples=((2.0, 0.45),))
    root = parsed(chart_of([series], from_zero=True, rule=(0.125, "chance")))
    numbers = [e for e in classed(root, "end") if re.fullmatch(r"[\d.]+", e.text or "")]
    labels = {float(e.text or ""): float(e.get("y", "")) - 4 for e in numbers}
    zero, top = labels[0.0], labels[max(labels)]

    def height(value: float) -> float:
        return zero + (top - zero) * value / max(labels)

    markers = sorted(classed(root, "marker"), key=lambda e: float(e.get("cx", "")))
    np.testing.assert_allclose([float(e.get("cy", "")) for e in markers], [height(y) for _, y in points], atol=0.06)
    np.testing.assert_allclose(float(classed(root, "sample")[0].get("cy", "")), height(0.45), atol=0.06)
    np.testing.assert_allclose(float(classed(root, "rule")[0].get("y1", "")), height(0.125), atol=0.06)
    for bar, (low, high) in zip(classed(root, "interval"), intervals, strict=True):
        heights = [float(n) for n in re.findall(r"V([\d.]+)|M[\d.]+ ([\d.]+)", bar.get("d", "")) for n in n if n]
        np.testing.assert_allclose([min(heights), max(heights)], [height(high), height(low)], atol=0.06)


def test_every_line_is_told_apart_without_colour() -> None:
    series = [Series(name=f"m{i}", style=f"s{i}", points=((0.0, float(i)), (1.0, float(i)))) for i in range(5)]
    chart = chart_of(series)
    shapes = {re.sub(r"M[\d. ]+", "", e.get("d", "circle")) for e in classed(parsed(chart), "marker")}
    assert len(shapes) == 5
    assert [name for name, _ in chart.legend] == [s.name for s in series]
    assert [e.text for e in classed(parsed(chart), "direct")] == [s.name for s in series[::-1]]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
@settings(deadline=None)
def test_labels_at_line_ends_never_overlap(ends: list[float]) -> None:
    series = [Series(name=f"model {i}", style="s0", points=((0.0, 0.5), (1.0, y))) for i, y in enumerate(ends)]
    heights = sorted(float(e.get("y", "")) for e in classed(parsed(chart_of(series, from_zero=True)), "direct"))
    assert all(b - a >= MIN_LABEL_GAP_PX - 0.11 for a, b in itertools.pairwise(heights))
    assert heights[0] > 0
    assert heights[-1] < HEIGHT_PX


def test_a_wide_range_is_logarithmic_only_where_that_is_allowed() -> None:
    series = [Series(name="loss", style="s0", points=((0.0, 1000.0), (1.0, 1.0)))]

    def marks(log_y: bool) -> list[str]:
        return [e.text or "" for e in classed(parsed(chart_of(series, log_y=log_y)), "end")]

    assert "10" in marks(True)
    assert "10" not in marks(False)


def test_a_chart_says_what_it_shows_and_escapes_names() -> None:
    series = [Series(name="<script>\n\x1b[31m", style="s0", points=((0.0, 1.0),))]
    chart = chart_of(series, title='a "<b>" title', description="said & done")
    assert "<script" not in chart.svg
    assert "\x1b" not in chart.svg
    root = parsed(chart)
    assert root.get("role") == "img"
    assert root.get("aria-label") == 'a "<b>" title. said & done'
    assert root.find("title").text == 'a "<b>" title'  # type: ignore[union-attr]
    assert classed(root, "direct")[0].text == "<script>\\n\\x1b[31m"


def test_the_drawing_without_its_labels_is_what_a_phone_shows() -> None:
    chart = chart_of([Series(name="a name", style="s0", points=((0.0, 1.0), (5.0, 2.0)))])
    label = min(float(e.get("x", "")) for e in classed(parsed(chart), "direct"))
    rightmost = max(float(e.get("x2", "")) for e in classed(parsed(chart), "axis"))
    assert rightmost < WIDTH_PX / chart.crop < label + 20


def test_confusion_cells_are_shares_of_their_rows() -> None:
    matrix = [[30, 10, 0], [5, 5, 10], [0, 0, 0]]
    root = parsed(confusion_chart(matrix, ["up", "down", "<left>"], title="t", description="d"))
    cells = {
        (float(e.get("x", "")), float(e.get("y", ""))): float(e.get("fill-opacity", "")) for e in classed(root, "cell")
    }
    xs, ys = sorted({x for x, _ in cells}), sorted({y for _, y in cells})
    drawn = np.array([[cells.get((x, y), 0.0) for x in xs] for y in ys])
    np.testing.assert_allclose(drawn, [[0.75, 0.25, 0], [0.25, 0.25, 0.5], [0, 0, 0]], atol=0.0006)
    assert [e.text for e in classed(root, "in")] == ["75", "25", "25", "25", "50"]
    assert "<left>" in [e.text for e in root.iter("text")]


def test_a_large_confusion_keeps_small_and_has_no_words() -> None:
    matrix = np.eye(101, dtype=int).tolist()
    svg = confusion_chart(matrix, [f"class {i}" for i in range(101)], title="t", description="d").svg
    assert svg.count("<rect") == 101
    assert "class 3" not in svg
    assert len(svg) < 20_000


def test_numbers_and_names() -> None:
    assert [percent(v) for v in (0.125, 0.5, 1.0, 0.0)] == ["12.5%", "50%", "100%", "0%"]
    assert [number(v) for v in (0.25, 12.5, 3400.0, 0.0)] == ["0.25", "12.5", "3,400", "0"]
    assert tag("text", "a<b", class_="x", fill_opacity=0.5) == '<text class="x" fill-opacity="0.5">a&lt;b</text>'


def test_values_that_cannot_be_drawn_are_refused() -> None:
    with pytest.raises(AssertionError):
        Series(name="m", style="s0", points=((0.0, float("nan")),))
