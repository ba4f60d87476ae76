"""The display of a running recipe: one line a stage on a terminal, plain lines in a file or a pipe."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from cluster.run_records import RunProgress
from pipeline.core.events import Event, Log, Metrics, Progress, Waiting
from pipeline.core.printable import human_bytes, human_seconds, printable
from pipeline.core.rates import REPORT_S
from pipeline.core.secrets import masked
from pipeline.engine.time_left import Pace, StageTime, run_seconds_left

PLAIN_INTERVAL_SECONDS: Final = 10.0
NUM_CURVES: Final = 3
NARROW: Final = 72
"""The width of a terminal, in characters, below which amounts are shown as percentages, and tables are dense."""
WIDE: Final = 120
"""The width of a terminal, in characters, from which bars are long, and rates and notes are shown."""
MARKS: Final = {"waiting": ("·", "dim"), "have": ("=", "blue"), "made": ("✓", "green"), "failed": ("✗", "red")}
"""State of a stage that does not run -> its mark and style."""


@dataclass
class _Line:
    name: str
    expected_s: float | None = None
    """The plan's estimate of the stage's duration."""
    state: str = "waiting"
    started: float = 0.0
    seconds: float = 0.0
    pace: Pace = field(default_factory=Pace)
    progress: Progress | None = None
    metrics: Metrics | None = None
    waits_for: str = ""
    waits_since: float = 0.0
    seconds_waited: float = 0.0
    detail: str = ""
    printed_at: float = 0.0
    parts: dict[str, int] = field(default_factory=dict)
    """Part of the work -> units done, if the stage's workers report separately."""

    def wait(self, event: Waiting, at: float) -> None:
        """Begins a wait, or goes on with one."""
        if not self.waits_for:
            self.waits_since = at - event.seconds
            self.pace.stop()
        self.waits_for = event.reason

    def end_wait(self, at: float) -> None:
        """Ends a wait, if there is one."""
        if self.waits_for:
            self.seconds_waited += at - self.waits_since
        self.waits_for = ""

    def time(self, now: float) -> StageTime:
        """Returns how far the stage is, for the estimate of the run's end."""
        if self.state in ("made", "failed"):
            return StageTime(
                expected_s=self.expected_s, worked_s=self.seconds - self.seconds_waited, left_s=0.0, share=1.0
            )
        if self.state != "running":
            return StageTime(expected_s=self.expected_s)
        waiting_s = now - self.waits_since if self.waits_for else 0.0
        return StageTime(
            expected_s=self.expected_s,
            worked_s=now - self.started - self.seconds_waited - waiting_s,
            left_s=None if self.waits_for or self.pace.is_early else self.pace.seconds_left(now),
            share=self.pace.share,
            is_running=True,
        )


