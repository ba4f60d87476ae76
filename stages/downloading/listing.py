"""Lists of links: read once when a run is planned, kept in a file, and looked up by number afterwards.

Shapes: N links.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.disk_list import DiskList
from pipeline.core.errors import SourceError
from pipeline.core.files import read_bytes, sha256_bytes
from pipeline.core.network import NetworkOptions
from pipeline.core.parquet import groups_of, iter_tables
from pipeline.core.secrets import remember
from pipeline.core.stage import Estimate
from stages.downloading.clip_rules import ClipRules, Span
from stages.downloading.forecast import forecast_download
from stages.downloading.link_results import DIGEST_BYTES, LinkResult, link_digest, link_id
from stages.video.archives import is_archive
from stages.video.listing import ParquetListing, decoded, encoded
from stages.video.lists.hosts import host_of
from stages.video.lists.published import Note
from stages.video.lists.reader import discard_note, iter_rows
from stages.video.lists.rows import ListRow, ListRules, without_query
from stages.video.lists.seen import SeenTexts
from stages.video.lists.suffixes import has_video_suffix
from stages.video.record_table import DigestOrder

_NUMBERS: Final = {"line": pa.int64(), "start_s": pa.float64(), "end_s": pa.float64()}
_NAMES: Final = tuple(field.name for field in fields(ListRow))
_SCHEMA: Final = pa.schema([(name, _NUMBERS.get(name, pa.binary())) for name in _NAMES])
"""Columns of a listing. Text is binary, because names need not be UTF-8."""
_NOTES: Final = b"percepts.notes"


class LinkListing(ParquetListing):
    """The rows of lists; its memory use does not grow with them.

    Raises:
        SourceError: a list cannot be read, or has no line that can be used.
    """

    network = NetworkOptions()
    """Manners that the estimate counts with; a recipe sets those of its run."""

    def __init__(
        self,
        links: Sequence[str],
        list_rules: ListRules,
        *,
        salt: str = "",
        rules: ClipRules | None = None,
        hours: float | None = None,
    ) -> None:
        """Reads the lists; the digest also depends on `salt`, which stands for further inputs of the key.

        `rules` and `hours` decide how many of the links are wanted, for the estimate.
        """
        super().__init__()
        self._rules, self._hours = rules or ClipRules(), hours
        self.num_links = self.num_wrong = self.num_of_sites = 0
        self.num_by_part: Counter[str | None] = Counter()
        digest, first_problem = hashlib.sha256(salt.encode()), ""
        for uri in links:
            _check_is_list(uri)
        rows = itertools.chain.from_iterable(iter_rows(uri, list_rules, note=self._notes.append) for uri in links)
        with pq.ParquetWriter(self._file, _SCHEMA, compression="zstd") as writer:
            for batch in groups_of(rows):
                # What is signed anew is the same link, and no signature is written to the listing.
                batch = [row if row.problem else replace(row, uri=remember(row.uri)) for row in batch]
                for row in batch:
                    if row.problem and not self.num_wrong:
                        first_problem = f"{row.uri.rpartition(':')[0]}, {row.problem}"
                    digest.update(json.dumps({name: getattr(row, name) for name in _NAMES}, sort_keys=True).encode())
                    self.num_links += not row.problem
                    self.num_wrong += bool(row.problem)
                    self.num_by_part[row.part] += not row.problem
                    self.num_of_sites += not row.problem and host_of(row.uri)[1]
                columns = {name: [encoded(getattr(row, name)) for row in batch] for name in _NAMES}
                writer.write_table(pa.Table.from_pydict(columns, schema=_SCHEMA))
            if self.num_wrong:
                rule = "each is a row of percepts ledger --why"
                self._notes.append(f"lines that name no usable link: {self.num_wrong} (first {first_problem}); {rule}")
            writer.add_key_value_metadata({_NOTES: json.dumps(self._notes).encode()})
        self._digest = digest.hexdigest()

    @property
    def estimate(self) -> Estimate:
        return forecast_download(self._rules, self._hours, self.num_links, self.num_of_sites, self.network)


def _check_is_list(uri: str) -> None:
    """Raises SourceError for what holds videos, or is one."""
    name = without_query(uri)
    if is_archive(name) or has_video_suffix(name) or os.path.isdir(uri):
        kind = "a folder" if os.path.isdir(uri) else "an archive" if is_archive(name) else "a video"
        raise SourceError(
            f"{name!r} is {kind}, and --links takes lists: give it with --videos, which reads folders, tar shards and "
            "single files as they are, or write addresses into a list, one a line, such as links.txt"
        )


def read_listing(uri: str, note: Note = discard_note) -> Iterator[ListRow]:
    """Yields the rows that a listing wrote; `note` is called with what is to be said of the lists."""
    data = read_bytes(uri)
    for line in json.loads(pq.read_metadata(pa.BufferReader(data)).metadata[_NOTES]):
        note(line)
    for table in iter_tables(data):
        for row in table.to_pylist():
            yield ListRow(**{name: decoded(value) for name, value in row.items()})


class LinkTable:
    """Links on this machine's disk, each once, with some forty bytes of each in memory."""

    def __init__(
        self,
        rows: Iterable[ListRow],
        rules: ClipRules,
        *,
        max_height: int,
        pinned: Mapping[str, tuple[Span, ...]] | None,
        by_seed: bool,
    ) -> None:
        """Keeps the rows that can be used: with `pinned` (by `link_id`), those alone.

        Raises:
            SourceError: a pinned link is not in the lists.
        """
        self._rows: DiskList[ListRow] = DiskList()
        self.wrong: DiskList[ListRow] = DiskList()
        """Rows with a problem."""
        self.num_of_sites = 0
        """Links to sites such as YouTube."""
        self.pinned = pinned
        self._rules, self._max_height = rules, max_height
        raw, ranks, seen = bytearray(), array("Q"), SeenTexts()
        for row in rows:
            if row.problem:
                self.wrong.append(row)
                continue
            if pinned is not None and link_id(row) not in pinned:
                continue
            digest = link_digest(row, rules, max_height, self.pinned_spans(row))
            if not seen.add(digest.hex()):
                continue
            self._rows.append(row)
            self.num_of_sites += host_of(row.uri)[1]
            raw += digest
            ranks.append(int(sha256_bytes(f"{rules.seed} {digest.hex()}".encode())[:16], 16))
        self.digest_N = np.frombuffer(raw, f"S{DIGEST_BYTES}")
        self.order_N: npt.NDArray[np.int64] = (
            np.argsort(np.frombuffer(ranks, np.uint64), kind="stable")
            if by_seed and len(ranks)
            else np.arange(len(ranks))
        )
        """Numbers of the links in the order in which they are requested."""
        if pinned is not None and len(self._rows) < len(pinned):
            raise SourceError(
                f"{len(pinned) - len(self._rows)} of the {len(pinned)} links of --pin are not in the lists: give the "
                "lists of that run with --links"
            )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> ListRow:
        return self._rows[number]

    def pinned_spans(self, row: ListRow) -> tuple[Span, ...] | None:
        """Returns the clips that an earlier run took of a link; None where none are pinned."""
        return self.pinned[link_id(row)] if self.pinned is not None else None

    def digest(self, number: int) -> bytes:
        """Returns the digest of a link (`results.link_digest`)."""
        return self.digest_N[number : number + 1].tobytes()

    def recalled(self, known: Iterable[tuple[bytes, LinkResult]]) -> Iterator[tuple[int, LinkResult]]:
        """Yields (number, result) of the links among `known`, each once: as it was when it was last requested."""
        order = DigestOrder(self.digest_N)
        latest: dict[int, str] = {}
        results: DiskList[LinkResult] = DiskList()
        place_of: dict[int, int] = {}
        for batch in groups_of(known):
            digest_U = np.frombuffer(b"".join(digest for digest, _ in batch), f"S{DIGEST_BYTES}")
            for number, (_, result) in zip(order.find(digest_U).tolist(), batch, strict=True):
                if number >= 0 and result.asked_at >= latest.get(number, ""):
                    latest[number], place_of[number] = result.asked_at, len(results)
                    results.append(result)
        for number, place in place_of.items():
            yield number, results[place]
