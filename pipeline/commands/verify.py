"""Recounts and rehashes a whole store, and says of everything that is wrong how to mend it.

    percepts verify             look; exit status 0: clean, 1: faults
    percepts verify --repair    mend what can be mended

Every file of every artifact is hashed against its manifest, every shard against its sidecar, its rows are counted, and
the account expected = decoded + dropped + missing is closed for every video, shard and artifact. A repair removes what
is damaged and what was made of it, so that the next run of the recipe makes it again. Foreign files are reported and
never touched. Do not repair while a run writes to the store.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

from pipeline.core.errors import ConfigError
from pipeline.core.numbers import check_numbers
from pipeline.core.printable import count_of, human_bytes, printable, printable_json
from pipeline.engine.store import DEFAULT_STORE, Store
from pipeline.options.command_line import parse_options
from pipeline.options.flags import Flag

if TYPE_CHECKING:
    from pipeline.upkeep.faults import Fault
    from pipeline.upkeep.inspection import Inspection


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """Recount and rehash a store; find what is damaged, left over or foreign, and repair it."""

    store: str = DEFAULT_STORE
    """Directory or fsspec URL of the store."""
    repair: bool = False
    """Mend every fault that can be mended; without it nothing is changed."""
    remove_unfinished: bool = False
    """With --repair: also remove artifacts without a manifest, from which their runs would have gone on."""
    grace_minutes: float = 60.0
    """Unfinished files younger than this are passed over: they may belong to a run that is going on."""
    threads: int = min(16, 2 * (os.cpu_count() or 1))
    """The number of files that are hashed at a time."""
    as_json: Annotated[bool, Flag("json")] = False
    """Print one JSON object a fault, and a last one that counts."""

    def __post_init__(self) -> None:
        if self.threads < 1 or self.grace_minutes < 0:
            raise ConfigError(f"--threads {self.threads} must be at least 1, --grace-minutes {self.grace_minutes} 0")
        if self.remove_unfinished and not self.repair:
            raise ConfigError("--remove-unfinished removes: give it with --repair")
        check_numbers(self)


def main(arguments: Sequence[str]) -> int:
    """Runs `percepts verify`; returns the exit status. Raises UsageError where there is no store."""
    options = parse_options(VerifyOptions, arguments, prog="percepts verify")
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    from pipeline.upkeep.faults import repair, with_removal
    from pipeline.upkeep.inspection import Inspection

    store = Store.open(options.store)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("hashing", total=None)
        inspection = Inspection(
            store,
            num_threads=options.threads,
            grace_s=60 * options.grace_minutes,
            advance=lambda num_bytes: progress.advance(task, num_bytes),
        )
        progress.update(task, total=inspection.hashed_bytes)
        faults = [with_removal(fault) if options.remove_unfinished else fault for fault in inspection.faults()]
    repaired = [fault for fault in faults if options.repair and fault.is_repairable]
    for fault in repaired:
        repair(store, fault)
    (_print_json if options.as_json else _print)(inspection, faults, repaired)
    return 1 if len(faults) > len(repaired) else 0


def _print(inspection: Inspection, faults: Sequence[Fault], repaired: Sequence[Fault]) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False, soft_wrap=True, emoji=False)
    for fault in faults:
        how = "repaired" if fault in repaired else fault.repair
        path, what, how = (escape(printable(text)) for text in (fault.path, fault.what, how))
        console.print(f"[yellow]{fault.kind}[/]  {path}: {what}\n    {how}")
    for path in inspection.unused:
        console.print(f"[dim]not used by any artifact: {path}[/]")
    if inspection.unused:
        console.print(f"not used: {count_of(len(inspection.unused), 'shard')}, {human_bytes(inspection.unused_bytes)}")
    frames = ", ".join(f"{number:,} {name}" for name, number in inspection.num_frames.items())
    console.print(
        f"{count_of(inspection.num_shards, 'shard')}, {count_of(inspection.num_videos, 'video')}; frames: {frames}"
    )
    left = len(faults) - len(repaired)
    if not faults:
        console.print(
            f"[green]clean[/]: {len(inspection.states):,} files, {human_bytes(inspection.hashed_bytes)} hashed"
        )
    else:
        console.print(f"{count_of(len(faults), 'finding')}, {len(repaired)} repaired, {left} left")


def _print_json(inspection: Inspection, faults: Sequence[Fault], repaired: Sequence[Fault]) -> None:
    for fault in faults:
        row = asdict(fault) | {"repaired": fault in repaired}
        sys.stdout.write(printable_json(row) + "\n")
    summary = {
        "num_findings": len(faults),
        "num_repaired": len(repaired),
        "num_files": len(inspection.states),
        "num_bytes_hashed": inspection.hashed_bytes,
        "num_shards": inspection.num_shards,
        "num_videos": inspection.num_videos,
        "frames": inspection.num_frames,
        "unused_shards": inspection.unused,
        "unused_bytes": inspection.unused_bytes,
    }
    sys.stdout.write(printable_json(summary) + "\n")
