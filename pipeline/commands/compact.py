"""Merges small shards of percepts into files of a size that disks and object stores like. No percept changes.

    python -m pipeline.commands.compact --store STORE --plan    what would be merged
    python -m pipeline.commands.compact --store STORE

Each merge appears at once or not at all; whoever has the store open keeps reading what he opened, artifacts are led to
the new files, and a run that extracts meanwhile goes on. Killed at any moment, run it again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.commands.command_line import parse_options, run_command
from pipeline.core.errors import ConfigError
from pipeline.engine.status import human_bytes
from pipeline.engine.store import Store
from pipeline.upkeep.compaction import merge_groups, remove_replaced, rewrite
from stages.percepts.shards import folders, iter_in_use, iter_shards, read_shards
from stages.video.record_table import digests

MEGABYTE = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Options:
    """Merge the small shards of each extractor into larger files."""

    store: str
    """Directory or fsspec URL of the store."""
    plan: bool = False
    """Say what would be merged, and change nothing."""
    min_mb: int = 128
    """Shards of at least so many megabytes stay as they are."""
    max_mb: int = 512
    """No merged file is larger."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object a merge."""

    def __post_init__(self) -> None:
        if not 0 < self.min_mb <= self.max_mb:
            raise ConfigError(f"--min-mb {self.min_mb} must be above 0 and at most --max-mb {self.max_mb}")


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Shards that become, or became, one."""

    fingerprint: str
    """The first digits, as in the store."""
    num_shards: int
    num_videos: int
    num_rows: int
    bytes_before: int
    bytes_after: int | None
    """None in a plan."""
    path: str | None
    """Of the new shard, relative to the store; None in a plan."""


def groups(store: Store, options: Options) -> list[tuple[str, ...]]:
    """Paths of what is to be merged. Raises CorruptArtifact."""
    found: list[tuple[str, ...]] = []
    for folder in folders(store.root):
        shards = iter_in_use(store.root, folder)
        found += merge_groups(shards, min_bytes=options.min_mb * MEGABYTE, max_bytes=options.max_mb * MEGABYTE)
    return found


def compact(store: Store, found: Sequence[Sequence[str]], *, is_plan: bool = False) -> Iterator[Merge]:
    """Merges the groups found, one after the other; or says what it would do.

    Raises:
        CorruptArtifact: a shard is damaged; what was merged before stays merged.
    """
    for folder in [] if is_plan else folders(store.root):
        remove_replaced(store.root, folder)
    for paths in found:
        merge = _planned(store, paths)
        if not is_plan:
            made = rewrite(store.root, list(read_shards(store.root, paths).values()))
            merge = replace(merge, num_rows=made.rows, bytes_after=made.bytes, path=made.path)
        yield merge


def _planned(store: Store, paths: Sequence[str]) -> Merge:
    num_rows = bytes_before = 0
    videos = []
    for shard in iter_shards(store.root, paths):
        num_rows += shard.rows
        bytes_before += shard.bytes
        videos.append(digests(shard.results))
    return Merge(
        fingerprint=paths[0].split("/")[-2],
        num_shards=len(paths),
        num_videos=len(np.unique(np.concatenate(videos))),
        num_rows=num_rows,
        bytes_before=bytes_before,
        bytes_after=None,
        path=None,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Raises UsageError where there is no store, CorruptArtifact where it is damaged."""
    options = parse_options(Options, arguments, prog="python -m pipeline.commands.compact")
    store = Store.open(options.store)
    found = groups(store, options)
    merges: list[Merge] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("merging shards", total=sum(map(len, found)))
        for merge in compact(store, found, is_plan=options.plan):
            merges.append(merge)
            progress.advance(task, merge.num_shards)
            if options.as_json:
                sys.stdout.write(json.dumps(asdict(merge)) + "\n")
            else:
                sys.stdout.write(_line(merge) + "\n")
    if not merges and not options.as_json:
        sys.stdout.write(f"nothing to merge: fewer than 2 shards of an extractor are below {options.min_mb} MB\n")
    return 0


def _line(merge: Merge) -> str:
    what = f"{merge.fingerprint}: {merge.num_shards} shards, {merge.num_videos:,} videos, {merge.num_rows:,} frames"
    if merge.bytes_after is None:
        return f"would merge {what}, {human_bytes(merge.bytes_before)}"
    return f"merged {what}, {human_bytes(merge.bytes_before)} -> {human_bytes(merge.bytes_after)}, {merge.path}"


if __name__ == "__main__":
    run_command(main)
