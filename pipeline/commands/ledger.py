"""Every video of a store, and what became of it.

    python -m pipeline.commands.ledger --store URI          a table for people
    python -m pipeline.commands.ledger --store URI --json   one JSON object a line

A video is listed once for each content and index URI: with the account of its newest extraction where it has been
extracted, else with what ingest found.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.commands.command_line import parse_options, run_command
from pipeline.core.files import exists, join
from pipeline.engine.store import Store
from stages.video.artifacts import INDEX_NAME
from stages.video.ledger import VideoRecord, read_records

LEDGER_NAME = "ledger.parquet"

COLOURS = {"ok": "green", "partial": "yellow", "rejected": "red"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """List every video of a store: what it is, what became of its frames, and why."""

    store: str
    """Directory or fsspec URL of the store."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object a line instead of a table."""


def videos(store: Store) -> list[VideoRecord]:
    """One row for each content and index URI, sorted by URI; the newest extraction's where there is one."""
    found: dict[tuple[str, str], VideoRecord] = {}
    for stage, name in (("ingest", INDEX_NAME), ("extract", LEDGER_NAME)):
        for manifest in sorted(store.manifests(stage), key=lambda manifest: (manifest.finished_at, manifest.key)):
            uri = join(store.directory(stage, manifest.key), name)
            # An extraction may have been made of something other than an index and keep no ledger.
            if stage == "ingest" or exists(uri):
                found.update({(record.sha256, record.uri): record for record in read_records(uri)})
    return [found[key] for key in sorted(found, key=lambda key: (key[1], key[0]))]


def table(records: Sequence[VideoRecord]) -> Table:
    """The rows for people."""
    drawn = Table(box=None, header_style="bold", pad_edge=False)
    drawn.add_column("video", overflow="fold", ratio=3)
    drawn.add_column("content", no_wrap=True)
    drawn.add_column("codec", no_wrap=True)
    drawn.add_column("size", justify="right", no_wrap=True)
    drawn.add_column("frames/s", justify="right", no_wrap=True)
    drawn.add_column("expected", justify="right", no_wrap=True)
    drawn.add_column("decoded", justify="right", no_wrap=True)
    drawn.add_column("verdict", no_wrap=True)
    drawn.add_column("reason", overflow="fold", ratio=2)
    for record in records:
        drawn.add_row(
            escape(record.uri),
            record.sha256[:12],
            record.codec or "",
            f"{record.width}x{record.height}" if record.width else "",
            f"{record.fps:.2f}" if record.fps else "",
            f"{record.frames_expected:,}",
            "" if record.frames_decoded is None else f"{record.frames_decoded:,}",
            f"[{COLOURS[record.verdict]}]{record.verdict}[/]",
            escape(record.reason),
        )
    return drawn


def summary(records: Sequence[VideoRecord]) -> str:
    """One line: how many videos of each verdict, and where the frames of those that were decoded went."""
    verdicts = Counter(record.verdict for record in records)
    counted = [record for record in records if record.frames_decoded is not None]
    expected, decoded, dropped, missing = (
        sum(getattr(record, name) or 0 for record in counted)
        for name in ("frames_expected", "frames_decoded", "frames_dropped", "frames_missing")
    )
    return (
        f"{len(records):,} videos: {verdicts['ok']:,} ok, {verdicts['partial']:,} partial, {verdicts['rejected']:,}"
        f" rejected; of {expected:,} frames expected in {len(counted):,} extracted videos {decoded:,} were decoded,"
        f" {dropped:,} dropped, {missing:,} are missing"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Raises UsageError where there is no store to read."""
    options = parse_options(Options, arguments, prog="python -m pipeline.commands.ledger")
    records = videos(Store.open(options.store))
    if options.as_json:
        for record in records:
            sys.stdout.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
        return 0
    # Piped output is not a screen: there a row must not be folded into 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 240)
    console.print(table(records))
    console.print(summary(records), highlight=False)
    return 0


if __name__ == "__main__":
    run_command(main)
