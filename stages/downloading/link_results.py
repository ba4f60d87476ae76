"""The results of links, their statuses, and the store's memory of them, which makes resuming a matter of links.

    <store>/downloaded/links/<digits>.jsonl         links of a batch, each written as soon as it is known
    <store>/downloaded/links/<16 digits>.parquet    those of a round
    <store>/downloaded/clips/ab/<sha256>.mp4        clips, by content

A link that was downloaded, or is gone for good, is not requested again by any run; one that was blocked or
failed is, by the next run.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import CorruptArtifact
from pipeline.core.files import (
    absolute,
    exists,
    is_local,
    join,
    list_files,
    open_atomic,
    read_bytes,
    read_many,
    remove,
    sha256_bytes,
    write_bytes,
)
from pipeline.core.parquet import iter_tables
from stages.downloading.clip_rules import ClipRules, Span
from stages.video.ledger import SCHEMA, VideoRecord
from stages.video.lists.rows import ListRow

Status = Literal[
    "downloaded", "gone", "private", "region", "age", "too short", "unusable", "duplicate", "blocked", "failed"
]
ASKED_AGAIN: Final = frozenset({"blocked", "failed"})
"""Statuses of links that the next run requests again."""

DOWNLOADED: Final = "downloaded"
"""The directory of links and clips, below the store's root."""
LINKS: Final = f"{DOWNLOADED}/links"
CLIPS: Final = f"{DOWNLOADED}/clips"

DIGEST_BYTES: Final = 16
"""Bytes of the digest of a link."""


@dataclass(frozen=True, kw_only=True)
class ClipResult:
    """A clip that was downloaded."""

    span: Span
    record: VideoRecord
    """The facts about its file, as ingest would find them."""


@dataclass(frozen=True, kw_only=True)
class LinkResult:
    """The result of a link, the last time that it was requested."""

    status: Status
    reason: str = ""
    asked_at: str = ""
    """Time in UTC, ISO 8601; empty where it was not requested, since its host had refused."""
    num_requests: int = 0
    num_bytes: int = 0
    """Bytes that came over the network."""
    clips: tuple[ClipResult, ...] = ()
    refused_host: str = ""
    """Host that this run requests no more since this link; it is said once, and not kept."""


def link_digest(row: ListRow, rules: ClipRules, max_height: int, pinned: Sequence[Span] | None = None) -> bytes:
    """Returns the digest of all that decides what is downloaded for a link."""
    chosen = rules.identity if pinned is None else ["pinned", *pinned]
    value = [row.uri, row.start_s, row.end_s, chosen, max_height]
    return bytes.fromhex(sha256_bytes(json.dumps(value).encode()))[:DIGEST_BYTES]


def link_id(row: ListRow) -> str:
    """Returns hex digits that stand for the line's video and seconds, by which ledgers are matched with lists."""
    return sha256_bytes(json.dumps([row.uri, row.start_s, row.end_s]).encode())[: 2 * DIGEST_BYTES]


_KEPT: Final = tuple(field.name for field in fields(LinkResult) if field.name not in ("clips", "refused_host"))
_SCHEMA: Final = pa.schema(
    [
        pa.field("link", pa.binary(DIGEST_BYTES), nullable=False),
        pa.field("result", pa.string(), nullable=False),
    ]
)


class BatchLog:
    """The results of a batch of links, written as each is known: a process that is killed loses none of them."""

    def __init__(self, store_uri: str, name: str) -> None:
        """Opens the log of a batch, with what a worker that died has written to it."""
        self._store_uri = store_uri
        self._uri = join(store_uri, LINKS, f"{name}.jsonl")
        data = read_bytes(self._uri) if exists(self._uri) else b""
        self._file: BinaryIO | None = None
        """The log on this machine, at its end: opening it costs more than what a link writes."""
        if is_local(store_uri):
            path = Path(absolute(self._uri))
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = cast(BinaryIO, open(path, "ab", buffering=0))  # noqa: SIM115  # `close` closes it
        self._lines = [line + b"\n" for line in data.splitlines() if _is_whole(line)]
        self._lock = threading.Lock()

    def known(self) -> dict[bytes, LinkResult]:
        """Returns the results that are there."""
        return dict(_parsed(line, self._store_uri) for line in self._lines)

    def add(self, digest: bytes, result: LinkResult) -> None:
        """Writes what became of a link, at once. Any thread may call it."""
        value = {"link": digest.hex(), "result": _to_json(result, self._store_uri)}
        line = json.dumps(value).encode() + b"\n"
        with self._lock:
            self._lines.append(line)
            if self._file is None:
                write_bytes(self._uri, b"".join(self._lines))
            else:
                self._file.write(line)

    def close(self) -> None:
        """Ends the log."""
        if self._file is not None:
            self._file.close()


