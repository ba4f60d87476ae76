"""The rows of a list: what a line says of a video, and which lines are refused."""

from __future__ import annotations

import math
import os
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.files import absolute, join

YOUTUBE_ID: Final = re.compile(r"[A-Za-z0-9_-]{11}")
WATCH_URL: Final = "https://www.youtube.com/watch?v="

SCHEMES: Final = (
    *("http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "hf"),
    *("ftp", "sftp", "file", "local", "memory"),
)
"""Schemes of URLs that every list may hold. fsspec knows others, which open what the address inside them names."""

COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "uri": ("uri", "url"),
    "youtube_id": ("youtube_id", "youtubeid", "yt_id", "ytid", "video_id", "video-id"),
    "start": ("start", "start_s", "time_start", "start_time", "start_seconds", "t-start", "t_start"),
    "end": ("end", "end_s", "time_end", "end_time", "end_seconds", "t-end", "t_end"),
    "label": ("label",),
    "part": ("part",),
    "split": ("split", "subset"),
    "group": ("group",),
    "licence": ("licence", "license"),
    "is_cc": ("is_cc",),
}
"""The columns of a list, with the names that published lists give them, in lower case. The first that is there counts.
Where there is no `uri`, `youtube_id` names the videos; where there is no `part`, `split` does."""

PARTS: Final = {
    "training": "train",
    **dict.fromkeys(("val", "valid", "validate"), "validation"),
    "testing": "test",
}
"""Published lists' words for the parts of a split, where they are not the words of this project."""

KNOWN_PARTS: Final = frozenset({"train", "validation", "test", "unlabelled"})
"""Parts whose names count in any case."""

NOTHING: Final = frozenset({"", "nan", "<na>"})
"""Values of a cell that are none, in lower case."""
WORDS_FOR_NOTHING: Final = frozenset({"None", "NA", "N/A", "n/a", "#NA", "#N/A", "NULL", "null"})
"""Further ones, of those that pandas.read_csv takes for none. They might be names of classes, so it is said."""

MAX_TEXT_CHARS: Final = 4096
"""Characters of a label, part, group or licence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListRow:
    """One line of a list: a video, or a clip of one, and what is said of it."""

    uri: str
    """Absolute local path or URL of the video; a YouTube id is `https://www.youtube.com/watch?v=ID`. Where `problem`
    is set: the address of the list, a colon and the line's number."""
    line: int
    """Number of the line in its list, from 1; of the row in a Parquet file, of the entry in a JSON file."""
    start_s: float | None = None
    """Start of the clip in the video, seconds; None: the video's start."""
    end_s: float | None = None
    """End of the clip in the video, seconds; None: the video's end."""
    label: str | None = None
    """Class; several classes of one video are joined by commas."""
    part: str | None = None
    group: str | None = None
    licence: str | None = None
    problem: str = ""
    """The reason why the line names no video that may be used; empty where it does."""


@dataclass(frozen=True, kw_only=True)
class ListRules:
    """The addresses that the lines of lists may name."""

    allow_scheme: tuple[str, ...] = ()
    """Schemes of URLs that lists may hold besides the usual ones, such as webdav."""
    allow_root: tuple[str, ...] = ()
    """Folders of this machine that lists may name files in. None: any, for lists on this machine, else no file."""

    def __post_init__(self) -> None:
        for scheme in self.allow_scheme:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
                raise ConfigError(f"allow_scheme is {scheme!r}; give the scheme alone, such as webdav")
        if "" in self.allow_root:
            raise ConfigError("allow_root is empty; give a folder, such as /data")


STRANGERS: Final = ListRules()
"""The rules for a list of which nothing else is said."""


class WrongLine(Exception):
    """A line that names no video which may be used. Stays inside `stages.video.lists`: it becomes a row's problem."""

    def __init__(self, problem: str, *, is_refused: bool = False) -> None:
        super().__init__(problem)
        self.is_refused = is_refused
        """Whether it names a video, which the rules do not allow."""


