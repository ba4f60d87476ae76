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

import csv
import io
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.files import (
    exists,
    join,
    local_copy,
    open_atomic,
    read_json,
    sha256_file,
    size_bytes,
    write_bytes,
    write_json,
)
from pipeline.core.stage import Context, Estimate, stage
from stages.video.archives import ArchiveLimits, ArchiveMember, iter_members
from stages.video.artifacts import MANIFEST_NAME, Corpus
from stages.video.lists.suffixes import has_video_suffix
from stages.video.sources import archive_snapshot

UNPACKED = "unpacked"
"""Below the store."""
CONTENTS, FILES = "contents.json", "files"
DIGITS = 16
"""Hex digits of an archive's digest in its directory's name."""


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

    Raises:
        SourceError: an archive is missing, cannot be read, holds no video, or holds something that is refused
            (`stages.video.archives`).
    """
    paths: list[str] = []
    for number, archive in enumerate(config.archives):
        context.progress(number, len(config.archives), "archives", posixpath.basename(archive))
        paths += _unpacked(archive, config.limits, context)
    manifest = io.StringIO(newline="")
    writer = csv.writer(manifest, lineterminator="\n")
    writer.writerow(["uri"])
    # Relative to the manifest, so that a store may be moved.
    up = posixpath.relpath(context.store_uri.rstrip("/"), context.uri)
    writer.writerows([posixpath.join(up, path)] for path in paths)
    write_bytes(join(context.uri, MANIFEST_NAME), manifest.getvalue().encode())
    context.record(num_archives=len(config.archives), num_videos=len(paths))
    return Corpus(context.uri, context.key)


def _unpacked(archive: str, limits: ArchiveLimits, context: Context) -> list[str]:
    """Returns the paths of the archive's videos, relative to the store's root, in the archive's order."""
    with local_copy(archive) as path:
        if not path.is_file():
            raise SourceError(f"there is no archive {archive!r}; give an existing file")
        context.log(f"reading {archive} to know it by its content")
        home = join(UNPACKED, sha256_file(str(path))[:DIGITS])
        contents = join(context.store_uri, home, CONTENTS)
        if not exists(contents):
            names = list(_write(path, join(context.store_uri, home, FILES), limits, context))
            if not names:
                raise SourceError(f"{archive!r} holds no videos")
            write_json(contents, {"archive": posixpath.basename(archive), "videos": names})
    return [join(home, FILES, name) for name in read_json(contents)["videos"]]


def _write(path: Path, home: str, limits: ArchiveLimits, context: Context) -> Iterator[str]:
    """Writes each video below `home`; yields its name. What an earlier attempt left is kept."""
    num_kept = 0
    for number, member in enumerate(iter_members(path, has_video_suffix, limits)):
        target = join(home, member.path)
        if member.size_bytes is not None and exists(target) and size_bytes(target) == member.size_bytes:
            num_kept += 1
        else:
            _write_one(member, target, path)
        context.progress(number + 1, 0, "videos", f"{path.name}: {num_kept} were there" if num_kept else path.name)
        yield member.path


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
