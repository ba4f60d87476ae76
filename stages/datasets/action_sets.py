"""The two data sets by their names on the command line, and how their clips are spoken of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal

from pipeline.core.errors import ConfigError, DataSetError
from pipeline.core.files import sha256_bytes
from stages.datasets import hmdb51, ucf101
from stages.datasets.official import DataSet, OfficialClip

DataSetKey = Literal["ucf101", "hmdb51"]
DATA_SETS: Final[dict[str, tuple[DataSet, Callable[[str], tuple[OfficialClip, ...]]]]] = {
    "ucf101": (ucf101.UCF101, ucf101.read_clips),
    "hmdb51": (hmdb51.HMDB51, hmdb51.read_clips),
}
"""Key -> the data set, and what reads its lists."""

CHECK_FILE: Final = "check.json"
"""In an artifact: every name that a check has found wanting."""
NUM_NAMED: Final = 5
"""Clips that a message names, of those it counts."""


def check_named(dataset: str, lists: str) -> None:
    """Raises ConfigError: there is no such data set, or nobody said where its lists are."""
    if dataset not in DATA_SETS:
        raise ConfigError(f"dataset is {dataset!r}; it must be one of {', '.join(DATA_SETS)}")
    if not lists:
        raise ConfigError("lists is empty; give the folder or archive of the official list files: --lists")


def lists_digest(dataset: str, lists: str) -> str:
    """Digest of what the lists say. Raises SourceError."""
    _, read_clips = DATA_SETS[dataset]
    return sha256_bytes(repr(read_clips(lists)).encode())


def some(names: Sequence[str]) -> str:
    """The first few of them."""
    more = f", and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
    return ", ".join(names[:NUM_NAMED]) + more


def missing_line(data: DataSet, missing: Sequence[str]) -> str:
    """A sentence about clips that no video has."""
    return f"{len(missing)} of {data.num_clips} clips are missing ({some(missing)})"


def check_there(
    data: DataSet, *, num_found: int, num_videos: int, lines: Sequence[str], allow_missing: bool, check: str
) -> None:
    """Raises DataSetError: no clip is among the videos, or some are wanting, as `lines` say, and that is not allowed.

    check: the file with all names.
    """
    if not num_found:
        raise DataSetError(
            f"none of the {data.num_clips} clips of {data.name} is among the {num_videos} videos given",
            data.instructions,
        )
    if lines and not allow_missing:
        raise DataSetError(
            f"{data.name} is not whole: {'; '.join(lines)}. Complete it, or give --allow-missing. All names: {check}",
            data.instructions,
        )
