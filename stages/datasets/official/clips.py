"""The clips of an action recognition data set's official lists: list files are read, and videos matched with clips.

A data set's own module (`ucf101`, `hmdb51`) turns its list files into `OfficialClip`s and refuses lists that are not
the official ones. Videos are matched with clips by file name, whatever the folder, the suffix or the case of the file:
copies of UCF-101 spell `HandStandPushups` both ways, and clips are often converted to other containers.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.core.errors import SourceError
from pipeline.core.files import filesystem, local_copy, reaching
from stages.video.archives import ArchiveLimits, is_archive, iter_members
from stages.video.ledger import VideoRecord

Subset = Literal["train", "test"]
"""The subset of an official split that a clip belongs to."""

MAX_LIST_BYTES = 1 << 20
"""Largest size of one list file; the longest official one has 0.5 MB."""
MAX_LISTS_BYTES = 64 << 20
"""Largest total size of the lists in an archive, unpacked."""
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
    """The clips of one class from one source, which the official splits never divide into training and test."""
    subsets: tuple[Subset | None, ...]
    """Subset in each official split, the first split first; None where a split leaves the clip out."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set as its authors published it."""

    key: str
    """Name on the command line: ucf101."""
    name: str
    """Name in print: UCF-101."""
    num_clips: int
    counts: tuple[tuple[int, int], ...]
    """Training and test clips of each official split."""
    instructions: str
    """Official files, their sizes, the place for them, and the command that reads them."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of the official splits: (1, 2, 3)."""
        return tuple(range(1, len(self.counts) + 1))


def list_files(uri: str, wanted: re.Pattern[str]) -> dict[str, str]:
    """Reads the list files at `uri`, a folder or archive of any depth on any fsspec URL; returns name -> text.

    wanted: the pattern of a whole file name.

    Raises:
        SourceError: there is nothing at `uri`, it cannot be read, it holds no such file, or two of one name.
    """

    def is_wanted(path: str) -> bool:
        return wanted.fullmatch(posixpath.basename(path)) is not None

    try:
        list_bytes = _in_archive(uri, is_wanted) if is_archive(uri) else _in_folder(uri, is_wanted)
    except OSError as error:
        raise SourceError(f"cannot read the lists {uri!r}: {error}; {RULE}") from error
    if not list_bytes:
        raise SourceError(f"{uri!r} holds no list files ({wanted.pattern}); {RULE}")
    texts: dict[str, str] = {}
    for path, data in list_bytes:
        if len(data) > MAX_LIST_BYTES:
            raise SourceError(f"{path} in {uri!r} has over {MAX_LIST_BYTES} bytes: no official list is so long")
        name, text = posixpath.basename(path), data.decode("utf-8", "replace")
        if texts.setdefault(name, text) != text:
            raise SourceError(f"{uri!r} holds two different files {name!r}; give the folder of one set of lists")
    return texts


def _in_folder(uri: str, is_wanted: Callable[[str], bool]) -> list[tuple[str, bytes]]:
    fs, path = filesystem(uri)
    with reaching(uri):
        if not fs.isdir(path):
            raise SourceError(f"there is no folder {uri!r}; {RULE}")
        return [(name, fs.cat_file(name, end=MAX_LIST_BYTES + 1)) for name in sorted(filter(is_wanted, fs.find(path)))]


def _in_archive(uri: str, is_wanted: Callable[[str], bool]) -> list[tuple[str, bytes]]:
    limits = ArchiveLimits(max_bytes=MAX_LISTS_BYTES)
    with local_copy(uri) as path:
        return [(member.path, b"".join(member.chunks)) for member in iter_members(path, is_wanted, limits)]


