"""The paper's tables as data, against the tables of the document they were taken from."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.reporting.paper_numbers import LATER, TABLE_1, TABLE_2, TABLE_3, TABLES, PaperTable


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.title)
def test_every_row_has_a_cell_for_every_column(table: PaperTable) -> None:
    assert all(len(cells) == len(table.columns) for cells in table.rows.values())


@pytest.mark.parametrize(("heading", "table"), [("**1. ", TABLE_1), ("**2. ", TABLE_2), ("**3. ", TABLE_3)])
def test_numbers_are_those_of_the_source(shared_data: Path, heading: str, table: PaperTable) -> None:
    text = (shared_data.parent / "paper.md").read_text()
    lines = text[text.index(heading) :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|---"))
    rows = []
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    ours = {name: [f"{cell.value:.1f}" for cell in cells if cell] for name, cells in table.rows.items()}
    assert ours == {row[0]: row[1:] for row in rows}


def test_protocols_of_later_numbers_are_named() -> None:
    assert {row.protocol for row in LATER} == {"open loop", "teacher forced"}
    assert all(row.cross_entropy is not None or (row.mse is not None and row.ssim is not None) for row in LATER)
