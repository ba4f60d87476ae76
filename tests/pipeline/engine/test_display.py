"""The display keeps one line a stage at any width of the terminal, and prints plain lines into a pipe."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pipeline.core.events import Log, Metrics, Progress
from pipeline.engine.display import Display

NAMES = ["ingest", "extract", "pretrain composite", "finetune composite on percepts", "evaluate"]
LOG = "a worker died on videos/a class/a video with a long name.mp4; trying it once more on a new one"


def play(display: Display) -> None:
    """Plays a run in which every state of a stage and every kind of event occurs."""
    display.status("starting Ray")
    display.reused("ingest", "1.2 MB")
    for name in NAMES[1:4]:
        display.start(name)
    display.handle(Progress(source="extract", done=0, total=123_456, unit="frames"))
    for number in range(1, 4):
        note = "convnet busy 99%, decoders 3%, writer 0%"
        display.handle(Progress(source="extract", done=20_000 * number, total=123_456, unit="frames", note=note))
        display.handle(Progress(source=NAMES[3], done=number, total=0, unit="trainings", part=str(number % 2)))
        display.handle(Metrics(source="pretrain composite", step=number, values={"loss": 3.2, "gradient_norm": 1.1}))
    display.handle(Log(source="extract", line=LOG))
    display.handle(Log(source="a stage of another run", line="nothing"))
    display.failed(NAMES[3])


def rendered(width: int) -> list[str]:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width, height=40)
    display = Display("demo", NAMES, console)
    play(display)
    with console.capture() as capture:
        console.print(display._render())
    return capture.get().splitlines()


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_stage_is_one_line_at_any_width(width: int) -> None:
    head, *lines = rendered(width)
    assert head.startswith("demo")
    assert len(lines) == len(NAMES)
    assert all(len(line) <= width for line in lines)
    ingest, extract, pretrain, finetune, evaluate = lines
    assert ingest.split()[:3] == ["=", "ingest", "have"]
    assert "failed" in finetune
    assert "waiting" in evaluate
    assert ("60,000/123,456 frames" if width > 60 else "49%") in extract
    assert "pretrain" in pretrain
    assert ("gradient_norm 1.1, loss 3.2" in pretrain) == ("busy 99%" in extract) == (width == 200)


def test_a_pipe_gets_plain_lines_and_logs_in_full() -> None:
    file = io.StringIO()
    with Display("demo", NAMES, Console(file=file, width=60)) as display:
        play(display)
    lines = file.getvalue().splitlines()
    assert lines[:2] == ["starting Ray", "ingest: have (1.2 MB)"]
    assert f"extract: {LOG}" in lines
    assert "extract: 0/123,456 frames" in lines
    assert sum(line.startswith("extract: ") for line in lines) == 3  # started, the first report, and the log
    assert lines[-1].startswith("finetune composite on percepts: failed in ")


def test_reports_of_several_workers_add_up() -> None:
    display = Display("demo", NAMES, Console(file=io.StringIO(), width=200))
    display.start("extract")
    for part, done in (("a", 5), ("b", 7), ("a", 6)):
        display.handle(Progress(source="extract", done=done, total=20, unit="frames", part=part))
    progress = display._lines["extract"].progress
    assert progress is not None
    assert (progress.done, progress.total) == (13, 20)


def test_log_lines_stand_above_the_stages_on_a_terminal() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system=None, width=200, height=40)
    with Display("demo", NAMES, console) as display:
        play(display)
    last_screen = file.getvalue().rpartition("demo")[2]
    assert f"extract: {LOG}" in file.getvalue()
    assert LOG not in last_screen


@pytest.mark.parametrize(("per_second", "shown"), [(0.6, "0.6/s"), (3.0, "3/s"), (12.4, "12/s"), (1234.0, "1,234/s")])
def test_slow_work_has_a_rate(per_second: float, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("pipeline.engine.display.time.monotonic", lambda: now)
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=200)
    display = Display("demo", NAMES, console)
    display.start("extract")
    display.handle(Progress(source="extract", done=0, total=10_000_000, unit="frames"))
    now += 1000.0
    display.handle(Progress(source="extract", done=round(1000 * per_second), total=10_000_000, unit="frames"))
    with console.capture() as capture:
        console.print(display._render())
    assert f" {shown}, " in capture.get()


def test_the_live_part_goes_when_the_work_is_done_and_stays_when_it_failed() -> None:
    left = []
    for error in (None, ValueError("asked to fail")):
        console = Console(file=io.StringIO(), force_terminal=True, width=80)
        display = Display("demo", NAMES, console)
        display.__enter__()
        display.__exit__(type(error) if error else None, error, None)
        left.append(display._live.transient)
    assert left == [True, False]
