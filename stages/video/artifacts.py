"""Artifacts about videos: a made corpus, and the index of a source."""

from __future__ import annotations

import csv
import io
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import pyarrow as pa

from pipeline.core.files import absolute, join, open_atomic
from pipeline.core.records import column_types
from pipeline.core.result_metrics import ResultMetrics
from pipeline.core.stage import Artifact, Context
from stages.video.ledger import VideoRecord, iter_records, read_tables, same_but_words

MANIFEST_NAME = "manifest.csv"
INDEX_NAME = "index.parquet"
UNPACKED, FILES, DIGITS = "unpacked", "files", 16
"""Unpacked videos lie in <store>/unpacked/<hex digits of the archive's digest>/files."""
TO_LOOK_AT: Final = "num_to_look_at_again"
"""The fact that says how many videos of an artifact the next run looks at again; absent where there are none."""
NUM_WITHOUT_STAMP: Final = "num_without_stamp"
"""The fact that says how many videos have neither an etag nor a time, which would show that they have changed."""


@dataclass(frozen=True)
class Corpus(Artifact):
    """Videos that a stage made, with `manifest.csv`: columns uri (relative to the corpus), label, part, group."""

    holds = "files"

    @property
    def manifest_uri(self) -> str:
        """The manifest, as `stages.video.sources.list_videos` takes it."""
        return self.path(MANIFEST_NAME)


def is_top_of_archive(folder: str) -> bool:
    """Returns whether a folder is that of the members that are in no folder of their archive."""
    return re.search(rf"/{UNPACKED}/[0-9a-f]{{{DIGITS}}}/{FILES}$", folder) is not None


def write_manifest(context: Context, columns: Sequence[str], rows: Iterable[Mapping[str, str | None]]) -> None:
    """Writes `manifest.csv`; what a row lacks is empty. URIs below the store become relative: it may be moved."""
    store = absolute(context.store_uri).rstrip("/")
    up = posixpath.relpath(store, absolute(context.uri))
    with open_atomic(join(context.uri, MANIFEST_NAME)) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            uri = row["uri"] or ""
            is_inside = uri.startswith(f"{store}/")
            writer.writerow({**row, "uri": posixpath.join(up, uri[len(store) + 1 :]) if is_inside else uri})
        text.flush()
        text.detach()


@dataclass(frozen=True)
class Index(Artifact):
    """`index.parquet`: one row a video of a source, with its content hash and what probing found."""

    holds = "names"
    columns = column_types(VideoRecord)

    def records(self) -> list[VideoRecord]:
        """Returns the rows in the source's order, with absolute URIs.

        Frame counts other than `frames_expected` are None.
        """
        return list(self.iter_records())

    def iter_records(self) -> Iterator[VideoRecord]:
        """Yields the rows one after the other, so that an index of any length takes little memory."""
        return iter_records(self.path(INDEX_NAME))

    def tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yields some columns, a row group at a time. Raises as `stages.video.ledger.read_tables`."""
        return read_tables(self.path(INDEX_NAME), columns)

    def metrics(self, facts: Mapping[str, int | float | str]) -> ResultMetrics:
        """Returns the number of videos, their hours, and the frames that they promise."""
        values = {f"videos/{name}": float(facts[name]) for name in ("num_videos", "num_frames") if name in facts}
        if "seconds_of_video" in facts:
            values["videos/hours"] = float(facts["seconds_of_video"]) / 3600
        return ResultMetrics(values=values)

    def num_to_look_at(self, facts: Mapping[str, int | float | str], *, all_rejected: bool = False) -> int:
        """Returns how many videos could not be read; or how many are rejected, or might have changed unseen."""
        names = ("num_rejected", NUM_WITHOUT_STAMP) if all_rejected else (TO_LOOK_AT,)
        return sum(int(facts.get(name, 0)) for name in names)

    def has_same_videos(self, other: Self) -> bool:
        """Returns whether both have the same rows; a rejected video may be rejected in other words."""
        return same_but_words(self.iter_records(), other.iter_records())
