"""Sources of videos: folders, globs, single files, lists and buckets, listed in a stable order.

    list_videos(("clips/", "more/*.mp4", "labelled.csv", "s3://bucket/films"))

A name that exists is taken literally, whatever characters it holds; only a name that does not exist is tried as a
glob. `stages.video.lists.reader` reads lists of videos; relative URIs in one start at its own directory.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import json
import os
import posixpath
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pipeline.core.error_words import error_in_words
from pipeline.core.errors import SourceError
from pipeline.core.files import absolute
from pipeline.core.secrets import public, remember
from stages.video.archives import UNREAD_SUFFIXES, is_archive
from stages.video.fetch import check_file, fetched, open_filesystem
from stages.video.limits import Limits
from stages.video.lists.folders import FolderVideos, bucket_videos, in_words
from stages.video.lists.hosts import host_of
from stages.video.lists.published import Note
from stages.video.lists.reader import discard_note, iter_rows
from stages.video.lists.rows import STRANGERS, ListRules, without_query
from stages.video.lists.seen import SeenTexts
from stages.video.lists.suffixes import has_video_suffix, list_suffix, suffix_of

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
    problem: str = ""
    """The reason why a line of a list names no video; its `uri` is then the list's, a colon and the line's number, or
    the page that it names."""


def list_videos(
    videos: Sequence[str], rules: ListRules | None = STRANGERS, *, note: Note = discard_note
) -> list[VideoSource]:
    """Lists every video of every given source, in the order given and sorted by name within a folder or glob.

    A URI that turns up again is listed once, as it was first.

    rules: what lists may name; None for those that a stage wrote, which may name anything.
    note: called with sentences on what is left out, or is read in another way than may be expected.

    Raises:
        SourceError: a source does not exist, cannot be read, or holds no video.
    """
    return list(iter_videos(videos, rules, note=note))


def iter_videos(
    videos: Sequence[str], rules: ListRules | None = STRANGERS, *, note: Note = discard_note
) -> Iterator[VideoSource]:
    """Yields the videos one after the other; otherwise as `list_videos`.

    In memory are some 20 bytes of each URI, and a folder's names; of a bucket, while it is listed, all that fsspec
    says of each object: a kilobyte or two.
    """
    if not videos:
        raise SourceError(
            "no videos were given; name a folder, glob, file, manifest or bucket, such as --videos clips/"
        )
    first_repeated, num_repeated = "", 0

    def count(source: VideoSource) -> None:
        nonlocal first_repeated, num_repeated
        if source.label is source.part is source.group is None:
            return  # a folder that has the videos of a list: nothing that was said of them is lost
        first_repeated = first_repeated or source.uri
        num_repeated += 1

    expanded = _with_public_addresses(itertools.chain.from_iterable(_expand(given, rules, note) for given in videos))
    yield from unique_sources(expanded, lambda source: source, on_repeat=count)
    if num_repeated:
        note(f"videos that are named again: {num_repeated} (first {first_repeated}); each counts as it was named first")


def _with_public_addresses(sources: Iterable[VideoSource]) -> Iterator[VideoSource]:
    """Puts public addresses in place of those with secrets, which this process remembers.

    Two that differ in their secrets alone may be two videos: the second has a number at its end.
    """
    kept: dict[str, list[str]] = {}
    for source in sources:
        shown = public(source.uri)
        if shown == source.uri:
            yield source
            continue
        same = kept.setdefault(shown, [])
        if source.uri not in same:
            same.append(source.uri)
        number = 1 + same.index(source.uri)
        yield replace(source, uri=remember(source.uri, shown if number == 1 else f"{shown}#{number}"))


def unique_sources(
    items: Iterable[Item],
    source_of: Callable[[Item], VideoSource],
    on_repeat: Callable[[VideoSource], None] = lambda source: None,
) -> Iterator[Item]:
    """Yields the items whose source's URI is new, in their order; held are some 20 bytes of each URI."""
    seen = SeenTexts()
    for item in items:
        if seen.add(source_of(item).uri):
            yield item
        else:
            on_repeat(source_of(item))


