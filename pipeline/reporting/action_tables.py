"""Tables 1, 3 and 4 of a run, each cell beside the paper's.

The paper's accuracies stand only beside figures of the same data set, and only where they are confirmed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.reporting.paper_numbers import TABLE_1, TABLE_3, TABLE_4, Number, PaperTable
from pipeline.reporting.results import NodeResult, Results
from pipeline.reporting.view import NodeView
from stages.evaluation.score_table import MeanAccuracy, PairedDifference, ScoreTable

SINGLE_FRAME: Final = "single frame"
SCRATCH: Final = "LSTM from scratch"
COMPOSITE: Final = "composite"
ALL: Final = 0
SMALL: Final = {"UCF-101": 10, "HMDB-51": 4}
"""Labelled videos a class of Table 3's small variant."""
TABLE_1_ROWS: Final = {
    SINGLE_FRAME: "single frame classifier",
    SCRATCH: "LSTM classifier",
    COMPOSITE: "composite LSTM + finetuning",
}
"""Our rows and the paper's."""
TABLE_3_ROWS: Final = {SCRATCH: "LSTM, no pretraining", **{name: name for name in list(TABLE_3.rows)[1:]}}
PRETRAINED: Final = tuple(list(TABLE_3_ROWS)[1:])
FLOW: Final = "flow "
"""Prefix of the names of nodes that measure percepts of optical flow."""


@dataclass(frozen=True, kw_only=True)
class TableCell:
    """One place of a table. Differences are to the row that the others are measured against."""

    score: MeanAccuracy | None
    seconds: float | None
    """Seconds of training, summed over workers; None if an earlier run did part of it."""
    paper: Number | None
    """The paper's confirmed accuracy on the same data set, %."""
    gain: PairedDifference | None


@dataclass(frozen=True, kw_only=True)
class ActionRow:
    """A row of a table: one model."""

    name: str
    key: str
    """Key of the artifact with its classifiers; empty if there is none."""
    cells: tuple[TableCell, ...]


@dataclass(frozen=True, kw_only=True)
class ActionTable:
    """A table of the paper with this run's numbers in it."""

    title: str
    scores: ScoreTable
    columns: tuple[str, ...]
    reference: str
    """Name of the row that gains are measured against."""
    rows: tuple[ActionRow, ...]
    source: str

    @property
    def is_same_data(self) -> bool:
        return self.scores.dataset is not None and not self.scores.arrow

    @property
    def has_paper(self) -> bool:
        """True if some cell has a figure of the paper beside it."""
        return any(cell.paper is not None for row in self.rows for cell in row.cells)


def action_tables(results: Results) -> tuple[ActionTable, ...]:
    """Returns the tables of every evaluation that has rows of them; none for a run of three arms alone."""
    tables: list[ActionTable] = []
    for result in results.scores:
        scores, is_flow = result.content, result.name.startswith(FLOW)
        nodes = classifier_nodes(results, result.node)
        if scores.weights is not None:
            tables.append(_table_4(results, result))
            continue
        if COMPOSITE in scores.models and SINGLE_FRAME in scores.models and (COMPOSITE, ALL) in scores.cells:
            title = f"Table 1. Action recognition{' by optical flow' if is_flow else ''}"
            tables.append(_table(scores, nodes, TABLE_1, title, TABLE_1_ROWS, (ALL,), is_flow=is_flow))
        small = small_count(scores)
        counts = tuple(n for n in (small, ALL) if n is not None and (SCRATCH, n) in scores.cells)
        if counts and any(row in scores.models for row in PRETRAINED) and not is_flow:
            tables.append(_table(scores, nodes, TABLE_3, "Table 3. Which pretraining", TABLE_3_ROWS, counts))
    return tuple(tables)


def small_count(scores: ScoreTable) -> int | None:
    """Returns the label count of Table 3's small variant: the paper's, or the one that most models are measured at."""
    if scores.dataset in SMALL:
        return SMALL[scores.dataset]
    counts = [n for n in scores.label_counts if n]
    return max(counts, key=lambda n: sum(count == n for _, count in scores.cells), default=None)


