"""unpack: the videos of archives, as files that every worker can open.

    corpus = unpack(UnpackConfig(archives=("hmdb51_org.rar",)), context)

Unpacked files are kept by content: below `<store>/unpacked/`, by the sha256 of the archive, so that no archive is
unpacked twice, whatever its name, place or recipe. A run that was killed goes on with the member at which it ended;
`contents.json`, written last, says that an archive is whole.

fsspec can open files inside zips in place (`zip://a.avi::s3://...`), but every open reads the zip's directory, 13,320
entries for UCF-101; a compressed tar has to be read from its start, and rar cannot be opened so at all. Against their
percepts, unpacked clips are small.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.files import (
    exists,
    join,
    list_states,
    local_copy,
    open_atomic,
    read_json,
    sha256_file,
    size_bytes,
    write_json,
)
from pipeline.core.secrets import public
from pipeline.core.stage import Context, Estimate, stage
from stages.video.archives import ArchiveLimits, ArchiveMember
from stages.video.artifacts import DIGITS, FILES, UNPACKED, Corpus, write_manifest
from stages.video.lists.folders import in_words
from stages.video.lists.sidecars import MARKS, MAX_BYTES, Sidecars, is_video_or_sidecar
from stages.video.lists.suffixes import has_video_suffix, suffix_of
from stages.video.processes.isolated_archive import iter_isolated_members
from stages.video.sources import archive_snapshot

CONTENTS = "contents.json"


@dataclass(frozen=True, kw_only=True)
class UnpackConfig:
    """The archives to unpack, and the limits beyond which one is refused."""

    archives: tuple[str, ...]
    """Files or URLs that end in .zip, .tar, .tar.gz, .tar.bz2, .tar.xz or .rar."""
    limits: ArchiveLimits = field(default_factory=ArchiveLimits)
    """The bounds beyond which an archive is refused."""

    def __post_init__(self) -> None:
        if not self.archives:
            raise ConfigError("archives is empty; name at least one")


def snapshot(config: UnpackConfig) -> str:
    """Returns a digest of the archives' names, sizes and times or etags. Raises SourceError."""
    return archive_snapshot(config.archives)


def _estimate(config: UnpackConfig, inputs: object) -> Estimate:
    return Estimate(num_bytes=sum(size_bytes(archive) for archive in config.archives))


@stage(version=1, snapshot=snapshot, estimate=_estimate)
def unpack(config: UnpackConfig, context: Context) -> Corpus:
    """Unpacks what the store does not have yet, and writes `manifest.csv`: the videos, in the order of the archives.

    What files beside the videos say of them (`stages.video.lists.sidecars`) is in its columns label, part and group.

    Raises:
        SourceError: an archive is missing, cannot be read, holds no video, or holds something that is refused
            (`stages.video.archives`).
    """
    rows: list[dict[str, str]] = []
    for number, archive in enumerate(config.archives):
        context.progress(number, len(config.archives), "archives", posixpath.basename(public(archive)))
        rows += _unpacked(archive, config.limits, context)
    write_manifest(context, ["uri", *(mark for mark in MARKS if any(mark in row for row in rows))], rows)
    context.record(num_archives=len(config.archives), num_videos=len(rows))
    return Corpus(context.uri, context.key)


def _unpacked(archive: str, limits: ArchiveLimits, context: Context) -> list[dict[str, str]]:
    """Returns rows of the archive's videos, in the archive's order."""
    with local_copy(archive) as path:
        if not path.is_file():
            raise SourceError(f"there is no archive {archive!r}; give an existing file")
        context.log(f"reading {archive} to know it by its content")
        home = join(UNPACKED, sha256_file(str(path))[:DIGITS])
        contents = join(context.store_uri, home, CONTENTS)
        if not exists(contents):
            files = _Unpacking(path, join(context.store_uri, home, FILES), limits, context)
            names = list(files.write())
            if not names:
                raise SourceError(f"{archive!r} holds no videos{files.left_out_in_words(' (others: {})')}")
            write_json(
                contents, {"archive": posixpath.basename(public(archive)), "videos": names, "marks": files.marks(names)}
            )
    unpacked = read_json(contents)
    marks = unpacked.get("marks", {})  # an earlier version read none
    return [{"uri": join(context.store_uri, home, FILES, name), **marks.get(name, {})} for name in unpacked["videos"]]


class _Unpacking:
    """The unpacking of one archive: its videos to files, what is said of them to memory."""

    def __init__(self, path: Path, home: str, limits: ArchiveLimits, context: Context) -> None:
        self._path, self._home, self._limits, self._context = path, home, limits, context
        self._sidecars = Sidecars()
        self._left_out: Counter[str] = Counter()

    def write(self) -> Iterator[str]:
        """Writes each video below the home; yields its name. What an earlier attempt left is kept."""
        kept = {name: state.num_bytes for name, state in list_states(self._home).items()} if exists(self._home) else {}
        num_kept = num_videos = 0
        reading = iter_isolated_members(
            self._path, is_video_or_sidecar, self._limits, kept=kept, left_out=self._left_out
        )
        with closing(reading) as members:
            for member in members:
                if not has_video_suffix(member.path):
                    self._read_sidecar(member)
                    continue
                num_videos += 1
                if member.size_bytes is not None and kept.get(member.path) == member.size_bytes:
                    num_kept += 1
                else:
                    _write_one(member, join(self._home, member.path), self._path)
                shown = f"{self._path.name}: {num_kept} were there" if num_kept else self._path.name
                self._context.progress(num_videos, 0, "videos", shown)
                yield member.path

    def _read_sidecar(self, member: ArchiveMember) -> None:
        data = b""
        for chunk in member.chunks:
            data += chunk
            if len(data) > MAX_BYTES:
                self._left_out[suffix_of(member.path)] += 1
                return
        self._sidecars.add(member.path, data)

    def marks(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """Returns what is said of the videos, once all are written; logs what is left out."""
        if self._sidecars.has_captions(names):
            self._context.log(f"warning: {self._path.name}: texts beside videos are captions, and no labels")
        if words := self.left_out_in_words("{}"):
            self._context.log(f"warning: {self._path.name}: members that are no videos, left out: {words}")
        return self._sidecars.marks(names)

    def left_out_in_words(self, form: str) -> str:
        """Returns the numbers of members that are no videos, by suffix; empty where all are."""
        return form.format(in_words(self._left_out)) if self._left_out else ""


def _write_one(member: ArchiveMember, target: str, path: Path) -> None:
    num_bytes = 0
    with open_atomic(target) as file:
        for chunk in member.chunks:
            file.write(chunk)
            num_bytes += len(chunk)
        if member.size_bytes is not None and num_bytes != member.size_bytes:
            raise SourceError(
                f"{path.name}: member {member.path!r} has {num_bytes} bytes, its header promises {member.size_bytes}"
            )
