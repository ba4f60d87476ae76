"""The plan of a run as a drawing: stages in layers from the top, inputs above what reads them.

Edges that skip layers run down a shared trunk for each source, so that ten readers of one artifact draw one line that
branches, and no line crosses a box.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.reporting.svg import drawing, px, tag

BOX_WIDTH_PX, BOX_HEIGHT_PX = 164.0, 42.0
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
Link = tuple[Place, Place]


def dag_chart(boxes: Sequence[Box], *, title: str, description: str) -> Markup:
    """Draws boxes, given parents before children; parents that are not among them are left out."""
    assert boxes
    depth = _depths(boxes)
    links = _links(boxes, depth)
    layers = _layers(boxes, depth, links)
    centers, width = _centers(layers, depth)
    step = BOX_HEIGHT_PX + GAP_Y_PX
    curves = Markup("").join(tag("path", d=_curve(link, centers, depth, step), class_="edge") for link in links)
    drawn = [_box(box, centers[box.name, depth[box.name]], depth[box.name] * step) for box in boxes]
    height = len(layers) * step - GAP_Y_PX
    return drawing(width, height + 2, title, description, curves + Markup("").join(drawn))


def _depths(boxes: Sequence[Box]) -> dict[str, int]:
    depth: dict[str, int] = {}
    for box in boxes:
        depth[box.name] = max((depth[parent] + 1 for parent in box.parents if parent in depth), default=0)
    for box in reversed(boxes):  # then as deep as its readers allow: what is read together stands together
        below = [depth[reader.name] for reader in boxes if box.name in reader.parents]
        depth[box.name] = min(below) - 1 if below else depth[box.name]
    return depth


def _links(boxes: Sequence[Box], depth: Mapping[str, int]) -> list[Link]:
    """Cuts every edge into pieces from one layer to the next; edges of one source share their pieces."""
    links: dict[Link, None] = {}
    for box in boxes:
        for parent in (p for p in box.parents if p in depth):
            for level in range(depth[parent] + 1, depth[box.name]):
                links[(parent, level - 1), (parent, level)] = None
            links[(parent, depth[box.name] - 1), (box.name, depth[box.name])] = None
    return list(links)


def _layers(boxes: Sequence[Box], depth: Mapping[str, int], links: Sequence[Link]) -> list[list[Place]]:
    """Orders the places of every layer by the mean position of the places that they are joined to."""
    places = dict.fromkeys([*((box.name, depth[box.name]) for box in boxes), *(end for link in links for end in link)])
    layers: list[list[Place]] = [[] for _ in range(max(depth.values()) + 1)]
    for place in places:
        layers[place[1]].append(place)
    joined: dict[Place, list[Place]] = {place: [] for place in places}
    for start, end in links:
        joined[start].append(end)
        joined[end].append(start)
    for sweep in range(NUM_SWEEPS):
        towards = -1 if sweep % 2 == 0 else 1
        for layer in layers if towards < 0 else reversed(layers):
            _sort_by(layer, towards, layers, joined)
    return layers


def _sort_by(layer: list[Place], towards: int, layers: list[list[Place]], joined: Mapping[Place, list[Place]]) -> None:
    """Orders a layer by the mean position of its places' neighbours in the layer `towards` (-1: above, 1: below)."""
    position = {place: i / max(1, len(row) - 1) for row in layers for i, place in enumerate(row)}

    def mean(place: Place) -> float:
        beside = [position[other] for other in joined[place] if other[1] == place[1] + towards]
        return sum(beside) / len(beside) if beside else position[place]

    layer.sort(key=mean)


def _centers(layers: list[list[Place]], depth: Mapping[str, int]) -> tuple[dict[Place, float], float]:
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


def _curve(link: Link, centers: Mapping[Place, float], depth: Mapping[str, int], step: float) -> str:
    """Draws a link from the foot of one layer to the head of the next; a trunk goes on to the foot of its layer."""
    start, end = link
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
