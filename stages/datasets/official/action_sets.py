"""The two data sets by their names on the command line, and the messages about missing clips."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from pipeline.core.errors import ConfigError, DataSetError
from pipeline.core.files import join, sha256_bytes, write_json
from pipeline.core.stage import Context
from stages.datasets.official import hmdb51, ucf101
from stages.datasets.official.clips import DataSet, OfficialClip

DataSetKey = Literal["ucf101", "hmdb51"]
DATA_SETS: Final[dict[str, tuple[DataSet, Callable[[str], tuple[OfficialClip, ...]]]]] = {
    "ucf101": (ucf101.UCF101, ucf101.read_clips),
    "hmdb51": (hmdb51.HMDB51, hmdb51.read_clips),
}
"""Key -> the data set, and the function that reads its lists."""

CHECK_FILE: Final = "check.json"
"""File of an artifact with every name that a check reports."""
NUM_NAMED: Final = 5
"""Clips that a message names, of those it counts."""


@dataclass(frozen=True, kw_only=True)
class ActionSetConfig:
    """A data set of action recognition, its lists, and the rule about missing clips."""

    dataset: DataSetKey
    lists: str
    """Folder or archive with the official list files."""
    allow_missing: bool = False
    """Continue with the clips that are there; every result then states their number."""

    def __post_init__(self) -> None:
        if self.dataset not in DATA_SETS:
            raise ConfigError(f"dataset is {self.dataset!r}; it must be one of {', '.join(DATA_SETS)}")
        if not self.lists:
            raise ConfigError("lists is empty; give the folder or archive of the official list files: --lists")

    @property
    def data(self) -> DataSet:
        """The data set as its authors published it."""
        return DATA_SETS[self.dataset][0]

    def read_clips(self) -> tuple[OfficialClip, ...]:
        """Reads the clips of the official lists. Raises SourceError."""
        return DATA_SETS[self.dataset][1](self.lists)

    def lists_digest(self) -> str:
        """Returns the sha256 of the content of the lists. Raises SourceError."""
        # The text is that of version 0.1, so that the keys of stages that read the lists stay as they are.
        rows = (
            f"OfficialClip(name={clip.name!r}, label={clip.label!r}, source={clip.source!r}, group={clip.group!r}, "
            f"sides={clip.subsets!r})"
            for clip in self.read_clips()
        )
        return sha256_bytes(f"({', '.join(rows)})".encode())


def some(names: Sequence[str]) -> str:
    """Writes the first few names, and the number of the others."""
    more = f", and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
    return ", ".join(names[:NUM_NAMED]) + more


def missing_line(data: DataSet, missing: Sequence[str]) -> str:
    """Writes a sentence about clips that no video has."""
    return f"{len(missing)} of {data.num_clips} clips are missing ({some(missing)})"


def report_check(
    config: ActionSetConfig, context: Context, account: Mapping[str, Any], *, num_videos: int, lines: Sequence[str]
) -> None:
    """Writes the account of a check to `check.json`, and logs its lines.

    account: every name that the check reports, and how many clips were `found` among `num_videos` videos.

    Raises:
        DataSetError: no clip is there, or `lines` name missing ones without `allow_missing`.
    """
    data, check = config.data, join(context.uri, CHECK_FILE)
    write_json(check, account)
    if not account["found"]:
        raise DataSetError(
            f"none of the {data.num_clips} clips of {data.name} is among the {num_videos} videos given",
            data.instructions,
        )
    if lines and not config.allow_missing:
        raise DataSetError(
            f"{data.name} is not whole: {'; '.join(lines)}. Complete it, or give --allow-missing. All names: {check}",
            data.instructions,
        )
    for line in lines:
        context.log(f"warning: {data.name}: {line}")
