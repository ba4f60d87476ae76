"""Folders on this machine and in buckets: the videos below one, by name or content, and what is left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from pipeline.core.errors import SourceError
from stages.video.lists.suffixes import OTHER_SUFFIXES, START_BYTES, has_video_suffix, is_video_by_content, suffix_of

LOOKS_AT_A_TIME: Final = 32
"""Requests to an object store at a time: each takes some tens of milliseconds."""
MAX_LOOKS: Final = 10_000
"""Most objects of a bucket that are looked into, a range request each; further ones go by their names."""


@dataclass(frozen=True)
class FolderVideos:
    """The videos below folders, and what else is there."""

    paths: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    """Folders inside the given one that cannot be read -> the reason."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Number of files that are no videos, by suffix."""

    def walk(self, folder: str) -> None:
        """Adds the videos below a folder, sorted, symlinks followed; no folder is entered twice.

        Raises:
            SourceError: the folder itself cannot be read.
        """

        def note_unreadable(error: OSError) -> None:
            reason = f"cannot read the folder: {error.strerror}; check its permissions"
            if os.path.samefile(error.filename, folder):
                raise SourceError(f"{folder!r}: {reason}") from error
            self.unreadable[os.fspath(error.filename)] = reason

        paths: list[str] = []
        entered: set[tuple[int, int]] = set()
        for directory, subfolders, names in os.walk(folder, followlinks=True, onerror=note_unreadable):
            status = os.stat(directory)
            if (status.st_dev, status.st_ino) in entered:
                subfolders.clear()
                continue
            entered.add((status.st_dev, status.st_ino))
            subfolders.sort()
            paths.extend(path for path in (os.path.join(directory, name) for name in names) if self.is_video(path))
        # A pipe or a device would block its reader; a broken link is a video that cannot be read.
        self.paths.extend(sorted(path for path in paths if os.path.isfile(path) or not os.path.exists(path)))

    def is_video(self, path: str) -> bool:
        """Returns whether a file is a video by its name or, if that says nothing, its content; counts others."""
        if has_video_suffix(path) or (suffix_of(path) not in OTHER_SUFFIXES and _has_video_content(path)):
            return True
        self.left_out[suffix_of(path)] += 1
        return False


def bucket_videos(fs: Any, names: Sequence[str]) -> list[str]:
    """Returns the objects of an fsspec file system that are videos by name or, if that says nothing, their content.

    Nothing is read from a web server, which may send a whole file where a range was wanted.
    """
    is_web = "http" in fs.protocol
    unknown = [name for name in names if not (has_video_suffix(name) or suffix_of(name) in OTHER_SUFFIXES or is_web)]
    with ThreadPoolExecutor(LOOKS_AT_A_TIME) as threads:
        looks = threads.map(partial(_is_video_object, fs), unknown[:MAX_LOOKS])
        by_content = {name for name, is_video in zip(unknown, looks, strict=False) if is_video}
    return [name for name in names if has_video_suffix(name) or name in by_content]


def _is_video_object(fs: Any, name: str) -> bool:
    try:
        return is_video_by_content(fs.cat_file(name, start=0, end=START_BYTES))
    except Exception:  # noqa: BLE001  # by place: one that cannot be read counts among what is left out
        return False


def in_words(left_out: Counter[str]) -> str:
    """Returns the numbers of files by suffix, the most frequent first: `3 .txt, 1 .jpg`; at most ten suffixes."""
    ordered = sorted(left_out.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = ", ".join(f"{number} {suffix}" for suffix, number in ordered[:10])
    others = sum(number for _, number in ordered[10:])
    return f"{shown}, {others} others" if others else shown


def _has_video_content(path: str) -> bool:
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            return is_video_by_content(file.read(START_BYTES))
    except OSError:
        return False
