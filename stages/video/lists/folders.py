"""Folders on this machine: the videos below one, by name or content, and what is left out."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field

from pipeline.core.errors import SourceError
from stages.video.lists.suffixes import OTHER_SUFFIXES, START_BYTES, has_video_suffix, is_video_by_content, suffix_of


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
