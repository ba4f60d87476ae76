"""The drawing of a plan: inputs above what reads them, no box on another, no edge lost or drawn through a box."""

from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from pipeline.reporting.dag_chart import BOX_HEIGHT_PX, BOX_WIDTH_PX, Box, dag_chart

Place = tuple[float, float]


@st.composite
def plans(draw: st.DrawFn) -> list[Box]:
    boxes: list[Box] = []
    for i in range(draw(st.integers(1, 12))):
        parents = draw(st.sets(st.sampled_from([box.name for box in boxes]), max_size=4)) if boxes else set()
        boxes.append(Box(name=f"stage {i}", note="reused", made=i % 2 == 0, parents=tuple(sorted(parents))))
    return boxes


def drawn(boxes: list[Box]) -> tuple[dict[str, Place], list[tuple[Place, Place, Place]]]:
    """Upper left corner of every box; (start, head, end) of every piece of an edge."""
    root = ElementTree.fromstring(str(dag_chart(boxes, title="t", description="d")))
    places = {}
    for group in (g for g in root.iter("g") if "box" in g.get("class", "")):
        rect, name = group.find("rect"), group.find("text")
        assert rect is not None
        assert name is not None
        places[str(name.text)] = (float(rect.get("x", "")), float(rect.get("y", "")))
    pieces = []
    for path in root.iter("path"):
        numbers = [float(n) for n in re.findall(r"-?[\d.]+", path.get("d", ""))]
        head = (numbers[6], numbers[7])
        end = (head[0], head[1] + (numbers[8] if len(numbers) > 8 else 0.0))
        pieces.append(((numbers[0], numbers[1]), head, end))
    return places, pieces


@given(plans())
def test_inputs_stand_above_and_boxes_apart(boxes: list[Box]) -> None:
    places, _ = drawn(boxes)
    assert len(places) == len(boxes)
    for box in boxes:
        assert all(places[parent][1] + BOX_HEIGHT_PX < places[box.name][1] for parent in box.parents)
    for (ax, ay), (bx, by) in itertools.combinations(places.values(), 2):
        assert abs(ay - by) >= BOX_HEIGHT_PX or abs(ax - bx) >= BOX_WIDTH_PX


@given(plans())
def test_every_edge_can_be_followed_and_no_other(boxes: list[Box]) -> None:
    places, pieces = drawn(boxes)

    def reached(name: str) -> set[str]:
        x, y = places[name]
        middle = (x + BOX_WIDTH_PX / 2 - 1, y + BOX_HEIGHT_PX - 1)
        found, frontier = set(), [middle]
        while frontier:
            at = frontier.pop()
            for start, head, end in pieces:
                if abs(start[0] - at[0]) < 0.2 and abs(start[1] - at[1]) < 0.2:
                    ends = [n for n, (bx, by) in places.items() if abs(bx + BOX_WIDTH_PX / 2 - 1 - head[0]) < 0.2
                            and abs(by - 1 - head[1]) < 0.2]  # fmt: skip
                    found.update(ends)
                    frontier += [] if ends else [end]
        return found

    for box in boxes:
        assert reached(box.name) == {reader.name for reader in boxes if box.name in reader.parents}


@given(plans())
def test_trunks_pass_beside_boxes(boxes: list[Box]) -> None:
    places, pieces = drawn(boxes)
    for _, head, end in pieces:
        if end != head:
            level = [x for x, y in places.values() if abs(y - 1 - head[1]) < 0.2]
            assert all(head[0] <= x or head[0] >= x + BOX_WIDTH_PX - 2 for x in level)


def test_state_is_words_and_names_are_escaped() -> None:
    svg = dag_chart([Box(name="<b>&", note="made in 3 s", made=True, parents=("unknown",))], title="t", description="d")
    assert "&lt;b&gt;&amp;" in svg
    assert "made in 3 s" in svg
    assert "<path" not in svg