def _is_whole(line: bytes) -> bool:
    return line.endswith(b"}}")


def _parsed(line: bytes, store_uri: str) -> tuple[bytes, LinkResult]:
    value = json.loads(line)
    return bytes.fromhex(value["link"]), _from_json(value["result"], store_uri)


def write_round(store_uri: str, results: Sequence[tuple[bytes, LinkResult]], batches: Iterable[str]) -> None:
    """Writes the results of a round as one file, and removes the logs of its batches."""
    if results:
        digests = [digest for digest, _ in results]
        columns = {"link": digests, "result": [json.dumps(_to_json(each, store_uri)) for _, each in results]}
        name = sha256_bytes(b"".join(digests) + json.dumps(columns["result"]).encode())[:16]
        with open_atomic(join(store_uri, LINKS, f"{name}.parquet")) as file:
            pq.write_table(pa.Table.from_pydict(columns, schema=_SCHEMA), file, compression="zstd")
    for batch in batches:
        remove(join(store_uri, LINKS, f"{batch}.jsonl"))


def read_results(store_uri: str) -> Iterator[tuple[bytes, LinkResult]]:
    """Yields every link that the store knows, with its result; several where it was requested several times.

    Raises:
        CorruptArtifact: a file is damaged.
    """
    directory = join(store_uri, LINKS)
    names = list_files(directory)
    for name in names:
        if name.endswith(".parquet"):
            try:
                for table in iter_tables(read_bytes(join(directory, name))):
                    for row in table.to_pylist():
                        yield row["link"], _from_json(json.loads(row["result"]), store_uri)
            except (pa.ArrowInvalid, OSError, ValueError, KeyError, TypeError) as error:
                raise CorruptArtifact(f"{join(directory, name)} is damaged ({error}); remove it") from error
    logs = [join(directory, name) for name in names if name.endswith(".jsonl")]
    for uri, data in read_many(logs).items():
        try:
            # A last line without its end is of a process that was killed while it wrote.
            yield from (_parsed(line, store_uri) for line in data.splitlines() if _is_whole(line))
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptArtifact(f"{uri} is damaged ({error}); remove it") from error


def _to_json(result: LinkResult, store_uri: str) -> dict[str, Any]:
    # By hand: dataclasses.asdict takes a millisecond.
    value = {name: getattr(result, name) for name in _KEPT}
    value["clips"] = [
        {"span": clip.span, "record": {name: getattr(clip.record, name) for name in SCHEMA.names}}
        for clip in result.clips
    ]
    for clip in value["clips"]:
        # Relative, so that a store may be moved.
        clip["record"]["uri"] = clip["record"]["uri"].removeprefix(join(store_uri, CLIPS) + "/")
    return value


def _from_json(value: dict[str, Any], store_uri: str) -> LinkResult:
    clips = []
    for clip in value["clips"]:
        record, span = VideoRecord(**clip["record"]), clip["span"]
        if "://" not in record.uri and not record.uri.startswith("/"):
            record = replace(record, uri=join(store_uri, CLIPS, record.uri))
        clips.append(ClipResult(span=None if span is None else (span[0], span[1]), record=record))
    return LinkResult(**{**value, "clips": tuple(clips)})


def clip_uri(store_uri: str, sha256: str, suffix: str) -> str:
    """Returns the place of a clip in the store."""
    return join(store_uri, CLIPS, sha256[:2], sha256 + suffix)


def is_deleted_clip(uri: str) -> bool:
    """Returns whether a video is a clip of a download that was deleted once its percepts were made."""
    return f"/{CLIPS}/" in uri and not exists(uri)


def is_kept_clip(store_uri: str, uri: str) -> bool:
    """Returns whether a clip's file lies in the store, and not where a list named it."""
    return uri.startswith(join(store_uri, CLIPS) + "/")
