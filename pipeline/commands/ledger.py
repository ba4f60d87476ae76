"""Lists every video of a store, and what became of its frames.

    percepts ledger           a table
    percepts ledger --json    one JSON object a line
    percepts ledger --why     the links and videos that gave no percepts, and the reason of each

A video is listed once for each content and index URI, in the order of the newest ledger: with the account of its newest
extraction where it has been extracted, else with what ingest found.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

from pipeline.core.printable import printable, printable_json
from pipeline.engine.store import DEFAULT_STORE, Store
from pipeline.options.command_line import parse_options
from pipeline.options.flags import Flag

if TYPE_CHECKING:
    from rich.table import Table

    from stages.video.ledger import VideoRecord, VideoTotals

COLOURS = {"ok": "green", "partial": "yellow", "rejected": "red"}
PAGE_ROWS = 1000
"""The rows that are laid out, and in memory, at a time; each page has a heading."""


@dataclass(frozen=True, kw_only=True)
class LedgerOptions:
    """List every video of a store: what it is, what became of its frames, and why."""

    store: str = DEFAULT_STORE
    """Directory or fsspec URL of the store."""
    as_json: Annotated[bool, Flag("json")] = False
    """Print one JSON object a line instead of a table."""
    why: bool = False
    """List what is missing alone: links without a clip and videos without a frame, each with its reason, counted by
    what became of them."""


def table(records: Sequence[VideoRecord]) -> Table:
    """Returns the rows for the terminal."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, header_style="bold", pad_edge=False)
    drawn.add_column("video", overflow="fold", ratio=3)
    for heading in ("content", "codec", "size", "frames/s", "expected", "decoded", "verdict"):
        is_number = heading in ("size", "frames/s", "expected", "decoded")
        drawn.add_column(heading, justify="right" if is_number else "left", no_wrap=True)
    drawn.add_column("reason", overflow="fold", ratio=2)
    for record in records:
        drawn.add_row(
            Text(printable(record.uri)),
            record.sha256[:12],
            record.codec or "",
            f"{record.width}x{record.height}" if record.width else "",
            f"{record.fps:.2f}" if record.fps else "",
            f"{record.frames_expected:,}",
            "" if record.frames_decoded is None else f"{record.frames_decoded:,}",
            f"[{COLOURS[record.verdict]}]{record.verdict}[/]",
            Text(printable(record.reason)),
        )
    return drawn


def summary(totals: VideoTotals) -> str:
    """Returns one line: how many videos of each verdict, and where the frames of those that were decoded went."""
    expected, decoded, dropped, missing = map(totals.frames, ("expected", "decoded", "dropped", "missing"))
    ok, partial, rejected = map(totals.count, COLOURS)
    return (
        f"{totals.num_videos:,} videos: {ok:,} ok, {partial:,} partial, {rejected:,} rejected; of {expected:,} frames "
        f"expected in {totals.num_extracted:,} extracted videos {decoded:,} were decoded, {dropped:,} dropped, "
        f"{missing:,} are missing"
    )


def missing(store: Store) -> Iterator[dict[str, object]]:
    """Yields a row for each link without a clip, of the newest download of each list, and each rejected video.

    Raises:
        CorruptArtifact: a ledger cannot be read.
    """
    from pipeline.upkeep.inventory import iter_links, iter_videos

    for link in iter_links(store):
        if link.status != "downloaded":
            names = ("uri", "line", "status", "reason", "asked_at")
            yield {name: getattr(link, name) for name in names}
    for record in iter_videos(store):
        if record.verdict == "rejected":
            yield {"uri": record.uri, "line": None, "status": "rejected", "reason": record.reason, "asked_at": ""}


def _print_missing(store: Store, *, as_json: bool) -> None:
    rows = missing(store)
    if as_json:
        for row in rows:
            sys.stdout.write(printable_json(row) + "\n")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pipeline.upkeep.inventory import links_in_work
    from stages.downloading.link_results import ASKED_AGAIN

    console = Console(width=None if sys.stdout.isatty() else 240)
    counts: Counter[str] = Counter()
    while page := list(itertools.islice(rows, PAGE_ROWS)):
        drawn = Table(box=None, header_style="bold", pad_edge=False)
        for heading in ("link or video", "status", "asked at", "reason"):
            drawn.add_column(heading, overflow="fold")
        for row in page:
            drawn.add_row(*(Text(printable(str(row[name] or ""))) for name in ("uri", "status", "asked_at", "reason")))
        console.print(drawn)
        counts.update(str(row["status"]) for row in page)
    summed = _in_words(counts) or "nothing is missing"
    console.print(f"{counts.total():,} without percepts: {summed}", highlight=False)
    if num_again := sum(counts[status] for status in ASKED_AGAIN):
        console.print(f"{num_again:,} of them are requested again by a run that still wants clips", highlight=False)
    if in_work := links_in_work(store):
        rule = "they are listed here once it ends, and its command, given again, goes on with the others"
        console.print(f"a download has not ended, and has answers of links: {_in_words(in_work)}; {rule}")


def _in_words(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {status}" for status, count in counts.most_common())


def main(arguments: Sequence[str]) -> int:
    """Runs `percepts ledger`. Raises UsageError where there is no store to read."""
    options = parse_options(LedgerOptions, arguments, prog="percepts ledger")
    from pipeline.upkeep.inventory import iter_videos, left_out
    from stages.video.ledger import VideoTotals

    store = Store.open(options.store)
    if options.why:
        _print_missing(store, as_json=options.as_json)
        return 0
    records, totals = iter_videos(store), VideoTotals()
    if options.as_json:
        for record in records:
            sys.stdout.write(printable_json(asdict(record)) + "\n")
        return 0
    from rich.console import Console

    # Piped output is not a screen: there a row must not be folded into 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 240)
    while page := list(itertools.islice(records, PAGE_ROWS)):
        console.print(table(page))
        for record in page:
            totals.add(record)
    console.print(summary(totals), highlight=False)
    for line in left_out(store):
        console.print(f"left out: {printable(line)}", highlight=False, markup=False, emoji=False)
    return 0
