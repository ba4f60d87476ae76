"""What the official lists of an action recognition data set say of one clip, and where list files are read from.

A data set's own module (`ucf101`, `hmdb51`) turns its list files into `OfficialClip`s and refuses lists that are not
the official ones.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.core.errors import SourceError
from pipeline.core.files import filesystem, local_copy
from stages.video.archives import ArchiveLimits, is_archive, iter_members

Side = Literal["train", "test"]

MAX_LIST_BYTES = 1 << 20
"""Of one list file; the longest official one has 0.5 MB."""
MAX_LISTS_BYTES = 64 << 20
"""Of all lists in an archive, unpacked."""
RULE = "give the folder or archive of the official lists"


@dataclass(frozen=True, kw_only=True)
class OfficialClip:
    """One clip of a data set."""

    name: str
    """File name without its suffix. Files are matched by it whatever their folder, suffix or case."""
    label: str
    source: str
    """The footage that the clip was cut from. No source is in both training and validation."""
    group: str
    """What the official splits never divide into training and test: the clips of one class from one source."""
    sides: tuple[Side | None, ...]
    """Side in each official split, the first split first; None where a split leaves the clip out."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set as its authors published it."""

    key: str
    """As on the command line: ucf101."""
    name: str
    """As in print: UCF-101."""
    num_clips: int
    counts: tuple[tuple[int, int], ...]
    """Training and test clips of each official split."""
    instructions: str
    """What to put where: official files, their sizes, the command."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """The official splits: (1, 2, 3)."""
        return tuple(range(1, len(self.counts) + 1))


def list_files(uri: str, wanted: re.Pattern[str]) -> dict[str, str]:
    """Texts of the list files at `uri`, a folder or archive of any depth on any fsspec URL, by their names.

    wanted: what a whole file name must match.

    Raises:
        SourceError: there is nothing at `uri`, it cannot be read, it holds no such file, or two of one name.
    """

    def is_wanted(path: str) -> bool:
        return wanted.fullmatch(posixpath.basename(path)) is not None

    try:
        found = _in_archive(uri, is_wanted) if is_archive(uri) else _in_folder(uri, is_wanted)
    except OSError as error:
        raise SourceError(f"cannot read the lists {uri!r}: {error}; {RULE}") from error
    if not found:
        raise SourceError(f"{uri!r} holds no list files ({wanted.pattern}); {RULE}")
    texts: dict[str, str] = {}
    for path, data in found:
        if len(data) > MAX_LIST_BYTES:
            raise SourceError(f"{path} in {uri!r} has over {MAX_LIST_BYTES} bytes: no official list is so long")
        name, text = posixpath.basename(path), data.decode("utf-8", "replace")
        if texts.setdefault(name, text) != text:
            raise SourceError(f"{uri!r} holds two different files {name!r}; give the folder of one set of lists")
    return texts


def _in_folder(uri: str, is_wanted: Callable[[str], bool]) -> list[tuple[str, bytes]]:
    fs, path = filesystem(uri)
    if not fs.isdir(path):
        raise SourceError(f"there is no folder {uri!r}; {RULE}")
    return [(name, fs.cat_file(name, end=MAX_LIST_BYTES + 1)) for name in sorted(filter(is_wanted, fs.find(path)))]


def _in_archive(uri: str, is_wanted: Callable[[str], bool]) -> list[tuple[str, bytes]]:
    limits = ArchiveLimits(max_bytes=MAX_LISTS_BYTES)
    with local_copy(uri) as path:
        return [(member.path, b"".join(member.chunks)) for member in iter_members(path, is_wanted, limits)]


def check_official(data: DataSet, clips: Sequence[OfficialClip]) -> None:
    """Whether `clips` have the counts of the official lists, and no two of them a name in common.

    Raises:
        SourceError: they do not; the message says which count is wrong.
    """
    rule = f"give the official lists of {data.name}, unchanged"
    names = Counter(clip.name.casefold() for clip in clips)
    if len(names) != len(clips):
        raise SourceError(f"the lists name {names.most_common(1)[0][0]!r} more than once; {rule}")
    if len(clips) != data.num_clips:
        raise SourceError(f"the lists name {len(clips)} clips, {data.name} has {data.num_clips}; {rule}")
    for number, official in zip(data.numbers, data.counts, strict=True):
        sides = Counter(clip.sides[number - 1] for clip in clips)
        if (sides["train"], sides["test"]) != official:
            raise SourceError(
                f"split {number} of the lists has {sides['train']} training and {sides['test']} test clips, that of "
                f"{data.name} {official[0]} and {official[1]}; {rule}"
            )


def numbered(texts: Mapping[str, str], pattern: re.Pattern[str]) -> dict[tuple[str, ...], list[str]]:
    """Lines of the list files whose name `pattern` matches, by its groups; without line endings and empty lines."""
    found = {}
    for name, text in texts.items():
        match = pattern.fullmatch(name)
        if match:
            # Not str.splitlines: it also splits at characters that names may hold.
            found[match.groups()] = [line.strip() for line in text.split("\n") if line.strip()]
    return found