def seconds_of(nodes: Sequence[NodeView], count: int) -> float | None:
    """Returns the seconds that training a label count's classifiers took; None if an earlier run did part of it."""
    fact = f"seconds_at_{'all' if count == ALL else f'{count:03d}'}"
    seconds = [node.facts.get(fact) for node in nodes]
    return None if not nodes or None in seconds else sum(float(value) for value in seconds if value is not None)


def classifier_nodes(results: Results, evaluation: NodeView) -> dict[str, list[NodeView]]:
    """Maps every arm to the nodes that trained it, one an encoder, among the inputs of the node that evaluated it."""
    nodes = {node.name: node for node in results.view.nodes}
    arms: dict[str, list[NodeView]] = {}
    for parent in (nodes[name] for name in evaluation.parents):
        if "arm" in parent.config:
            arms.setdefault(str(parent.config["arm"]), []).append(parent)
    return arms


def _table(
    scores: ScoreTable,
    nodes: dict[str, list[NodeView]],
    paper: PaperTable,
    title: str,
    rows: dict[str, str],
    counts: tuple[int, ...],
    *,
    is_flow: bool = False,
) -> ActionTable:
    reference = next(iter(rows))
    dataset = scores.dataset or "UCF-101"
    columns = [_paper_column(paper, dataset, is_small=count != ALL, is_flow=is_flow) for count in counts]

    def cell(row: str, place: int) -> TableCell:
        count, column = counts[place], columns[place]
        return TableCell(
            score=scores.score(row, count),
            seconds=seconds_of(nodes.get(row, ()), count),
            paper=paper.confirmed(rows[row], column) if column and scores.dataset and not scores.arrow else None,
            gain=_against(scores, reference, row, count),
        )

    return ActionTable(
        title=title,
        scores=scores,
        columns=tuple("all labels" if n == ALL else f"{n} a class" for n in counts),
        reference=reference,
        rows=tuple(
            ActionRow(
                name=row,
                key=nodes[row][0].key if row in nodes else "",
                cells=tuple(cell(row, place) for place in range(len(counts))),
            )
            for row in rows
            if row in scores.models or scores.dataset
        ),
        source=paper.source,
    )


def _against(scores: ScoreTable, reference: str, row: str, count: int) -> PairedDifference | None:
    """Returns the difference to the reference or, in Table 1, to the row above; None if the run measured neither."""
    direct = scores.pair(reference, row, count)
    return direct or (scores.pair(SCRATCH, row, count) if reference == SINGLE_FRAME else None)


def _table_4(results: Results, result: NodeResult[ScoreTable]) -> ActionTable:
    scores, fused = result.content, result.node
    rows = {
        "RGB": "composite LSTM, RGB",
        "flow": "composite LSTM, flow",
        "RGB + flow, mean of log-probabilities": "composite LSTM, RGB + flow",
        "RGB + flow, weights chosen on validation": "composite LSTM, RGB + flow",
    }
    nodes = {node.name: node for node in results.view.nodes}
    streams = [nodes[name] for name in fused.parents if "arm" in nodes[name].config]
    made_by = dict.fromkeys(scores.models, fused) | dict(zip(scores.models, streams, strict=False))

    def cell(row: str) -> TableCell:
        return TableCell(
            score=scores.score(row, scores.label_counts[-1]),
            seconds=seconds_of([made_by[row]], ALL),
            paper=TABLE_4.confirmed(rows[row], scores.dataset) if row in rows and scores.dataset else None,
            gain=scores.pair(scores.models[0], row, ALL),
        )

    return ActionTable(
        title="Table 4. RGB, flow, and both",
        scores=scores,
        columns=("all labels",),
        reference=scores.models[0],
        rows=tuple(ActionRow(name=row, key=made_by[row].key, cells=(cell(row),)) for row in scores.models),
        source=TABLE_4.source,
    )


def _paper_column(paper: PaperTable, dataset: str, *, is_small: bool, is_flow: bool) -> str:
    """Returns the paper's column; empty if the paper has none, such as HMDB-51 by flow."""
    if is_flow:
        wanted = f"{dataset} 1-frame flow"
        return wanted if wanted in paper.columns else ""
    wanted = f"{dataset}{' small' if is_small else ' RGB' if paper is TABLE_1 else ''}"
    assert wanted in paper.columns, wanted
    return wanted
