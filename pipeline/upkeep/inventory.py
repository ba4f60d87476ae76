"""The inventory of a store: the artifacts that list videos, and what is known of each video."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from pipeline.core.disk_list import DiskList
from pipeline.core.files import exists, join, list_directories
from pipeline.engine.store import MANIFEST, Manifest, Store
from stages.downloading.artifacts import DOWNLOADS_NAME, DownloadRecord, iter_downloads
from stages.downloading.link_results import read_results
from stages.percepts.shards import LEDGER_FILE
from stages.percepts.takedowns import with_takedowns
from stages.video.artifacts import INDEX_NAME
from stages.video.ledger import VideoRecord, iter_records
from stages.video.lists.seen import SeenTexts

DOWNLOAD: Final = "download"
"""Name of the stage that downloads."""


def iter_listings(
    store: Store, manifests: Iterable[Manifest], names: tuple[str, ...] = (INDEX_NAME, LEDGER_FILE)
) -> Iterator[tuple[Manifest, Iterator[VideoRecord]]]:
    """Yields the artifacts that hold an index or a ledger, of whatever stage, each with its rows."""
    for manifest in manifests:
        for name in names:
            if name in manifest.outputs:
                yield manifest, iter_records(join(store.directory(manifest.stage, manifest.key), name))


def iter_videos(store: Store) -> Iterator[VideoRecord]:
    """Yields one record for each content and index URI: the newest extraction's, else the newest index's.

    A video that was taken down is rejected, whatever an artifact made before then says of it. In memory are a
    row group of records, and some 20 bytes of each that was yielded.
    """
    manifests = sorted(store.manifests(), key=lambda manifest: (manifest.finished_at, manifest.key), reverse=True)
    seen = SeenTexts()
    listings = (listing for name in (LEDGER_FILE, INDEX_NAME) for listing in iter_listings(store, manifests, (name,)))
    every = (record for _, records in listings for record in records)
    yield from with_takedowns(store.root, (record for record in every if seen.add(f"{record.sha256} {record.uri}")))


def left_out(store: Store) -> list[str]:
    """Returns a sentence on every listing of videos that left something out, the newest last; each once."""
    manifests = sorted(store.manifests(), key=lambda manifest: (manifest.finished_at, manifest.key))
    return list(dict.fromkeys(str(m.facts["left_out"]) for m in manifests if "left_out" in m.facts))


def links_in_work(store: Store) -> Counter[str]:
    """Returns status -> links, of all that the store remembers, where a download is at work or was killed; else none.

    Raises:
        CorruptArtifact: what is remembered of links is damaged.
    """
    keys = list_directories(join(store.root, DOWNLOAD))
    if all(exists(join(store.root, DOWNLOAD, key, MANIFEST)) for key in keys):
        return Counter()
    return Counter({digest: result.status for digest, result in read_results(store.root)}.values())


def iter_links(store: Store) -> Iterator[DownloadRecord]:
    """Yields what became of the links of every download, the last word on each; a download may be unfinished.

    Raises:
        CorruptArtifact: a ledger of links cannot be read.
    """
    latest: dict[tuple[str, str, int], tuple[str, int]] = {}
    records: DiskList[DownloadRecord] = DiskList()
    for key in list_directories(join(store.root, DOWNLOAD)):
        uri = join(store.root, DOWNLOAD, key, DOWNLOADS_NAME)
        for record in iter_downloads(uri) if exists(uri) else ():
            name = (record.link, record.uri, record.line)
            if record.asked_at >= latest.get(name, ("", 0))[0]:
                latest[name] = record.asked_at, len(records)
            records.append(record)
    for _, place in latest.values():
        yield records[place]
