"""Lists what MLflow did not take of the runs of a store, and sends it.

percepts track
percepts track --resend
percepts track --resend --tracking-uri http://mlflow:5000
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.core.addresses.model_uris import TRACKING_VARIABLE
from pipeline.core.addresses.servers import check_mlflow
from pipeline.core.secrets import public
from pipeline.engine.store import DEFAULT_STORE, Store
from pipeline.options.command_line import parse_options

if TYPE_CHECKING:
    from pipeline.core.outbox import OutboxHead


@dataclass(frozen=True, kw_only=True)
class TrackOptions:
    """List what MLflow lacks of the runs of a store, because it did not answer, and send it."""

    store: str = DEFAULT_STORE
    """Directory or fsspec URL of the store."""
    resend: bool = False
    """Send what is missing; what MLflow takes is removed from the store."""
    tracking_uri: str | None = None
    """MLflow tracking server or database that everything is sent to; default: the one that each run was made with."""


def main(arguments: Sequence[str]) -> int:
    """Runs `percepts track`. Returns the exit status: 1 if something is still missing after --resend."""
    options = parse_options(TrackOptions, arguments, prog="percepts track")
    from pipeline.core.outbox import unsent

    store = Store.open(options.store)
    boxes = unsent(store.root)
    if not options.resend or not boxes:
        for box in boxes.values():
            to = box.address or "the store's own MLflow"
            print(f"{box.started_at}  {box.experiment}: {to} lacks {box.num_missing} entries ({box.reason})")
        print("MLflow has everything of this store" if not boxes else "percepts track --resend sends them")
        return 0
    if options.tracking_uri is not None:
        check_mlflow(options.tracking_uri)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pipeline.engine.tracking.client import resend
    ended = {uri: (box, _address(store, box, options)) for uri, box in boxes.items() if not box.lives}
    line = resend(store, ended)
    if len(ended) < len(boxes):
        print(f"{len(boxes) - len(ended)} runs go on: what MLflow lacks of them is sent when they end")
    print(line or "MLflow has everything of the runs that have ended", file=sys.stderr if line else sys.stdout)
    return 1 if line else 0


def _address(store: Store, box: OutboxHead, options: TrackOptions) -> str:
    """Returns the address that a box is sent to, with the secrets that it needs. Raises UsageError."""
    if options.tracking_uri is not None:
        return options.tracking_uri
    named = os.environ.get(TRACKING_VARIABLE, "")
    if box.address and public(named) == box.address:
        return named
    return box.address or store.default_tracking_uri
