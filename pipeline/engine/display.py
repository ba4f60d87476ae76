"""What a person watches while a recipe runs: one line a stage, live on a terminal, plain lines in a log file."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from pipeline.core.events import Event, Log, Metrics, Progress
from pipeline.engine.status import human_bytes, human_seconds

PLAIN_INTERVAL_SECONDS = 10.0
NUM_LOG_LINES = 6


@dataclass
class _Line:
    name: str
    state: str = "waiting"
    started: float = 0.0
    seconds: float = 0.0
    progress: Progress | None = None
    first: Progress | None = None
    first_at: float = 0.0
    metrics: Metrics | None = None
    detail: str = ""
    printed_at: float = 0.0
    parts: dict[str, int] = field(default_factory=dict)
    """Units done in each part of the work, where its workers report each for itself."""

    def rate(self) -> float:
        """Units a second since the first report."""
        if self.progress is None or self.first is None or self.progress.done <= self.first.done:
            return 0.0
        return (self.progress.done - self.first.done) / max(time.monotonic() - self.first_at, 1e-6)


class Display:
    """Use as a context manager; tell it what happens."""

    def __init__(self, recipe: str, names: list[str], console: Console) -> None:
        self._recipe = recipe
        self._lines = {name: _Line(name) for name in names}
        self._console = console
        self._log: list[Text] = []
        self._status = ""
        self._started = time.monotonic()
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=8, transient=False)

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def status(self, text: str) -> None:
        """What the run as a whole waits for; empty when it waits for nothing."""
        if text and text != self._status and not self._console.is_terminal:
            self._console.print(text, highlight=False, markup=False)
        self._status = text

    def reused(self, name: str, detail: str) -> None:
        """The store has it."""
        self._end(name, "have", detail, 0.0)

    def start(self, name: str) -> None:
        """The stage begins."""
        line = self._lines[name]
        line.state, line.started = "running", time.monotonic()
        self._plain(f"{name}: started")

    def done(self, name: str, num_bytes: int) -> None:
        """The stage has ended well."""
        line = self._lines[name]
        self._end(name, "made", human_bytes(num_bytes), time.monotonic() - line.started)

    def failed(self, name: str) -> None:
        """The stage has raised."""
        line = self._lines[name]
        self._end(name, "failed", "", time.monotonic() - line.started)

    def tell(self, event: Event) -> None:
        """Something that a running stage said."""
        line = self._lines.get(event.source)
        if line is None:
            return
        now = time.monotonic()
        if isinstance(event, Log):
            self._log.append(Text.assemble((f"{event.source} ", "cyan"), event.line))
            self._plain(f"{event.source}: {event.line}")
        elif isinstance(event, Metrics):
            line.metrics = event
        else:
            if event.part:
                line.parts[event.part] = event.done
                event = replace(event, done=sum(line.parts.values()))
            if line.first is None or event.unit != line.first.unit or event.done < line.first.done:
                line.first, line.first_at = event, now
            line.progress = event
            if now - line.printed_at > PLAIN_INTERVAL_SECONDS:
                line.printed_at = now
                self._plain(f"{line.name}: {_count(line)} {_rate(line)} {_note(line)}".rstrip())

    def _end(self, name: str, state: str, detail: str, seconds: float) -> None:
        line = self._lines[name]
        line.state, line.detail, line.seconds = state, detail, seconds
        took = f" in {human_seconds(seconds)}" if seconds else ""
        self._plain(f"{name}: {state}{took}{f' ({detail})' if detail else ''}")

    def _plain(self, text: str) -> None:
        if not self._console.is_terminal:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _render(self) -> RenderableType:
        table = Table(box=None, padding=(0, 1), expand=False, show_header=False)
        for line in self._lines.values():
            table.add_row(*_cells(line))
        elapsed = human_seconds(time.monotonic() - self._started)
        head = Text.assemble((f" {self._recipe}", "bold"), f"  {elapsed}  ", (self._status, "dim"))
        return Group(head, table, *(Text("  ") + line for line in self._log[-NUM_LOG_LINES:]))


_MARKS = {"waiting": ("·", "dim"), "have": ("=", "blue"), "made": ("✓", "green"), "failed": ("✗", "red")}


def _cells(line: _Line) -> tuple[RenderableType, ...]:
    if line.state == "running":
        total = line.progress.total if line.progress else 0
        done = line.progress.done if line.progress else 0
        bar = ProgressBar(total=total or None, completed=done, width=24, pulse=not total)
        took = human_seconds(time.monotonic() - line.started)
        return Spinner("dots"), Text(line.name, "bold"), bar, _count(line), _rate(line), took, _note(line)
    mark, style = _MARKS[line.state]
    took = human_seconds(line.seconds) if line.seconds else ""
    return Text(mark, style), Text(line.name, style), Text(line.state, style), line.detail, "", took, ""


def _count(line: _Line) -> str:
    p = line.progress
    return "" if p is None else f"{p.done:,}/{p.total:,} {p.unit}" if p.total else f"{p.done:,} {p.unit}"


def _rate(line: _Line) -> str:
    rate = line.rate()
    if not rate or line.progress is None:
        return ""
    left = (line.progress.total - line.progress.done) / rate if line.progress.total else 0.0
    return f"{rate:,.0f}/s" + (f", {human_seconds(left)} left" if left >= 1 else "")


def _note(line: _Line) -> str:
    if line.progress is not None and line.progress.note:
        return line.progress.note
    if line.metrics is not None:
        return ", ".join(f"{name} {value:.4g}" for name, value in sorted(line.metrics.values.items())[:3])
    return ""
