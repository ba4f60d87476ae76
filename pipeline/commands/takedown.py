"""Takes a video down: its percepts leave the store, no run makes them again, and all that was made of it is named.

    percepts takedown VIDEO --plan    what would go, and what was made of it
    percepts takedown VIDEO

What was *made* of the video (statistics, encoders, classifiers, patches, pictures) cannot have it taken out. It is
listed; `--remove-artifacts` removes it from the store, and the next run of its recipe makes it anew without the video.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

from pipeline.core.addresses.servers import check_mlflow
from pipeline.core.printable import count_of, human_bytes, printable, printable_json
from pipeline.engine.store import DEFAULT_STORE, Store
from pipeline.options.command_line import parse_options
from pipeline.options.flags import Flag, Word

if TYPE_CHECKING:
    from pipeline.upkeep.takedown import TakedownReport


@dataclass(frozen=True, kw_only=True)
class TakedownOptions:
    """Remove a video's percepts from a store, and list every artifact, run and model that was made of it."""

    video: Annotated[str, Word("VIDEO")]
    """A video file, the URI that an index of the store has, or the sha256 of the file (64 hex digits)."""
    store: str = DEFAULT_STORE
    """Directory or fsspec URL of the store."""
    plan: bool = False
    """Print what would be done, and change nothing."""
    reason: str = ""
    """A reason that is kept with the takedown and shown in ledgers."""
    remove_artifacts: bool = False
    """Also remove every artifact that was made of the video; the next run of its recipe makes it anew without it."""
    tracking_uri: str | None = None
    """MLflow tracking server or database; default: SQLite in the store, where there is one."""
    as_json: Annotated[bool, Flag("json")] = False
    """Print one JSON object."""


def main(arguments: Sequence[str]) -> int:
    """Runs `percepts takedown`. Returns the exit status; raises UsageError, CorruptArtifact."""
    options = parse_options(TakedownOptions, arguments, prog="percepts takedown")
    from pipeline.upkeep.takedown import resolve_video, take_down

    store = Store.open(options.store)
    if options.tracking_uri is not None:
        check_mlflow(options.tracking_uri)
    report = take_down(
        store,
        resolve_video(store, options.video),
        is_plan=options.plan,
        reason=options.reason,
        remove_artifacts=options.remove_artifacts,
        tracking_uri=options.tracking_uri,
    )
    if options.as_json:
        sys.stdout.write(printable_json(asdict(report), indent=1) + "\n")
    else:
        _print(report, options)
    return 0


def _print(report: TakedownReport, options: TakedownOptions) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    console.print(f"video {report.video}")
    for uri in report.uris:
        is_inside = "://" not in uri and not uri.startswith("/")
        console.print(f"  {printable(uri)}{' (a file of this store: delete it)' if is_inside else ''}")
    verb = "would remove" if report.is_plan else "removed"
    console.print(
        f"{verb} {count_of(report.num_rows, 'percept')} from {count_of(len(report.shards), 'shard')} "
        f"({human_bytes(report.bytes_rewritten)} rewritten)"
    )
    console.print("had seen it:" if report.lineage else "no artifact had seen it")
    for entry in report.lineage:
        is_removed = options.remove_artifacts and entry.is_removable
        removed = f"{'would be removed' if report.is_plan else 'removed'}: run its recipe again"
        console.print(f"  {entry.stage}/{entry.key}: {removed if is_removed else entry.remains}")
        for run in entry.runs:
            models = "".join(f", models:/{model}" for model in run.models)
            console.print(f"    run {run.run_id} ({run.state}){models}")
    for name in report.unfinished:
        console.print(f"{name} is unfinished, and nothing says what it has seen: finish it, or remove its directory")
    if not report.is_tracked:
        console.print("MLflow was not searched for runs and models: give --tracking-uri")
    num_models = sum(len(run.models) for entry in report.lineage for run in entry.runs)
    if num_models:
        console.print(
            f"MLflow keeps {count_of(num_models, 'model')} that had seen it; "
            "tagged percepts.takedown.*, to be deleted there"
        )
