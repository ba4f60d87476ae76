"""The progress of a run as one JSON line an event, for collectors of logs: `--log json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

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
        write_line: Callable[[str], object],
        expected_s: Mapping[str, float | None] | None = None,
    ) -> None:
        super().__init__(recipe, names, Console(quiet=True, force_terminal=False), expected_s)
        self._write_line = write_line

    def handle(self, event: Event) -> None:
        """Writes an event of a running stage with all of its fields."""
        before = self._lines[event.source].waits_for if event.source in self._lines else ""
        super().handle(event)
        if isinstance(event, Waiting) and (not before) == (not event.reason):
            return  # a wait is an event when it begins and when it ends
        fields = asdict(event)
        stage, _ = fields.pop("source"), fields.pop("at")
        self.write(type(event).__name__.lower(), stage=stage, **fields)

    def write(self, event: str, **fields: object) -> None:
        """Writes an event as a line."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        fields = {name: masked(value) if isinstance(value, str) else value for name, value in fields.items()}
        self._write_line(json.dumps({"time": time, "event": event, "recipe": self._recipe, **fields}) + "\n")
