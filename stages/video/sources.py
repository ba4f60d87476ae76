"""Sources of videos: folders, globs, single files, manifests and buckets, listed in a stable order.

    list_videos(("clips/", "more/*.mp4", "labelled.csv", "s3://bucket/films"))

A name that exists is taken literally, whatever characters it holds; only a name that does not exist is tried as a
glob. A manifest is a .txt file (a URI a line) or a .csv, .jsonl or .parquet file with a column `uri` and, if wanted,
`label`, `part` and `group`; relative URIs in it start at the manifest's own directory.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import itertools
import json
import os
import posixpath
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa

from pipeline.core.errors import SourceError
from pipeline.core.files import join
from pipeline.core.parquet import read_table
from stages.video.archives import is_archive
from stages.video.fetch import check_file, error_in_words, fetched, open_filesystem
from stages.video.limits import Limits

VIDEO_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "m2v", "ts", "mts", "m2ts", "vob", "flv", "wmv"),
        *("asf", "ogv", "ogg", "3gp", "3g2", "gif", "mxf", "ivf", "nut", "dv", "rm", "mjpeg", "y4m", "h264", "hevc"),
    )
)
"""Suffixes of the files that are videos in a folder. A file that is named itself, or in a manifest, may have any
suffix."""

MANIFEST_SUFFIXES = frozenset({".txt", ".csv", ".jsonl", ".parquet"})

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoSource:
    """A video that a source lists. It need not exist: that is found out, and recorded, when it is probed."""

    uri: str
    """Absolute local path, or fsspec URL."""
    size_bytes: int | None = None
    """None where the listing does not tell."""
    stamp: str = ""
    """Changes when the file does: modification time or etag."""
    label: str | None = None
    part: str | None = None
    group: str | None = None


def list_videos(videos: Sequence[str]) -> list[VideoSource]:
    """Lists every video of every given source, in the order given and sorted by name within a folder or glob.

    A URI that turns up again is listed once, as it was first.

    Raises:
        SourceError: a source does not exist, cannot be read, or holds no video.
    """
    return list(iter_videos(videos))


def iter_videos(videos: Sequence[str]) -> Iterator[VideoSource]:
    """Yields the videos one after the other.

    In memory are a hundred bytes of each URI, and a manifest's bytes or a folder's names; of a bucket, while it is
    listed, all that fsspec says of each object: a kilobyte or two.
    """
    if not videos:
        raise SourceError(
            "no videos were given; name a folder, glob, file, manifest or bucket, such as --videos clips/"
        )
    yield from unique_sources(itertools.chain.from_iterable(map(_expand, videos)), lambda source: source)


def unique_sources(items: Iterable[Item], source_of: Callable[[Item], VideoSource]) -> Iterator[Item]:
    """Yields the items whose source's URI is new, in their order; held are a hundred bytes of each URI."""
    seen: set[bytes] = set()
    for item in items:
        # Names that are not UTF-8 reach Python as lone surrogates.
        digest = hashlib.sha256(source_of(item).uri.encode("utf-8", "surrogatepass")).digest()
        if digest not in seen:
            seen.add(digest)
            yield item


def with_stamp(source: VideoSource) -> VideoSource:
    """Returns the source with its size and stamp, where it is a URL of which only the name is known.

    Probing finds out what is wrong with a source that cannot be reached.
    """
    if source.stamp or is_plain_path(source.uri):
        return source
    try:
        fs, path = open_filesystem(source.uri)
        remote = _remote(fs, path, fs.info(path))
    except Exception:  # noqa: BLE001  # by place; probing meets the same error, and makes a row of it
        return source
    return replace(source, size_bytes=remote.size_bytes, stamp=remote.stamp)


def hash_sources(sources: Iterable[VideoSource]) -> str:
    """Returns the sha256 of the sources' JSON (names, sizes, times or etags, labels), which is never held whole."""
    digest, before = hashlib.sha256(), "["
    for source in sources:
        digest.update((before + json.dumps(asdict(source), sort_keys=True)).encode())
        before = ", "
    digest.update(b"]")
    return digest.hexdigest()