def check_official(data: DataSet, clips: Sequence[OfficialClip]) -> None:
    """Checks that `clips` have the counts of the official lists, and that no two of them share a name.

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
        counts = Counter(clip.subsets[number - 1] for clip in clips)
        if (counts["train"], counts["test"]) != official:
            raise SourceError(
                f"split {number} of the lists has {counts['train']} training and {counts['test']} test clips, that of "
                f"{data.name} {official[0]} and {official[1]}; {rule}"
            )


def numbered(texts: Mapping[str, str], pattern: re.Pattern[str]) -> dict[tuple[str, ...], list[str]]:
    """Returns the lines of the files whose name `pattern` matches, by its groups; without endings and empty lines."""
    lines_by_groups = {}
    for name, text in texts.items():
        name_match = pattern.fullmatch(name)
        if name_match:
            # Not str.splitlines: it also splits at characters that names may hold.
            lines_by_groups[name_match.groups()] = [line.strip() for line in text.split("\n") if line.strip()]
    return lines_by_groups


@dataclass(frozen=True, kw_only=True)
class Match:
    """The videos of an index by the clips of the lists, and the clips and videos that have no match."""

    usable: dict[str, VideoRecord]
    """Usable videos, by the clip's name; in the lists' order."""
    unreadable: dict[str, VideoRecord]
    """Videos that are there and were rejected, by the clip's name."""
    missing: tuple[str, ...]
    """Names of the clips that no video has."""
    extra: tuple[VideoRecord, ...]
    """Videos that the lists do not name."""
    twins: tuple[tuple[str, ...], ...]
    """Names of clips whose files hold the same bytes: two or more each."""


def name_of(uri: str) -> str:
    """Returns the name that a video is matched by: its file name without folder, suffix and case."""
    return posixpath.splitext(posixpath.basename(uri))[0].casefold()


def match(clips: Sequence[OfficialClip], records: Sequence[VideoRecord]) -> Match:
    """Matches videos with clips by name.

    Raises:
        SourceError: two videos with different bytes have the name of one clip.
    """
    known = {clip.name.casefold() for clip in clips}
    videos: dict[str, VideoRecord] = {}
    extra: list[VideoRecord] = []
    for record in records:
        name = name_of(record.uri)
        if name not in known:
            extra.append(record)
            continue
        other = videos.setdefault(name, record)
        if other.sha256 != record.sha256:
            raise SourceError(
                f"{other.uri} and {record.uri} have one clip's name and different bytes; leave one of them out"
            )
    there = {clip.name: videos[clip.name.casefold()] for clip in clips if clip.name.casefold() in videos}
    usable = {name: record for name, record in there.items() if record.verdict != "rejected"}
    return Match(
        usable=usable,
        unreadable={name: record for name, record in there.items() if record.verdict == "rejected"},
        missing=tuple(clip.name for clip in clips if clip.name not in there),
        extra=tuple(extra),
        twins=twins_of(usable),
    )


def twins_of(usable: dict[str, VideoRecord]) -> tuple[tuple[str, ...], ...]:
    """Returns the names whose videos hold the same bytes, in the order of `usable`."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    for name, record in usable.items():
        names[record.sha256].append(name)
    return tuple(tuple(same) for same in names.values() if len(same) > 1)


def hold_out_sources(clips: Sequence[OfficialClip], *, fraction: float, seed: int) -> frozenset[str]:
    """Returns the names of validation clips, about `fraction` of each class of `clips` (those of a training subset).

    Whole sources move: no footage is in both training and validation, whatever the class. They are ranked by a hash of
    (seed, source) and taken in that order while no class gives more than its share; then every class that gave nothing
    gives its smallest source, if it has two. The choice depends on the official lists alone and not on the clips that
    are there, so that it is the same for every copy of the whole data set and nearly the same where clips are missing.
    """
    by_source: defaultdict[str, list[OfficialClip]] = defaultdict(list)
    for clip in clips:
        by_source[clip.source].append(clip)
    totals = Counter(clip.label for clip in clips)
    ranked = sorted(by_source, key=lambda source: hashlib.sha256(f"{seed} {source}".encode()).digest())
    out: set[str] = set()
    num_held_out: Counter[str] = Counter()

    def take(source: str) -> None:
        out.add(source)
        num_held_out.update(clip.label for clip in by_source[source])

    for source in ranked:
        wanted = Counter(clip.label for clip in by_source[source])
        if all(num_held_out[label] + num <= fraction * totals[label] for label, num in wanted.items()):
            take(source)
    for label in sorted(totals):
        if num_held_out[label] or not fraction:
            continue
        fitting = [s for s in ranked if s not in out and _leaves_some(by_source[s], num_held_out, totals)]
        of_label = [source for source in fitting if any(clip.label == label for clip in by_source[source])]
        if of_label:
            take(min(of_label, key=lambda source: len(by_source[source])))
    return frozenset(clip.name for clip in clips if clip.source in out)


def _leaves_some(moved: Sequence[OfficialClip], num_held_out: Counter[str], totals: Counter[str]) -> bool:
    """Returns True if every class keeps at least half of its clips for training."""
    return all(
        2 * (num_held_out[label] + num) <= totals[label] for label, num in Counter(c.label for c in moved).items()
    )