class RowBuilder:
    """Makes rows of the values of a list's lines."""

    def __init__(self, list_uri: str, rules: ListRules | None) -> None:
        """Takes the list's address, absolute, which relative paths start at, and the rules for what it may name.

        rules: None for a list that a stage wrote, which may name anything.
        """
        self.list_uri = without_query(list_uri)
        self.num_refused = 0
        """Lines so far that name a video which the rules do not allow."""
        self.num_without_label = 0
        """Lines so far whose label is one of `WORDS_FOR_NOTHING`."""
        self._is_remote = "://" in list_uri
        self.directory = posixpath.dirname(self.list_uri)
        self._schemes = None if rules is None else frozenset((*SCHEMES, *map(str.lower, rules.allow_scheme)))
        self._roots = ("/",) if rules is None else tuple(os.path.realpath(absolute(root)) for root in rules.allow_root)

    def row(self, line: int, values: Mapping[str, Any]) -> ListRow:
        """Returns the row of a line whose values have the names of `COLUMNS`."""
        try:
            return self._row(line, values)
        except WrongLine as error:
            self.num_refused += error.is_refused
            return self.wrong(line, str(error))

    def wrong(self, line: int, problem: str) -> ListRow:
        """Returns the row of a line that cannot be used."""
        return ListRow(uri=f"{self.list_uri}:{line}", line=line, problem=f"line {line}: {problem}")

    def has_local(self, name: str) -> bool:
        """Returns whether a relative or absolute path is there, from a list on this machine."""
        return not self._is_remote and "\0" not in name and os.path.lexists(os.path.join(self.directory, name))

    def _row(self, line: int, values: Mapping[str, Any]) -> ListRow:
        uri = _raw_text(values.get("uri"), "uri")
        group = _text(values.get("group"), "group")
        if uri and uri.strip():
            uri = self.resolved(uri)
        elif name := _text(values.get("youtube_id"), "youtube_id"):
            uri = watch_url(name)
            group = group or name
        else:
            raise WrongLine("names no video; every line needs a uri")
        start_s, end_s = _seconds(values, "start"), _seconds(values, "end")
        if end_s is not None and end_s <= (start_s or 0.0):
            raise WrongLine(f"ends at {end_s:g} s and starts at {start_s or 0.0:g} s; the end comes after the start")
        split = _text(values.get("split"), "split") or ""
        part = _text(values.get("part"), "part") or PARTS.get(split.casefold(), split) or None
        if part is not None and part.casefold() in KNOWN_PARTS:
            part = part.casefold()
        label = _text(values.get("label"), "label")
        self.num_without_label += label is None and str(values.get("label") or "").strip().casefold() not in NOTHING
        licence = _text(values.get("licence"), "licence")
        if licence is None and _text(values.get("is_cc"), "is_cc") in ("1", "True", "true"):
            licence = "creative commons"
        return ListRow(
            uri=uri,
            line=line,
            start_s=start_s,
            end_s=end_s,
            label=label,
            part=part,
            group=group,
            licence=licence,
        )

    def resolved(self, uri: str) -> str:
        """Returns the absolute path or URL that a line names. Raises WrongLine where it may not be named."""
        if "\0" in uri:
            raise WrongLine("holds a NUL byte")
        try:
            os.fsencode(uri)
        except UnicodeEncodeError:
            raise WrongLine(f"{uri!r} is no text, and can be no name") from None
        if "://" not in uri and not uri.startswith("file:/"):
            stripped = uri if self.has_local(uri) else uri.strip()
            if YOUTUBE_ID.fullmatch(stripped) and not self.has_local(stripped):
                return WATCH_URL + stripped
            if self._is_remote and not stripped.startswith("/"):
                scheme, separator, path = self.directory.partition("://")
                joined = posixpath.normpath(join(path, stripped))
                if joined.partition("/")[0] != path.partition("/")[0]:
                    raise WrongLine(f"{stripped!r} leads out of the list's server or bucket")
                return scheme + separator + joined
            return self._local(os.path.join(self.directory, stripped), stripped)
        scheme = uri.strip().partition(":")[0].lower()
        if self.has_local(uri):
            return self._local(os.path.join(self.directory, uri), uri)
        if self._schemes is not None and scheme not in self._schemes:
            rule = f"has the scheme {scheme!r}, which lists may not hold; see --allow-scheme"
            raise WrongLine(f"{uri.strip()!r} {rule}", is_refused=True)
        return self._url(scheme, uri.strip())

    def _url(self, scheme: str, uri: str) -> str:
        if self._schemes is not None and re.search(r"::.*://", uri):
            raise WrongLine(f"{uri!r} chains file systems; give the address of the file itself", is_refused=True)
        if scheme in ("file", "local"):  # the latter is fsspec's
            host = re.match(r"[^:]*://([^/]+)/", uri)
            if host and host[1].lower() != "localhost":
                raise WrongLine(f"{uri!r} names a file of the machine {host[1]!r}; give file:///... for one of this")
            try:
                return self._local(absolute(f"file{uri[len(scheme) :]}"), uri)
            except SourceError as error:
                raise WrongLine(str(error)) from error
        if not is_utf8(uri):
            raise WrongLine(f"{uri!r} is not UTF-8; save the list as UTF-8")
        return uri

    def _local(self, path: str, given: str) -> str:
        path = os.path.abspath(path)
        if not self._roots:
            if self._is_remote:
                rule = "is a file of this machine, named by a list of another; see --allow-root"
                raise WrongLine(f"{given!r} {rule}", is_refused=True)
            return path
        real = os.path.realpath(path)
        if not any(os.path.commonpath((real, root)) == root for root in self._roots):
            raise WrongLine(f"{given!r} is outside {', '.join(self._roots)} (--allow-root)", is_refused=True)
        return path