def split_archives(given: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Separates the archives among a user's videos from the others; a local pattern such as `*.rar` is expanded."""
    archives: list[str] = []
    others: list[str] = []
    for name in given:
        if not is_archive(name) or (is_plain_path(name) and os.path.isdir(name)):
            others.append(name)
        elif is_plain_path(name) and not os.path.lexists(name) and glob.has_magic(name):
            archives += sorted(filter(os.path.isfile, glob.glob(name, recursive=True))) or [name]
        else:
            archives.append(name)
    return tuple(archives), tuple(others)


def archive_snapshot(archives: Sequence[str]) -> str:
    """Returns a digest of the archives' names, sizes and times or etags; reads none of them.

    Raises:
        SourceError: one of them is not there.
    """
    return hash_sources(_archive(given) for given in archives)


def _archive(given: str) -> VideoSource:
    if is_plain_path(given):
        if not os.path.isfile(given):
            raise SourceError(f"there is no archive {given!r}; give an existing file, or a folder of videos")
        return _local(given)
    try:
        fs, path = open_filesystem(given)
        return _remote(fs, path, fs.info(path))
    except Exception as error:  # by place: every file system has exceptions of its own
        raise _unreachable(given, error) from error


@contextmanager
def local_video(uri: str, *, max_bytes: int = Limits.max_bytes) -> Iterator[Path]:
    """Yields the video as a local file: itself where it is local already (any name at all), else a temporary copy.

    Raises:
        OSError: it is not there, or cannot be fetched (an `UnreadableError`, which says why); it is a pipe or a device,
            which might never end.
    """
    if is_plain_path(uri):
        check_file(uri)
        yield Path(uri)
        return
    with fetched(uri, max_bytes=max_bytes) as path:
        yield path


def is_plain_path(uri: str) -> bool:
    """Returns whether `uri` is a local path. Those never pass through fsspec: to it `::` and `~` have a meaning."""
    return "://" not in uri or os.path.lexists(uri)


def _expand(given: str) -> Iterator[VideoSource]:
    given = given.removeprefix("file://")
    if is_archive(given) and not os.path.isdir(given):
        raise SourceError(f"{given!r} is an archive, and ingest reads videos: connect an unpack stage before it")
    sources = _expand_local(given) if is_plain_path(given) else _expand_remote(given)
    is_empty = True
    for source in sources:
        is_empty = False
        yield source
    if is_empty:
        kinds = " ".join(sorted(VIDEO_SUFFIXES))
        raise SourceError(f"{given!r} holds no videos; a folder's videos end in one of {kinds}, others need a manifest")


def _expand_local(given: str) -> Iterable[VideoSource]:
    if os.path.isdir(given):
        return map(_local, _walk(given))
    if os.path.lexists(given):
        if Path(given).suffix.lower() in MANIFEST_SUFFIXES:
            return _manifest(given)
        if not stat.S_ISREG(os.stat(given).st_mode if os.path.exists(given) else stat.S_IFREG):
            raise SourceError(f"{given!r} is neither a file nor a folder; give a video file, a folder or a manifest")
        return [_local(given)]
    matches = sorted(glob.glob(given, recursive=True)) if glob.has_magic(given) else None
    if matches is None:
        raise SourceError(
            f"there is no file or folder {given!r}; give an existing one, a glob such as '*.mp4' or a URL"
        )
    if not matches:
        raise SourceError(f"nothing matches {given!r}; give a pattern that does (in quotes, so the shell leaves it)")
    paths: list[str] = []
    for match in _without_loops(matches):
        if os.path.isdir(match):
            paths.extend(_walk(match))
        elif _is_wanted(match, given):
            paths.append(match)
    return map(_local, paths)


def _expand_remote(given: str) -> Iterable[VideoSource]:
    is_manifest = posixpath.splitext(urlsplit(given).path)[1].lower() in MANIFEST_SUFFIXES
    if given.startswith(("http://", "https://")) and not is_manifest and has_video_suffix(urlsplit(given).path):
        return [VideoSource(uri=given)]  # a server's refusal is a row, as it is for the URLs of a manifest
    try:
        fs, path = open_filesystem(given)
        info = _info(fs, path)
        if info is not None and info.get("type", "file") == "file":
            return _manifest(given) if is_manifest else [_remote(fs, path, info)]
        fs.invalidate_cache()
        if info is not None:
            infos = {n: i for n, i in fs.find(path, detail=True).items() if has_video_suffix(n)}
        elif glob.has_magic(path):
            infos = {n: i for n, i in fs.glob(path, detail=True).items() if _is_wanted(n, path)}
        else:
            raise SourceError(f"there is nothing at {given!r}; give an existing file, folder or bucket")
    except SourceError:
        raise
    except Exception as error:  # by place: every file system has exceptions of its own
        raise _unreachable(given, error) from error
    # fsspec's cache of a bucket would stay for as long as the process.
    fs.invalidate_cache()
    names = sorted(name for name, info in infos.items() if info.get("type", "file") == "file")
    return (_remote(fs, name, infos[name]) for name in names)


def _info(fs: Any, path: str) -> dict[str, Any] | None:
    """Returns what the file system says of a path; None where there is nothing. Raises what fsspec raises."""
    try:
        info: dict[str, Any] = fs.info(path)
    except FileNotFoundError as error:
        # fsspec hides a server's refusal in this exception, too.
        if getattr(error.__cause__, "status", 404) != 404:
            raise
        return None
    return info


def _unreachable(given: str, error: Exception) -> SourceError:
    reason = error_in_words(error)
    return SourceError(f"cannot reach {given!r}: {reason}; check the URL, the region and the credentials")


def _walk(folder: str) -> list[str]:
    """Returns the videos below a folder, sorted, symlinks followed; no folder is entered twice."""
    paths: list[str] = []
    entered: set[tuple[int, int]] = set()

    def refuse(error: OSError) -> None:
        raise SourceError(f"cannot read {error.filename!r}: {error.strerror}; check its permissions") from error

    for directory, subfolders, names in os.walk(folder, followlinks=True, onerror=refuse):
        status = os.stat(directory)
        if (status.st_dev, status.st_ino) in entered:
            subfolders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        subfolders.sort()
        paths.extend(os.path.join(directory, name) for name in names if has_video_suffix(name))
    # A pipe or a device would block its reader; a broken link is a video that cannot be read.
    return sorted(path for path in paths if os.path.isfile(path) or not os.path.exists(path))


def _without_loops(matches: list[str]) -> list[str]:
    """Returns the shortest name of each file, sorted; a symlink loop gives names without end."""
    shortest: dict[str, str] = {}
    for match in sorted(matches, key=lambda name: (len(name), name)):
        shortest.setdefault(os.path.realpath(match), match)
    return sorted(shortest.values())


def has_video_suffix(name: str) -> bool:
    """Returns whether a file's name has the suffix of a video."""
    return posixpath.splitext(name)[1].lower() in VIDEO_SUFFIXES


def _is_wanted(match: str, pattern: str) -> bool:
    """Returns whether a pattern means a file: one that spells a suffix out does, any other needs a video's suffix."""
    spelled = posixpath.splitext(pattern)[1]
    return (bool(spelled) and not glob.has_magic(spelled)) or has_video_suffix(match)


def _local(path: str) -> VideoSource:
    absolute = os.path.abspath(path)
    try:
        status = os.stat(absolute)
    except OSError:
        return VideoSource(uri=absolute)
    return VideoSource(uri=absolute, size_bytes=status.st_size, stamp=str(status.st_mtime_ns))


def _remote(fs: Any, path: str, info: dict[str, Any]) -> VideoSource:
    stamp = next((str(info[key]) for key in ("ETag", "etag", "md5Hash", "LastModified", "mtime") if info.get(key)), "")
    return VideoSource(uri=fs.unstrip_protocol(path), size_bytes=info.get("size"), stamp=stamp)


def _manifest(uri: str) -> Iterator[VideoSource]:
    """Yields the videos that a manifest lists, in its order."""
    directory = os.path.dirname(os.path.abspath(uri)) if is_plain_path(uri) else posixpath.dirname(uri)
    try:
        data = Path(uri).read_bytes() if is_plain_path(uri) else _remote_bytes(uri)
        for number, row in enumerate(_rows(uri, data), start=1):
            if not isinstance(row, dict) or not row.get("uri"):
                rule = "every row needs a value in the column 'uri' (further columns: label, part, group)"
                raise SourceError(f"row {number} of the manifest {uri!r} names no video; {rule}")
            source = _resolved(str(row["uri"]), directory)
            label, part, group = (_mark(row.get(name)) for name in ("label", "part", "group"))
            yield replace(source, label=label, part=part, group=group)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, pa.ArrowInvalid, csv.Error) as error:
        raise SourceError(f"cannot read the manifest {uri!r}: {error}") from error