def with_stamp(source: VideoSource) -> VideoSource:
    """Returns the source with its size and stamp, where it is a URL of which only the name is known.

    Probing finds out what is wrong with a source that cannot be reached.
    """
    if source.stamp or source.problem or is_plain_path(source.uri):
        return source
    try:
        fs, path = open_filesystem(source.uri)
        remote = _remote(fs, path, fs.info(path))
    except Exception:  # noqa: BLE001  # by place; probing meets the same error, and makes a row of it
        return source
    return replace(source, size_bytes=remote.size_bytes, stamp=remote.stamp)


def hash_sources(sources: Iterable[VideoSource]) -> str:
    """Returns the sha256 of the sources' JSON (names, sizes, times or etags, labels), which is never held whole."""
    digest, before, names = hashlib.sha256(), "[", [field.name for field in fields(VideoSource)]
    for source in sources:
        facts = {name: getattr(source, name) for name in names if name != "problem" or source.problem}
        digest.update((before + json.dumps(facts, sort_keys=True)).encode())
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
    sources = (_archive(given) for given in archives)
    return hash_sources(replace(source, uri=public(source.uri)) for source in sources)


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


def _expand(given: str, rules: ListRules | None, note: Note) -> Iterator[VideoSource]:
    given = absolute(given) if given.startswith("file:/") else given
    host, is_site = host_of(given)
    if is_site:
        raise SourceError(
            f"{given!r} is a page of {host}, and --videos takes files: write it into a list, such as links.txt, and "
            "give --links links.txt"
        )
    if is_archive(given) and not os.path.isdir(given):
        raise SourceError(f"{given!r} is an archive, and ingest reads videos: connect an unpack stage before it")
    if without_query(given).lower().endswith(UNREAD_SUFFIXES) and not os.path.isdir(given):
        raise SourceError(
            f"{given!r} is packed, or an archive of a kind that is not read; unpack it and give the folder"
        )
    left_out: Counter[str] = Counter()
    is_empty = True
    expanded = _expand_local if is_plain_path(given) else _expand_remote
    for source in expanded(given, rules, note, left_out):
        is_empty = False
        yield source
    others = f"files that are no videos by name or content: {in_words(left_out)}" if left_out else ""
    hint = ""
    if packed := next(filter(is_archive, left_out), ""):
        example = f", such as --videos {os.path.join(given, f'*{packed}')!r}" if os.path.isdir(given) else ""
        hint = f"; archives are unpacked where --videos names them{example}"
    if is_empty:
        rule = hint or "; name other files in a list"
        raise SourceError(f"{given!r} holds no videos{f' ({others})' if others else ''}{rule}")
    if others:
        note(f"{without_query(given)}: {others} (left out{hint})")


def _expand_local(given: str, rules: ListRules | None, note: Note, left_out: Counter[str]) -> Iterable[VideoSource]:
    folders = FolderVideos(left_out=left_out)
    if os.path.isdir(given):
        folders.walk(given)
        return _in_folders(folders, note)
    if os.path.lexists(given):
        if list_suffix(given):
            return _listed(given, rules, note)
        if not stat.S_ISREG(os.stat(given).st_mode if os.path.exists(given) else stat.S_IFREG):
            raise SourceError(f"{given!r} is neither a file nor a folder; give a video file, a folder or a list")
        return [_local(given)]
    matches = sorted(glob.glob(given, recursive=True)) if glob.has_magic(given) else None
    if matches is None:
        raise SourceError(
            f"there is no file or folder {given!r}; give an existing one, a glob such as '*.mp4' or a URL"
        )
    if not matches:
        raise SourceError(f"nothing matches {given!r}; give a pattern that does (in quotes, so the shell leaves it)")
    for match in _without_loops(matches):
        if os.path.isdir(match):
            folders.walk(match)
        elif _spells_suffix(given) or folders.is_video(match):
            folders.paths.append(match)
    return _in_folders(folders, note)


