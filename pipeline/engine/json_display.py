"""The progress of a run as one JSON line an event, for collectors of logs: `--log json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from types import TracebackType

from rich.console import Console

from pipeline.core.events import Event, Waiting
from pipeline.core.secrets import masked
from pipeline.engine.display import Display


def write_line(line: str) -> None:
    """Writes a line to stdout, at once."""
    sys.stdout.write(line)
    sys.stdout.flush()


class JsonDisplay(Display):
    """A display that writes a JSON object a line, each with `time` (UTC), `event`, `recipe`, and `stage` if it has one.

    Events are status, reused, started, waiting, progress, metrics, log, made, failed and report.
    """

    def __init__(
        self,
        recipe: str,
        names: Sequence[str],
        write: Callable[[str], object],
        expected_s: Mapping[str, float | None] | None = None,
    ) -> None:
        super().__init__(recipe, names, Console(quiet=True), expected_s)
        self._write = write

    def __enter__(self) -> JsonDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the display; nothing is left to write."""

    def status(self, text: str) -> None:
        """Writes what the run as a whole waits for."""
        super().status(text)
        if text:
            self._event("status", text=text)

    def reused(self, name: str, detail: str) -> None:
        """Writes that a stage's artifact is in the store."""
        super().reused(name, detail)
        self._event("reused", stage=name)

    def start(self, name: str) -> None:
        """Writes that the stage has begun."""
        super().start(name)
        self._event("started", stage=name)

    def done(self, name: str, num_bytes: int) -> None:
        """Writes that the stage has made its artifact."""
        super().done(name, num_bytes)
        self._event("made", stage=name, seconds=round(self._lines[name].seconds, 3), num_bytes=num_bytes)

    def failed(self, name: str) -> None:
        """Writes that the stage has raised an exception."""
        super().failed(name)
        self._event("failed", stage=name, seconds=round(self._lines[name].seconds, 3))

    def handle(self, event: Event) -> None:
        """Writes an event of a running stage with all of its fields."""
        before = self._lines[event.source].waits_for if event.source in self._lines else ""
        super().handle(event)
        if isinstance(event, Waiting) and (not before) == (not event.reason):
            return  # a wait is an event when it begins and when it ends
        fields = asdict(event)
        stage, _ = fields.pop("source"), fields.pop("at")
        self._event(type(event).__name__.lower(), stage=stage, **fields)

    def report(self, uri: str) -> None:
        """Writes where the report lies."""
        self._event("report", uri=uri)

    def _event(self, event: str, **fields: object) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        fields = {name: masked(value) if isinstance(value, str) else value for name, value in fields.items()}
        self._write(json.dumps({"time": time, "event": event, "recipe": self._recipe, **fields}) + "\n")