def watch_url(youtube_id: str) -> str:
    """Returns the address of a YouTube video, whose id may have the prefix `v_`. Raises WrongLine."""
    name = youtube_id.removeprefix("v_") if len(youtube_id) == 13 else youtube_id
    if not YOUTUBE_ID.fullmatch(name):
        raise WrongLine(f"{youtube_id!r} is no YouTube id, which has 11 letters, digits, - or _")
    return WATCH_URL + name


def without_query(uri: str) -> str:
    """Returns a web address without its query, which may hold a signature; any other address unchanged."""
    return uri.partition("?")[0] if uri.startswith(("http://", "https://")) else uri


def is_utf8(text: str) -> bool:
    """Returns whether a text holds no bytes that were not UTF-8, which Python keeps as lone surrogates."""
    return text.isascii() or not re.search("[\ud800-\udfff]", text)


def _text(value: Any, column: str) -> str | None:
    """Returns a value as text: None for nothing or NaN, `1` for 1.0. Raises WrongLine where it is no usable text."""
    if value is None:
        return None
    text = (_raw_text(value, column) or "").strip()
    if text.casefold() in NOTHING or text in WORDS_FOR_NOTHING:
        return None
    if "\0" in text:
        raise WrongLine(f"the value of {column!r} holds a NUL byte")
    if len(text) > MAX_TEXT_CHARS:
        raise WrongLine(f"the value of {column!r} has {len(text)} characters, {MAX_TEXT_CHARS} are allowed")
    if not is_utf8(text):
        raise WrongLine(f"the value of {column!r} is not UTF-8; save the list as UTF-8")
    return text.partition(".")[0] if text.endswith("0") and re.fullmatch(r"-?\d+\.0+", text) else text


def _raw_text(value: Any, column: str) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, list | tuple):
        return ",".join(filter(None, (_text(item, column) for item in value)))
    if isinstance(value, dict):
        raise WrongLine(f"the value of {column!r} is a JSON object; give text or a number")
    return None if value is None or value != value else str(value)


def _seconds(values: Mapping[str, Any], column: str) -> float | None:
    text = _text(values.get(column), column)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise WrongLine(f"the value of {column!r} is {text!r}; give seconds, such as 12.5")
    return seconds
