"""Suffixes of videos and of lists."""

from __future__ import annotations

import posixpath
from typing import Final
from urllib.parse import urlsplit

VIDEO_SUFFIXES: Final = frozenset(
    f".{name}"
    for name in (
        *("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "m2v", "ts", "mts", "m2ts", "vob", "flv", "wmv"),
        *("asf", "ogv", "ogg", "3gp", "3g2", "gif", "mxf", "ivf", "nut", "dv", "rm", "mjpeg", "y4m", "h264", "hevc"),
    )
)
"""Suffixes of the files that are videos in a folder. A file that is named itself, or in a list, may have any suffix."""

LIST_SUFFIXES: Final = frozenset({".txt", ".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet"})
"""Suffixes of lists of videos."""


def has_video_suffix(name: str) -> bool:
    """Returns whether a file's name has the suffix of a video."""
    return posixpath.splitext(name)[1].lower() in VIDEO_SUFFIXES


def list_suffix(uri: str) -> str:
    """Returns the suffix by which `uri` is a list, in lower case; empty where it is none.

    A URL's query (a signature) is no part of its name.
    """
    path = urlsplit(uri).path if uri.startswith(("http://", "https://")) else uri
    suffix = posixpath.splitext(path)[1].lower()
    return suffix if suffix in LIST_SUFFIXES else ""
