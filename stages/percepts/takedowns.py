"""Videos that were taken down: none of their percepts may be in the store, and no run makes them again.

    <store>/takedowns/<sha256 of the video>.json

The name alone decides; what is in the file says when, why and what had seen the video by then.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Final

from pipeline.core.errors import CorruptArtifact
from pipeline.core.files import join, list_files, read_many, write_json
from stages.percepts.shards import VideoResult
from stages.video.ledger import VideoRecord

DIRECTORY: Final = "takedowns"


@dataclass(frozen=True, kw_only=True)
class Takedown:
    """One video that was taken down."""

    video: str
    """sha256 of the file's bytes."""
    at: str
    """UTC, ISO 8601."""
    reason: str = ""
    uris: tuple[str, ...] = ()
    """URIs of the video in the indexes of the store; relative to the store where it lies in it."""
    seen_by: tuple[str, ...] = ()
    """Artifacts that were made of it, as stage/key."""


def read_takedowns(store_uri: str) -> dict[str, Takedown]:
    """Reads the takedowns, by sha256 of the video.

    Raises:
        CorruptArtifact: a file of the directory is not a takedown.
    """
    folder = join(store_uri, DIRECTORY)
    names = [name for name in list_files(folder) if name.endswith(".json")]
    data_of_uri = read_many([join(folder, name) for name in names])
    takedowns = {}
    for uri, data in data_of_uri.items():
        takedown = parse_takedown(data, uri)
        takedowns[takedown.video] = takedown
    return takedowns


def parse_takedown(data: bytes, uri: str) -> Takedown:
    """Parses a takedown. Raises CorruptArtifact."""
    try:
        value = json.loads(data)
        takedown = Takedown(**{**value, "uris": tuple(value["uris"]), "seen_by": tuple(value["seen_by"])})
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptArtifact(f"{uri} is not a takedown ({error}); take the video of its name down again") from error
    if not uri.endswith(f"/{takedown.video}.json"):
        raise CorruptArtifact(f"{uri} names another video, {takedown.video}; take the video of its name down again")
    return takedown


def taken_down(store_uri: str) -> frozenset[str]:
    """Returns the sha256 of every video that was taken down: one listing, nothing read."""
    names = list_files(join(store_uri, DIRECTORY))
    return frozenset(name.removesuffix(".json") for name in names if name.endswith(".json"))


def write_takedown(store_uri: str, takedown: Takedown) -> None:
    """Declares the video taken down: from then on no run extracts it, and no reader shows it."""
    write_json(join(store_uri, DIRECTORY, f"{takedown.video}.json"), asdict(takedown))


def with_takedowns(store_uri: str, records: Iterable[VideoRecord]) -> Iterator[VideoRecord]:
    """Yields the records; a video that was taken down is rejected, whatever was written of it before."""
    takedowns = read_takedowns(store_uri)
    for record in records:
        takedown = takedowns.get(record.sha256)
        result = takedown_result(record.frames_expected, takedown) if takedown else None
        yield replace(record, **result.ledger_fields()) if result else record


def takedown_result(frames_expected: int, takedown: Takedown) -> VideoResult:
    """Returns the result of a video that was taken down: all frames left out on purpose."""
    return VideoResult(
        frames_expected=frames_expected,
        frames_decoded=0,
        frames_dropped=frames_expected,
        frames_missing=0,
        verdict="rejected",
        reason=f"taken down {takedown.at[:10]}" + (f": {takedown.reason}" if takedown.reason else ""),
    )
