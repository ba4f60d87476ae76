"""Recounts and rehashes a whole store, and says of everything that is wrong how to mend it.

    python -m pipeline.commands.verify --store STORE             look; exit status 0: clean, 1: findings
    python -m pipeline.commands.verify --store STORE --repair    mend what can be mended

Every file of every artifact is hashed against its manifest, every shard against its sidecar, its rows are counted, and
the account expected = decoded + dropped + missing is closed for every video, shard and artifact. A repair removes what
is damaged, so that the next run of the recipe makes it again; what is whole and in use is never removed, and what is
not ours is moved to `set-aside/`. Do not repair while a run writes to the store.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from pipeline.commands.command_line import parse_options, run_command
from pipeline.core.errors import ConfigError
from pipeline.core.files import filesystem, join, remove
from pipeline.engine.status import human_bytes
from pipeline.engine.store import Store
from pipeline.upkeep.compaction import rewrite
from pipeline.upkeep.inspection import SET_ASIDE, Fault, Inspection
from stages.percepts.shards import read_shards


@dataclass(frozen=True, kw_only=True)
class Options:
    """Recount and rehash a store; find what is damaged, left over or foreign, and repair it."""

    store: str
    """Directory or fsspec URL of the store."""
    repair: bool = False
    """Do what each finding says; without it nothing is changed."""
    remove_unfinished: bool = False
    """With --repair: remove artifacts without a manifest too, and what their runs would have gone on from."""
    grace_minutes: float = 60.0
    """What is unfinished and younger may belong to a run that is going on: it is passed over."""
    threads: int = min(16, 2 * (os.cpu_count() or 1))
    """Files hashed at a time."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object a finding, and a last one that counts."""

    def __post_init__(self) -> None:
        if self.threads < 1 or self.grace_minutes < 0:
            raise ConfigError(f"--threads {self.threads} must be at least 1, --grace-minutes {self.grace_minutes} 0")
        if self.remove_unfinished and not self.repair:
            raise ConfigError("--remove-unfinished removes: give it with --repair")


def repair(store: Store, finding: Fault) -> None:
    """Do what a finding says. Killed half-way, the rest is found again."""
    for path in finding.removes:
        remove(join(store.root, path))
    if finding.takes_down:
        for shard in read_shards(store.root, [finding.path]).values():
            rewrite(store.root, [shard], leave_out=(finding.takes_down,))
    if finding.kind == "foreign":
        fs, path = filesystem(join(store.root, finding.path))
        target = filesystem(join(store.root, SET_ASIDE, finding.path))[1]
        fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        fs.mv(path, target)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status. Raises UsageError where there is no store."""
    options = parse_options(Options, arguments, prog="python -m pipeline.commands.verify")
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
        findings = [_with(finding, options) for finding in inspection.faults()]
    repaired = [finding for finding in findings if options.repair and finding.is_repairable]
    for finding in repaired:
        repair(store, finding)
    left = len(findings) - len(repaired)
    if options.as_json:
        _print_json(inspection, findings, repaired)
    else:
        _print(inspection, findings, repaired)
    return 1 if left else 0


def _with(finding: Fault, options: Options) -> Fault:
    if finding.kind == "unfinished" and options.remove_unfinished:
        return Fault(
            kind=finding.kind, path=finding.path, what=finding.what, repair="remove it", removes=(finding.path,)
        )
    return finding


def _print(inspection: Inspection, findings: Sequence[Fault], repaired: Sequence[Fault]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False, soft_wrap=True)
    for finding in findings:
        how = "repaired" if finding in repaired else finding.repair
        console.print(f"[yellow]{finding.kind}[/]  {escape(finding.path)}: {escape(finding.what)}\n    {escape(how)}")
    for path in inspection.unused:
        console.print(f"[dim]not used by any artifact: {path}[/]")
    if inspection.unused:
        console.print(f"{len(inspection.unused)} shards are not used, {human_bytes(inspection.unused_bytes)}")
    frames = ", ".join(f"{number:,} {name}" for name, number in inspection.num_frames.items())
    console.print(f"{inspection.num_shards} shards, {inspection.num_videos:,} videos; frames: {frames}")
    left = len(findings) - len(repaired)
    if not findings:
        console.print(
            f"[green]clean[/]: {len(inspection.states):,} files, {human_bytes(inspection.hashed_bytes)} hashed"
        )
    else:
        console.print(f"{len(findings)} findings, {len(repaired)} repaired, {left} left")


def _print_json(inspection: Inspection, findings: Sequence[Fault], repaired: Sequence[Fault]) -> None:
    for finding in findings:
        row = asdict(finding) | {"repaired": finding in repaired}
        sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
    summary = {
        "num_findings": len(findings),
        "num_repaired": len(repaired),
        "num_files": len(inspection.states),
        "num_bytes_hashed": inspection.hashed_bytes,
        "num_shards": inspection.num_shards,
        "num_videos": inspection.num_videos,
        "frames": inspection.num_frames,
        "unused_shards": inspection.unused,
        "unused_bytes": inspection.unused_bytes,
    }
    sys.stdout.write(json.dumps(summary, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    run_command(main)