def _in_folders(folders: FolderVideos, note: Note) -> Iterator[VideoSource]:
    """Yields the videos of folders, and a source with a problem for each folder that cannot be read.

    Raises:
        SourceError: there are no videos, and folders that cannot be read.
    """
    if folders.unreadable and not folders.paths:
        folder, reason = next(iter(folders.unreadable.items()))
        raise SourceError(f"no videos can be read: {folder!r}: {reason}")
    yield from map(_local, folders.paths)
    for folder, reason in folders.unreadable.items():
        note(f"{folder}: {reason}; what is in it is left out")
        yield VideoSource(uri=os.path.abspath(folder), problem=reason)


def _expand_remote(given: str, rules: ListRules | None, note: Note, left_out: Counter[str]) -> Iterable[VideoSource]:
    is_list = bool(list_suffix(given))
    if given.startswith(("http://", "https://")) and is_list:
        return _listed(given, rules, note)
    if given.startswith(("http://", "https://")) and has_video_suffix(urlsplit(given).path):
        return [VideoSource(uri=given)]  # a server's refusal is a row, as it is for the URLs of a list
    try:
        fs, path = open_filesystem(given)
        info = _info(fs, path)
        if info is not None and info.get("type", "file") == "file":
            return _listed(given, rules, note) if is_list else [_remote(fs, path, info)]
        fs.invalidate_cache()
        if info is not None:
            infos = fs.find(path, detail=True)
        elif glob.has_magic(path):
            infos = fs.glob(path, detail=True)
        else:
            raise SourceError(f"there is nothing at {given!r}; give an existing file, folder or bucket")
    except SourceError:
        raise
    except Exception as error:  # by place: every file system has exceptions of its own
        raise _unreachable(given, error) from error
    # fsspec's cache of a bucket would stay for as long as the process.
    fs.invalidate_cache()
    files = sorted(name for name, info in infos.items() if info.get("type", "file") == "file")
    takes_all = info is None and _spells_suffix(path)
    names = files if takes_all else bucket_videos(fs, files)
    left_out.update(Counter(map(suffix_of, files)) - Counter(map(suffix_of, names)))
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


def _without_loops(matches: list[str]) -> list[str]:
    """Returns the shortest name of each file, sorted; a symlink loop gives names without end."""
    shortest: dict[str, str] = {}
    for match in sorted(matches, key=lambda name: (len(name), name)):
        shortest.setdefault(os.path.realpath(match), match)
    return sorted(shortest.values())


def _spells_suffix(pattern: str) -> bool:
    """Returns whether a pattern spells a suffix out, and so means every file that it matches."""
    suffix = posixpath.splitext(pattern)[1]
    return bool(suffix) and not glob.has_magic(suffix)


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


def _listed(uri: str, rules: ListRules | None, note: Note) -> Iterator[VideoSource]:
    """Yields the videos that a list names, in its order, and a source with a problem for each line that is wrong."""
    num_wrong = num_pages = num_clips = num_usable = 0
    first_problem = ""
    for row in iter_rows(uri, rules, note=note):
        host, is_page = host_of(row.uri)
        problem = row.problem or (f"line {row.line}: is a page of {host}" if is_page else "")
        if problem:
            num_pages += is_page
            num_wrong, first_problem = num_wrong + 1, first_problem or problem
            yield VideoSource(uri=row.uri, problem=problem)
            continue
        num_usable += 1
        num_clips += row.start_s is not None or row.end_s is not None
        source = _local(row.uri) if row.uri.startswith("/") else VideoSource(uri=row.uri)
        yield replace(source, label=row.label, part=row.part, group=row.group)
    shown = without_query(uri)
    rule = f" (pages of sites: {num_pages}; --links {shown} downloads their videos)" if num_pages else ""
    if num_pages and not num_usable:
        raise SourceError(f"no line of the list {shown!r} names a file: {first_problem}{rule}")
    if num_wrong:
        first = f"the first is {first_problem}{rule}"
        note(f"{shown}: lines that name no usable video and are rejected: {num_wrong}; {first}")
    if num_clips:
        note(f"{shown}: lines that name seconds of a video: {num_clips}; whole videos are indexed")
