"""Takes a video down: its percepts leave the store, no run makes them again, and all that had seen it is named.

    python -m pipeline.commands.takedown VIDEO --store STORE --plan    what would go, and what had seen it
    python -m pipeline.commands.takedown VIDEO --store STORE

VIDEO is a file, the URI that an index has, or the sha256 of the bytes. In this order: the takedown is written down, and
from then on readers leave the video out and runs reject it; every shard that holds it, of whatever extractor, is
rewritten without it; MLflow's runs and models that had seen it are tagged. Killed half-way, run it again.

What was *made* of the video (statistics, encoders, classifiers, patches, pictures) cannot have it taken out. It is
listed; `--remove-artifacts` removes it from the store, and the next run of its recipe makes it anew without the video.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape

from pipeline.commands.command_line import parse_options, run_command
from pipeline.core.errors import UsageError
from pipeline.core.files import exists, is_local, join, remove
from pipeline.engine.status import human_bytes
from pipeline.engine.store import MANIFEST, Store
from pipeline.upkeep.compaction import remove_replaced, rewrite
from pipeline.upkeep.lineage import LineageEntry, digests_of, lineage, video_uris
from stages.percepts.shards import Shard, folders, iter_in_use
from stages.percepts.takedowns import Takedown, read_takedowns, write_takedown

SCRATCH = "ray-train"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Remove a video's percepts from a store, and list every artifact, run and model that had seen it."""

    video: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="VIDEO")]
    """A video file, the URI that an index of the store has, or the sha256 of the file (64 hex digits)."""
    store: str
    """Directory or fsspec URL of the store."""
    plan: bool = False
    """Say what would be done, and change nothing."""
    reason: str = ""
    """Kept with the takedown, and shown in ledgers."""
    remove_artifacts: bool = False
    """Also remove every artifact that was made of the video; the next run of its recipe makes it anew without it."""
    tracking_uri: str | None = None
    """MLflow tracking server or database; default: SQLite in the store, where there is one."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a takedown did, or would do."""

    video: str
    """sha256."""
    uris: tuple[str, ...]
    is_plan: bool
    shards: tuple[str, ...]
    """Paths of shards that held the video."""
    num_rows: int
    """Percepts that were removed."""
    bytes_rewritten: int
    sightings: tuple[LineageEntry, ...]
    unfinished: tuple[str, ...]
    """Artifacts that no manifest describes: what they have seen is not known."""
    is_tracked: bool
    """Whether MLflow was asked for runs and models."""


def take_down(store: Store, video: str, options: Options) -> Report:
    """Everything, for a video given by its sha256.

    Raises:
        CorruptArtifact: a shard is damaged; it is still there, and the tombstone too.
        UsageError: MLflow does not answer.
    """
    held = _held(store, video)
    before = read_takedowns(store.root).get(video)
    tracking_uri = options.tracking_uri or _own_tracking(store)
    seen, unfinished = lineage(store, video, before, tracking_uri)
    uris = tuple(sorted({*video_uris(store, video), *(before.uris if before else ())}))
    report = Report(
        video=video,
        uris=uris,
        is_plan=options.plan,
        shards=tuple(shard.path for shard in held),
        num_rows=sum(shard.results[video].frames_decoded for shard in held),
        bytes_rewritten=sum(shard.bytes for shard in held),
        sightings=tuple(seen),
        unfinished=tuple(unfinished),
        is_tracked=tracking_uri is not None,
    )
    if not options.plan:
        at = before.at if before else datetime.now(UTC).isoformat(timespec="seconds")
        names = tuple(f"{sighting.stage}/{sighting.key}" for sighting in seen)
        reason = options.reason or (before.reason if before else "")
        write_takedown(store.root, Takedown(video=video, at=at, reason=reason, uris=uris, seen_by=names))
        _remove_percepts(store, held, video)
        _tag(tracking_uri, seen, video, at)
        if options.remove_artifacts:
            _remove_artifacts(store, seen)
    return report


