"""Merges small shards of percepts into files of a size that disks and object stores like. No percept changes.

    percepts compact --plan    what would be merged
    percepts compact

Each merge appears at once or not at all; a process that has the store open keeps reading what it opened, artifacts are
led to the new files, and a run that extracts meanwhile goes on. Killed at any moment, run it again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

from pipeline.core.errors import ConfigError
from pipeline.core.printable import count_of, human_bytes
from pipeline.engine.store import DEFAULT_STORE, Store
from pipeline.options.command_line import parse_options
from pipeline.options.flags import Flag

if TYPE_CHECKING:
    from pipeline.upkeep.compaction import Merge

MEGABYTE = 1_000_000


@dataclass(frozen=True, kw_only=True)
class CompactOptions:
    """Merge the small shards of each extractor into larger files."""

    store: str = DEFAULT_STORE
    """Directory or fsspec URL of the store."""
    plan: bool = False
    """Print what would be merged, and change nothing."""
    min_mb: int = 128
    """Shards of at least so many megabytes stay as they are."""
    max_mb: int = 512
    """No merged file is larger than so many megabytes."""
    as_json: Annotated[bool, Flag("json")] = False
    """Print one JSON object a merge."""

    def __post_init__(self) -> None:
        if not 0 < self.min_mb <= self.max_mb:
            raise ConfigError(f"--min-mb {self.min_mb} must be above 0 and at most --max-mb {self.max_mb}")


def main(arguments: Sequence[str]) -> int:
    """Runs `percepts compact`. Raises UsageError where there is no store, CorruptArtifact where it is damaged."""
    options = parse_options(CompactOptions, arguments, prog="percepts compact")
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from pipeline.upkeep.compaction import compact, groups_of_store

    root = Store.open(options.store).root
    groups = groups_of_store(root, min_bytes=options.min_mb * MEGABYTE, max_bytes=options.max_mb * MEGABYTE)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("merging shards", total=sum(map(len, groups)))
        for merge in compact(root, groups, is_plan=options.plan):
            progress.advance(task, merge.num_shards)
            sys.stdout.write((json.dumps(asdict(merge)) if options.as_json else _line(merge)) + "\n")
    if not groups and not options.as_json:
        sys.stdout.write(f"nothing to merge: fewer than 2 shards of an extractor are below {options.min_mb} MB\n")
    return 0


def _line(merge: Merge) -> str:

    num_videos = count_of(merge.num_videos, "video")
    what = f"{merge.fingerprint}: {merge.num_shards} shards, {num_videos}, {merge.num_rows:,} frames"
    if merge.bytes_after is None:
        return f"would merge {what}, {human_bytes(merge.bytes_before)}"
    return f"merged {what}, {human_bytes(merge.bytes_before)} -> {human_bytes(merge.bytes_after)}, {merge.path}"