def _remote_bytes(uri: str) -> bytes:
    try:
        fs, path = open_filesystem(uri)
        data: bytes = fs.cat_file(path)
    except Exception as error:  # by place: every file system has exceptions of its own
        raise _unreachable(uri, error) from error
    return data


def _mark(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


def _rows(uri: str, data: bytes) -> Iterator[Any]:
    suffix = posixpath.splitext(uri)[1].lower()
    if suffix == ".parquet":
        for batch in read_table(data).to_batches(max_chunksize=4096):
            yield from batch.to_pylist()
        return
    # Lines end where Python's text files say, and not where str.splitlines does: it also splits at characters that
    # names may hold. No comments: names may begin with "#".
    with io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="" if suffix == ".csv" else "\n") as text:
        if suffix == ".csv":
            yield from csv.DictReader(text)
            return
        for line in map(str.strip, text):
            if line:
                yield json.loads(line) if suffix == ".jsonl" else {"uri": line}


def _resolved(uri: str, directory: str) -> VideoSource:
    if "://" in uri:
        return VideoSource(uri=uri)
    if uri.startswith("/"):
        return _local(uri)
    if is_plain_path(directory):
        return _local(os.path.join(directory, uri))
    scheme, separator, path = directory.partition("://")
    return VideoSource(uri=scheme + separator + posixpath.normpath(join(path, uri)))