def _held(store: Store, video: str) -> list[Shard]:
    shards = (shard for folder in folders(store.root) for shard in iter_in_use(store.root, folder))
    return [shard for shard in shards if video in shard.results]


def _remove_percepts(store: Store, held: Sequence[Shard], video: str) -> None:
    for shard in held:
        rewrite(store.root, [shard], leave_out=(video,))
    # What an earlier attempt, or a compaction, was killed before it could remove.
    for folder in folders(store.root):
        remove_replaced(store.root, folder)


def _remove_artifacts(store: Store, seen: Sequence[LineageEntry]) -> None:
    for sighting in seen:
        if sighting.is_removable:
            directory = store.directory(sighting.stage, sighting.key)
            # First the manifest: half an artifact must not look whole.
            remove(join(directory, MANIFEST))
            remove(directory)
            remove(join(store.root, SCRATCH, sighting.key))


def _own_tracking(store: Store) -> str | None:
    has_file = is_local(store.root) and exists(join(store.root, "mlflow.db"))
    return store.default_tracking_uri if has_file else None


def _tag(tracking_uri: str | None, seen: Sequence[LineageEntry], video: str, at: str) -> None:
    runs = [run for sighting in seen for run in sighting.runs]
    if tracking_uri is not None and runs:
        from pipeline.engine.tracking import tag_runs

        tag_runs(tracking_uri, runs, f"percepts.takedown.{video[:16]}", at)


def resolve(store: Store, given: str) -> str:
    """sha256 of the video that is meant.

    Raises:
        UsageError: the store knows no such video, or several contents under this URI.
    """
    found = digests_of(store, given)
    if not found:
        raise UsageError(
            f"store {store.root!r} knows no video {given!r}; give a file, a URI or a sha256 as "
            f"`python -m pipeline.commands.ledger --store {store.root} --json` lists them"
        )
    if len(found) > 1:
        raise UsageError(f"{given!r} had several contents; take each down by its sha256: {', '.join(sorted(found))}")
    return next(iter(found))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Raises UsageError, CorruptArtifact."""
    options = parse_options(Options, arguments, prog="python -m pipeline.commands.takedown")
    store = Store.open(options.store)
    report = take_down(store, resolve(store, options.video), options)
    if options.as_json:
        sys.stdout.write(json.dumps(asdict(report), ensure_ascii=False, indent=1) + "\n")
        return 0
    _print(report, options)
    return 0


def _print(report: Report, options: Options) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"video {report.video}")
    for uri in report.uris:
        is_inside = "://" not in uri and not uri.startswith("/")
        console.print(f"  {escape(uri)}{' (a file of this store: delete it)' if is_inside else ''}")
    verb = "would remove" if report.is_plan else "removed"
    console.print(
        f"{verb} {report.num_rows:,} percepts from {len(report.shards)} shards "
        f"({human_bytes(report.bytes_rewritten)} rewritten)"
    )
    console.print("had seen it:" if report.sightings else "no artifact had seen it")
    for sighting in report.sightings:
        is_gone = options.remove_artifacts and sighting.is_removable
        gone = f"{'would be removed' if report.is_plan else 'removed'}: run its recipe again"
        console.print(f"  {sighting.stage}/{sighting.key}: {gone if is_gone else sighting.remains}")
        for run in sighting.runs:
            models = "".join(f", models:/{model}" for model in run.models)
            console.print(f"    run {run.run_id} ({run.state}){models}")
    for name in report.unfinished:
        console.print(f"{name} is unfinished, and nothing says what it has seen: finish it, or remove its directory")
    if not report.is_tracked:
        console.print("MLflow was not asked for runs and models: give --tracking-uri")
    num_models = sum(len(run.models) for sighting in report.sightings for run in sighting.runs)
    if num_models:
        console.print(
            f"MLflow keeps {num_models} models that had seen it; tagged percepts.takedown.*, to be deleted there"
        )


if __name__ == "__main__":
    run_command(main)
