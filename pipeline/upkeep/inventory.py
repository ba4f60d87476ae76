"""The inventory of a store: what it knows of every video."""

from __future__ import annotations

from pipeline.core.files import exists, join
from pipeline.engine.store import Store
from stages.percepts.shards import LEDGER_FILE
from stages.video.artifacts import INDEX_NAME
from stages.video.ledger import VideoRecord, read_records


def videos(store: Store) -> list[VideoRecord]:
    """Returns one record for each content and index URI, sorted by URI: the newest extraction's, else the index's."""
    newest: dict[tuple[str, str], VideoRecord] = {}
    for stage, name in (("ingest", INDEX_NAME), ("extract", LEDGER_FILE)):
        for manifest in sorted(store.manifests(stage), key=lambda manifest: (manifest.finished_at, manifest.key)):
            uri = join(store.directory(stage, manifest.key), name)
            # An extraction may have been made of something other than an index and keep no ledger.
            if stage == "ingest" or exists(uri):
                newest.update({(record.sha256, record.uri): record for record in read_records(uri)})
    return [newest[key] for key in sorted(newest, key=lambda key: (key[1], key[0]))]
