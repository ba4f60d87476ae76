"""The two data sets by their names on the command line, and how their clips are spoken of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal

from pipeline.files import sha256_bytes
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


def not_whole(data: DataSet, lines: Sequence[str], check: str) -> str:
    """Why a data set is refused, and what to do. check: the file with all names."""
    return f"{data.name} is not whole: {'; '.join(lines)}. Complete it, or give --allow-missing. All names: {check}"
