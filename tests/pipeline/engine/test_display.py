"""The display keeps one line a stage at any width of the terminal, and prints plain lines into a pipe."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from pipeline.core.events import Log, Metrics, Progress, Waiting
from pipeline.engine.display import Display
from pipeline.engine.json_display import JsonDisplay

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


def test_a_wait_that_ends_before_it_is_shown_is_no_work() -> None:
    display = Display("demo", NAMES, Console(file=io.StringIO(), width=200), {"extract": 60.0})
    display.start("extract")
    began = display._lines["extract"].started
    display.handle(Waiting(source="extract", reason="", seconds=9.0, at=began + 12.0))
    display.handle(Waiting(source="extract", reason="a worker was lost", seconds=15.0, at=began + 35.0))
    display.handle(Progress(source="extract", done=0, total=10, unit="frames", at=began + 40.0))
    assert display._lines["extract"].time(began + 50.0).worked_s == pytest.approx(50.0 - 9.0 - (15.0 + 5.0))


WAIT = "waiting for a free worker of 2: 0 of 2 CPUs free"


def wait(display: Display) -> None:
    """Plays a stage that waits for its workers, says so three times, and works."""
    display.start("extract")
    for at in (15.0, 30.0, 45.0):
        display.handle(Waiting(source="extract", reason=f"{WAIT} at {at}", at=at))


def test_a_wait_is_one_line_in_a_pipe_and_one_event_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.engine.display.time.monotonic", lambda: 51.0)
    file, lines = io.StringIO(), list[str]()
    for display in (Display("demo", NAMES, Console(file=file, width=60)), JsonDisplay("demo", NAMES, lines.append)):
        wait(display)
        display.handle(Waiting(source="extract", reason="", at=50.0))
        display.handle(Progress(source="extract", done=1, total=2, unit="frames", at=51.0))
    assert file.getvalue().splitlines() == [
        "extract: started",
        f"extract: {WAIT} at 15.0",
        "extract: 1/2 frames 1/s, 1.0 s left",
    ]
    events = [json.loads(line) for line in lines]
    assert [(e["event"], e.get("reason")) for e in events] == [
        ("started", None), ("waiting", f"{WAIT} at 15.0"), ("waiting", ""), ("progress", None),
    ]  # fmt: skip


@pytest.mark.parametrize("width", [60, 200])
def test_a_wait_vanishes_from_a_terminal_when_it_is_over(width: int) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width, height=40)
    display, shown = Display("demo", NAMES, console), list[str]()
    wait(display)
    for event in (None, Progress(source="extract", done=1, total=2, unit="frames")):
        if event is not None:
            display.handle(event)
        with console.capture() as capture:
            console.print(display._render())
        shown.append(next(line for line in capture.get().splitlines() if "extract" in line))
    assert "waiting" in shown[0]
    assert "waiting" not in shown[1]
    assert not console.file.getvalue()  # type: ignore[attr-defined]  # no line is printed above the stages


@pytest.mark.parametrize("name", ["\x1b[31m\x1b[2J.mp4", "line\nbreak.mp4", "rtl\u202emoc.mp4", ":smile:[red]x[/].mp4"])
def test_names_from_outside_do_nothing_to_the_display(name: str) -> None:
    escaped = name.encode("unicode_escape").decode()
    for is_terminal in (False, True):
        file = io.StringIO()
        console = Console(file=file, force_terminal=is_terminal, color_system=None, width=200, height=40)
        with Display("demo", NAMES, console) as display:
            display.status(f"reading {name}")
            display.start("ingest")
            display.handle(Log(source="ingest", line=f"passing over {name}"))
            display.handle(Waiting(source="ingest", reason=f"waiting for {name}"))
            display.handle(Progress(source="ingest", done=1, total=2, unit="archives", note=name))
            with console.capture() as capture:
                console.print(display._render())
        written = file.getvalue() + capture.get()
        assert f"ingest: passing over {escaped}\n" in written.replace("\r", "")
        assert f"reading {escaped}" in written
        assert name not in written or name == escaped


def test_a_pipe_gets_no_control_sequence() -> None:
    file = io.StringIO()
    with Display("demo", NAMES, Console(file=file, width=150)) as display:
        play(display)
        wait(display)
        display.done("extract", 10)
    assert all(character.isprintable() for line in file.getvalue().split("\n") for character in line)
