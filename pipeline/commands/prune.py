"""Removes artifacts that no kept run, alias or newer artifact needs, and percepts of videos that are no longer listed.

    percepts prune --keep 4             what would go, by recipe, with sizes; nothing is changed
    percepts prune --keep 4 --remove

Kept are the last runs of each recipe (each --name), models with an alias in MLflow, and all that these were made of.
MLflow's own runs and models are left alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

from pipeline.core.addresses.model_uris import TRACKING_VARIABLE
from pipeline.core.addresses.servers import check_mlflow
from pipeline.core.errors import ConfigError, UsageError
from pipeline.core.files import exists, is_local, join
from pipeline.core.printable import count_of, human_bytes, printable, printable_json
from pipeline.engine.store import DEFAULT_STORE, Store
from pipeline.options.command_line import parse_options
from pipeline.options.flags import Flag

if TYPE_CHECKING:
    from pipeline.upkeep.pruning import Pruning


@dataclass(frozen=True, kw_only=True)
class PruneOptions:
    """Remove what no kept run, alias or newer artifact needs; without --remove, show it only."""

    store: str = DEFAULT_STORE
    """Directory or fsspec URL of the store."""
    keep: int = 4
    """Number of newest successful runs of each recipe, or --name, whose artifacts stay; equal plans count once."""
    plan: bool = False
    """Show what would go, and change nothing, as without --remove."""
    remove: bool = False
    """Remove what is shown."""
    tracking_uri: str | None = None
    """MLflow whose aliases keep models; default: MLFLOW_TRACKING_URI, else that of a local store."""
    aliases: bool = True
    """Keep artifacts whose models have an alias in MLflow; --no-aliases looks at no MLflow."""
    as_json: Annotated[bool, Flag("json")] = False
    """Print one JSON object."""

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ConfigError(f"--keep is {self.keep}; it must be at least 1")
        if self.plan and self.remove:
            raise ConfigError("--plan changes nothing and --remove removes: give one of them")


def main(arguments: Sequence[str]) -> int:
    """Runs `percepts prune`. Returns the exit status.

    Raises:
        UsageError: there is no store, a run goes on in it, or its MLflow is not known or does not answer.
    """
    options = parse_options(PruneOptions, arguments, prog="percepts prune")
    from cluster.run_records import RunRecord, going_on, read_records, recorded
    from pipeline.upkeep.pruning import plan_pruning, prune

    store = Store.open(options.store)
    aliased = _aliased(store, options)
    pruning = plan_pruning(store, read_records(store.root), aliased, options.keep)
    if options.remove and (pruning.artifacts or pruning.shards):
        if running := going_on(store.root):
            raise UsageError(
                f"{running[0].id} goes on in {store.root}, and may use what would go; prune when it has ended"
            )
        with recorded(store.root, RunRecord(id="", name="prune")):
            prune(store, pruning)
    if options.as_json:
        value = asdict(pruning) | {"num_bytes": pruning.num_bytes, "removed": options.remove}
        sys.stdout.write(printable_json(value, indent=1) + "\n")
    else:
        sys.stdout.write("\n".join(map(printable, _lines(pruning, options))) + "\n")
    return 0


def _aliased(store: Store, options: PruneOptions) -> set[str]:
    """Returns the keys of artifacts whose models have an alias. Raises UsageError."""
    if not options.aliases:
        return set()
    uri = options.tracking_uri or os.environ.get(TRACKING_VARIABLE)
    if uri is None and is_local(store.root) and exists(join(store.root, "mlflow.db")):
        uri = store.default_tracking_uri
    if uri is None:
        if any(manifest.mlflow_run_id for manifest in store.manifests()):
            raise UsageError(
                f"runs of {store.root} are in an MLflow whose aliases may keep artifacts: give its --tracking-uri, or "
                "--no-aliases"
            )
        return set()
    check_mlflow(uri)
    from pipeline.engine.tracking.models import aliased_keys

    return aliased_keys(uri)


def _lines(pruning: Pruning, options: PruneOptions) -> Iterator[str]:

    verb = "removed" if options.remove else "would remove"
    for recipe, group in groupby(pruning.artifacts, key=lambda artifact: artifact.recipe):
        artifacts = list(group)
        num_bytes = sum(artifact.num_bytes for artifact in artifacts)
        yield f"{recipe}: {verb} {count_of(len(artifacts), 'artifact')}, {human_bytes(num_bytes)}"
        for artifact in artifacts:
            made = f"made {artifact.finished_at[:16]}  " if artifact.finished_at else ""
            yield f"  {artifact.name}  {artifact.stage}/{artifact.key}  {made}{human_bytes(artifact.num_bytes)}"
    if pruning.shards:
        num_bytes = sum(shard.num_bytes for shard in pruning.shards)
        num_videos = count_of(sum(shard.num_videos for shard in pruning.shards), "video")
        yield f"percepts: {verb} {count_of(len(pruning.shards), 'shard')} of {num_videos}, {human_bytes(num_bytes)}"
    stays = f"{pruning.num_artifacts_kept} artifacts stay, {human_bytes(pruning.bytes_kept)} with their percepts"
    if not pruning.artifacts and not pruning.shards:
        yield f"nothing to prune: {stays}"
    else:
        yield f"{verb} {human_bytes(pruning.num_bytes)} in all; {stays}"
        if not options.remove:
            yield "nothing was removed: add --remove"
