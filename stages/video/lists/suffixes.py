"""The kinds of files, by their names or their first bytes: a video, a list of videos, or neither."""

from __future__ import annotations

import posixpath
import re
from typing import Final
from urllib.parse import urlsplit

VIDEO_SUFFIXES: Final = frozenset(
    f".{name}"
    for name in (
        *("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "m2v", "ts", "mts", "m2ts", "vob", "flv", "wmv"),
        *("asf", "ogv", "ogg", "3gp", "3g2", "gif", "mxf", "ivf", "nut", "dv", "rm", "mjpeg", "y4m", "h264", "hevc"),
        *("f4v", "mpe", "m1v", "mpv", "m2p", "m2t", "mod", "tod", "trp", "264", "265", "h265", "avc", "qt", "rmvb"),
        *("divx", "xvid", "ogm", "3gpp", "amv", "wtv", "evo", "mk3d", "obu", "unknown_video"),
    )
)
"""Suffixes of the files that are videos in a folder. A file that is named itself, or in a list, may have any suffix."""

OTHER_SUFFIXES: Final = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "png", "webp", "avif", "heic", "bmp", "tif", "tiff", "svg", "pdf", "html", "md", "xml"),
        *("yaml", "txt", "csv", "tsv", "json", "jsonl", "ndjson", "parquet", "npy", "npz", "pt", "pkl", "log", "nfo"),
        *("py", "srt", "vtt", "ass", "sub", "idx", "mp3", "m4a", "aac", "wav", "flac", "opus", "oga", "wma", "mka"),
        *("ac3", "zip", "rar", "7z", "tar", "gz", "tgz", "bz2", "xz", "zst", "part", "ytdl", "crdownload", "tmp"),
        *("aria2",),
    )
)
"""Suffixes of files that are no videos, whatever their first bytes: some are pictures, sound or unfinished downloads in
containers that videos have, too."""

START_BYTES: Final = 1024
"""The first bytes of a file by which its content is known."""

_STARTS: Final = (
    *(b"\x1aE\xdf\xa3", b"FLV\x01", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"\0\0\x01\xba", b"\0\0\x01\xb3", b"GIF87a"),
    *(b"GIF89a", b"OggS", b"YUV4MPEG2", b"DKIF", b"nut/multimedia container", b".RMF", b"\x1f\x07\0"),
    *(b"\x06\x0e\x2b\x34\x02\x05\x01\x01", b"\xb7\xd8\x00\x20\x37\x49\xda\x11"),
)
_MARKS: Final = (
    (4, (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")),
    (8, (b"AVI ", b"AVIX")),
    (0, _STARTS),
)
"""Places in a file, and what stands there in the containers that FFmpeg reads."""
_PICTURES: Final = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1", b"crx ", b"M4A ", b"M4B ")
"""Brands of MP4 files that are pictures or sound."""
_START_CODES: Final = re.compile(rb"\0?\0\0\x01(?:[\x09\x27\x47\x67]|[\x40\x42\x46]\x01)")
"""The first unit of an H.264 or HEVC stream without a container: a delimiter or a parameter set."""
_SYNCS: Final = ((0, 188), (4, 196), (0, 204))
"""Places of the first two sync bytes of a transport stream: plain, with times (M2TS), with error correction."""

LIST_SUFFIXES: Final = frozenset({".txt", ".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet"})
"""Suffixes of lists of videos."""


def has_video_suffix(name: str) -> bool:
    """Returns whether a file's name has the suffix of a video."""
    return posixpath.splitext(name)[1].lower() in VIDEO_SUFFIXES


def suffix_of(name: str) -> str:
    """Returns a file's suffix in lower case, for counting: `no suffix` where it has none."""
    return posixpath.splitext(name)[1].lower() or "no suffix"


def is_video_by_content(start: bytes) -> bool:
    """Returns whether a file that begins so (`START_BYTES` of it) has the form of a video."""
    if start[4:8] == b"ftyp" and start[8:12] in _PICTURES:
        return False
    if any(start.startswith(marks, place) for place, marks in _MARKS):
        return True
    is_stream = any(len(start) > last and start[first] == start[last] == 0x47 for first, last in _SYNCS)
    return is_stream or _START_CODES.match(start) is not None


def list_suffix(uri: str) -> str:
    """Returns the suffix by which `uri` is a list, in lower case; empty where it is none.

    A URL's query (a signature) is no part of its name.
    """
    path = urlsplit(uri).path if uri.startswith(("http://", "https://")) else uri
    suffix = posixpath.splitext(path)[1].lower()
    return suffix if suffix in LIST_SUFFIXES else ""
