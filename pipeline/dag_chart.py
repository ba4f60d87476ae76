"""The plan of a run as a drawing: stages in layers from the top, inputs above what reads them.

Edges that skip layers run down a shared trunk for each source, so that ten readers of one artifact draw one line that
branches, and no line crosses a box.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.svg import drawing, px, tag

BOX_WIDTH_PX, BOX_HEIGHT_PX = 148.0, 42.0
TRUNK_WIDTH_PX = 22.0
GAP_X_PX, GAP_Y_PX = 18.0, 34.0
MAX_NAME_CHARS = 20
NUM_SWEEPS = 6


@dataclass(frozen=True, kw_only=True)
class Box:
    """A stage in the drawing."""

    name: str
    note: str
    """The second line: whether it was reused, and how long it took."""
    made: bool
    parents: tuple[str, ...]


Place = tuple[str, int]
"""A box at its own layer, or (at a deeper layer) the trunk of its edges that passes there."""


def dag_chart(boxes: Sequence[Box], *, title: str, description: str) -> Markup:
    """Draw boxes given parents before children; parents that are not among them are left out."""
    depth = _depths(boxes)
    layers = _layers(boxes, depth)
    centers, width = _centers(layers, boxes, depth)
    step = BOX_HEIGHT_PX + GAP_Y_PX
    edges: dict[str, None] = {}
    for box in boxes:
        for parent in (p for p in box.parents if p in depth):
            for level in range(depth[parent], depth[box.name]):
                end = (box.name if level + 1 == depth[box.name] else parent, level + 1)
                edges[_edge((parent, level), end, centers, depth, step)] = None
    lines = tag("path", d="".join(edges), class_="edge") if edges else Markup("")
    drawn = [_box(box, centers[box.name, depth[box.name]], depth[box.name] * step) for box in boxes]
    height = len(layers) * step - GAP_Y_PX
    return drawing(width, height + 2, title, description, lines + Markup("").join(drawn))


def _depths(boxes: Sequence[Box]) -> dict[str, int]:
    depth: dict[str, int] = {}
    for box in boxes:
        depth[box.name] = max((depth[parent] + 1 for parent in box.parents if parent in depth), default=0)
    return depth


def _layers(boxes: Sequence[Box], depth: Mapping[str, int]) -> list[list[Place]]:
    """Places of every layer, ordered by the mean position of what they are joined to."""
    layers: list[list[Place]] = [[] for _ in range(max(depth.values()) + 1)]
    last: dict[str, int] = {}
    for box in boxes:
        layers[depth[box.name]].append((box.name, depth[box.name]))
        for parent in (p for p in box.parents if p in depth):
            last[parent] = max(last.get(parent, 0), depth[box.name])
    for name, end in last.items():
        for level in range(depth[name] + 1, end):
            layers[level].append((name, level))
    above = _above(boxes, depth)
    for sweep in range(NUM_SWEEPS):
        downwards = sweep % 2 == 0
        order = range(1, len(layers)) if downwards else range(len(layers) - 2, -1, -1)
        for level in order:
            beside = layers[level - 1] if downwards else layers[level + 1]
            at = {place: i / max(1, len(beside) - 1) for i, place in enumerate(beside)}
            layers[level].sort(key=lambda place: _mean(place, at, above, downwards))  # noqa: B023 - used at once
    return layers


def _above(boxes: Sequence[Box], depth: Mapping[str, int]) -> set[tuple[Place, Place]]:
    pairs = set()
    for box in boxes:
        for parent in (p for p in box.parents if p in depth):
            for level in range(depth[parent], depth[box.name]):
                end = (box.name if level + 1 == depth[box.name] else parent, level + 1)
                pairs.add(((parent, level), end))
    return pairs


def _mean(place: Place, at: Mapping[Place, float], above: set[tuple[Place, Place]], downwards: bool) -> float:
    joined = [at[p] for p in at if ((p, place) if downwards else (place, p)) in above]
    return sum(joined) / len(joined) if joined else 0.5


def _centers(
    layers: list[list[Place]], boxes: Sequence[Box], depth: Mapping[str, int]
) -> tuple[dict[Place, float], float]:
    def room(place: Place) -> float:
        return BOX_WIDTH_PX if depth[place[0]] == place[1] else TRUNK_WIDTH_PX

    widths = [sum(map(room, layer)) + GAP_X_PX * (len(layer) - 1) for layer in layers]
    total = max(widths)
    centers: dict[Place, float] = {}
    for layer, width in zip(layers, widths, strict=True):
        x = (total - width) / 2
        for place in layer:
            centers[place] = x + room(place) / 2
            x += room(place) + GAP_X_PX
    return centers, total


def _edge(
    start: Place, end: Place, centers: Mapping[Place, float], depth: Mapping[str, int], step: float
) -> str:
    """From the foot of one layer to the head of the next; a trunk goes on to the foot of its layer."""
    x0, x1 = centers[start], centers[end]
    y0, y1 = start[1] * step + BOX_HEIGHT_PX, end[1] * step
    bend = (y1 - y0) * 0.55
    path = f"M{px(x0)} {px(y0)}C{px(x0)} {px(y0 + bend)} {px(x1)} {px(y1 - bend)} {px(x1)} {px(y1)}"
    return path + (f"v{px(BOX_HEIGHT_PX)}" if depth[end[0]] != end[1] else "")


def _box(box: Box, center: float, y: float) -> Markup:
    left = center - BOX_WIDTH_PX / 2 + 1
    name = box.name if len(box.name) <= MAX_NAME_CHARS else box.name[: MAX_NAME_CHARS - 1] + "…"
    parts = tag("title", f"{box.name}: {box.note}")
    parts += tag("rect", x=left, y=y + 1, width=BOX_WIDTH_PX - 2, height=BOX_HEIGHT_PX - 2, rx=5)
    parts += tag("text", name, x=center, y=y + 18, class_="name")
    parts += tag("text", box.note, x=center, y=y + 33, class_="note")
    return tag("g", parts, class_="box made" if box.made else "box have")
