"""What stays on the terminal at the end of a run."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.reporting.results import read_results
from pipeline.reporting.terminal import print_results
from tests.pipeline.reporting.fake_run import FakeRun, forecast, scores, terminal


@pytest.mark.parametrize("width", [60, 80, 200])
def test_findings_tables_and_commands_fit_a_screen_and_hide_nothing(run: FakeRun, width: int) -> None:
    """A screen of 40 lines, of which the link to the report takes two, and the prompt one."""
    stream = io.StringIO()
    console = Console(file=stream, width=width, height=40, force_terminal=True, color_system=None)
    print_results(read_results(run.view), console)
    lines = stream.getvalue().splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("✓ With 5 labels"))
    shown = [line for line in lines[first:] for _ in range(0, max(1, len(line)), width)]  # as the terminal folds them
    assert len(shown) <= 40 - 3
    words = "".join("".join(lines[first:]).split())
    for row in scores().summary:
        assert f"{100 * row.mean:.1f}±{50 * (row.high - row.low):.1f}" in words
    for row in scores().paired:
        assert f"{100 * row.difference:+.1f}±{50 * (row.high - row.low):.1f}" in words
    for mean in forecast().means.values():
        assert f"{mean:.1f}" in words


@pytest.mark.parametrize("width", [80, 110])
def test_the_terminal_shows_a_screen_or_two(run: FakeRun, width: int) -> None:
    lines = terminal(run.view, width).splitlines()
    assert len(lines) <= 60
    assert max(len(line) for line in lines if not line.startswith("percepts ")) <= width  # commands are to be copied


def test_a_screen_ends_with_what_was_found_and_what_to_do_next(run: FakeRun) -> None:
    *_, last = screen = terminal(replace(run.view, mlflow_page="#/a/page"), 80).splitlines()[-39:]
    text = "\n".join(screen)
    assert "✓ With 5 labels a class" in text
    assert "Accuracy, 240 test clips" in text
    assert screen[-3] == "percepts ui --store /data/store"
    assert screen[-2] == f"percepts predict {run.root}/pretrain VIDEO"
    assert last == f"percepts classify {run.root}/finetune-pretrained VIDEO"


def test_names_with_brackets_are_no_markup_in_the_terminal(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "store")
    run.add("[bold]node[/nope]", forecast())
    assert "[bold]node[/nope]" in terminal(run.view)