class Display:
    """A context manager that shows the progress of a recipe's stages."""

    def __init__(
        self, recipe: str, names: Sequence[str], console: Console, expected_s: Mapping[str, float | None] | None = None
    ) -> None:
        """Shows the stages as waiting. expected_s: name -> seconds that the plan estimates, of those to be made."""
        expected_s = expected_s or {}
        self._recipe = recipe
        self._lines = {name: _Line(name, expected_s.get(name)) for name in names}
        self._console = console
        self._status = ""
        self._started = time.monotonic()
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=8)

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.transient = kind is None  # after a failure the stages stay, to be read
            self._live.stop()

    def add(self, names: Sequence[str]) -> None:
        """Shows further stages, below the others."""
        self._lines |= {name: _Line(name) for name in names}

    def progress(self) -> RunProgress:
        """Returns how far the run is, for its record."""
        lines = list(self._lines.values())
        running = [" ".join(filter(None, (line.name, _amount(line)))) for line in lines if line.state == "running"]
        return RunProgress(
            num_made=sum(line.state in ("have", "made") for line in lines),
            num_stages=len(lines),
            doing=", ".join(running) or self._status,
            seconds_left=self.seconds_left(),
        )

    def seconds_left(self) -> float | None:
        """Returns the time until the end of the run; None while it is not known."""
        now, lines = time.monotonic(), [line for line in self._lines.values() if line.state != "have"]
        if lines and all(line.state == "made" for line in lines):
            return max(REPORT_S - (now - max(line.started + line.seconds for line in lines)), 0.0)
        if not any(line.state == "running" for line in lines):
            return None
        left = run_seconds_left([line.time(now) for line in lines])
        return None if left is None else left + REPORT_S

    def status(self, text: str) -> None:
        """Shows what the run as a whole waits for; an empty text if it waits for nothing."""
        if text and text != self._status:
            self._print_plain(text)
        self._status = text
        if text:
            self.write("status", text=text)

    def reused(self, name: str, detail: str) -> None:
        """Shows a stage whose artifact is in the store."""
        self._end(name, "have", detail, 0.0)
        self.write("reused", stage=name)

    def start(self, name: str) -> None:
        """Shows that the stage has begun."""
        line = self._lines[name]
        line.state, line.started = "running", time.monotonic()
        self._print_plain(f"{name}: started")
        self.write("started", stage=name)

    def done(self, name: str, num_bytes: int) -> None:
        """Shows that the stage has made its artifact."""
        seconds = time.monotonic() - self._lines[name].started
        self._end(name, "made", human_bytes(num_bytes), seconds)
        self.write("made", stage=name, seconds=round(seconds, 3), num_bytes=num_bytes)

    def failed(self, name: str) -> None:
        """Shows that the stage has raised an exception."""
        seconds = time.monotonic() - self._lines[name].started
        self._end(name, "failed", "", seconds)
        self.write("failed", stage=name, seconds=round(seconds, 3))

    def report(self, uri: str) -> None:
        """Shows nothing: the last line of the output is the report's URI."""
        self.write("report", uri=uri)

    def write(self, event: str, **fields: object) -> None:
        """Writes nothing: the form of the display that collectors of logs read does."""

    def handle(self, event: Event) -> None:
        """Shows an event of a running stage. Lines of the log are printed above the stages, in full."""
        line = self._lines.get(event.source)
        if line is None:
            return
        now = time.monotonic() if event.at is None else event.at
        if isinstance(event, Log):
            line.end_wait(now)
            self._print(f"{event.source}: {event.line}")
        elif isinstance(event, Waiting):
            self._wait(line, event, now)
        elif isinstance(event, Metrics):
            line.metrics = event
        elif isinstance(event, Progress):
            self._progress(line, event, now)

    def _wait(self, line: _Line, event: Waiting, now: float) -> None:
        """Shows a wait in the stage's line; in a pipe once, when it begins."""
        if not event.reason:
            if not line.waits_for:
                line.seconds_waited += event.seconds
            line.end_wait(now)
            line.pace.begin(now)
            return
        if not line.waits_for:
            self._print_plain(f"{line.name}: {event.reason}")
        line.wait(event, now)

    def _progress(self, line: _Line, event: Progress, now: float) -> None:
        line.end_wait(now)
        if event.part:
            line.parts[event.part] = event.done
            event = replace(event, done=sum(line.parts.values()))
        line.progress = event
        line.pace.report(event.done, event.total, event.unit, now, event.share)
        if now - line.printed_at > PLAIN_INTERVAL_SECONDS:
            line.printed_at = now
            amount = f"{_amount(line)} {_rate(line)}".strip()
            self._print_plain(f"{line.name}: {'; '.join(filter(None, (amount, _note(line))))}")

    def _end(self, name: str, state: str, detail: str, seconds: float) -> None:
        line = self._lines[name]
        line.state, line.detail, line.seconds = state, detail, seconds
        took = f" in {human_seconds(seconds)}" if seconds else ""
        left = f"; {self._left()}" if state == "made" and self._left() else ""
        self._print_plain(f"{name}: {state}{took}{f' ({detail})' if detail else ''}{left}")

    def _left(self) -> str:
        seconds = self.seconds_left()
        return f"about {human_seconds(seconds)} left" if seconds is not None and seconds >= 1 else ""

    def _print_plain(self, text: str) -> None:
        if not self._console.is_terminal:
            self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(Text(printable(masked(text))), highlight=False, markup=False, soft_wrap=True)

    def _render(self) -> RenderableType:
        width = self._console.width
        table = Table.grid(padding=(0, 1))
        # Every stage keeps to one line: where a terminal is too narrow, the names and the notes are cut.
        for is_flexible in (False, True, False, False, False, False, True):
            table.add_column(no_wrap=not is_flexible)
        for line in self._lines.values():
            table.add_row(*_cells(line, width))
        elapsed = human_seconds(time.monotonic() - self._started)
        left = f", {self._left()}" if self._left() else ""
        head = Text.assemble((self._recipe, "bold"), f"  {elapsed}{left}  ", (printable(self._status), "dim"))
        head.truncate(width, overflow="ellipsis")
        return Group(head, table)


def _cells(line: _Line, width: int) -> tuple[RenderableType, ...]:
    """Returns a stage's mark, name, bar or state, elapsed time, amount, rate and note."""
    if line.state == "running":
        is_wide = width >= WIDE
        total = line.progress.total if line.progress else 0
        done = line.progress.done if line.progress else 0
        bar = ProgressBar(total=total or None, completed=done, width=24 if is_wide else 8, pulse=not total)
        took = human_seconds(time.monotonic() - line.started)
        rate, note = (_rate(line), _note(line)) if is_wide else (_time_left(line), "waiting" if line.waits_for else "")
        amount = f"{done / total:.0%}" if total and width < NARROW else _amount(line)
        return Spinner("dots"), _one_line(line.name, "bold"), bar, took, amount, rate, _one_line(note)
    mark, style = MARKS[line.state]
    took = human_seconds(line.seconds) if line.seconds else ""
    return Text(mark, style), _one_line(line.name, style), Text(line.state, style), took, line.detail, "", ""


def _one_line(text: str, style: str = "") -> Text:
    return Text(printable(text), style, no_wrap=True, overflow="ellipsis")


def _amount(line: _Line) -> str:
    if line.progress is None:
        return ""
    done, total, unit = line.progress.done, line.progress.total, line.progress.unit
    return f"{done:,}/{total:,} {unit}" if total else f"{done:,} {unit}"


def _rate(line: _Line) -> str:
    rate = line.pace.rate(time.monotonic())
    shown = f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s" if rate else ""
    return ", ".join(filter(None, (shown, _time_left(line))))


def _time_left(line: _Line) -> str:
    seconds = line.pace.seconds_left(time.monotonic())
    return f"{human_seconds(seconds)} left" if seconds is not None and seconds >= 1 else ""


def _note(line: _Line) -> str:
    if line.waits_for:
        return line.waits_for
    if line.progress is not None and line.progress.note:
        return line.progress.note
    if line.metrics is not None:
        return ", ".join(f"{name} {value:.4g}" for name, value in sorted(line.metrics.values.items())[:NUM_CURVES])
    return ""
