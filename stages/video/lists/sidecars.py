"""Files beside a video in a shard of webdataset or video2dataset: what they say of it.

`0001.mp4` has its class in `0001.cls`, columns of its list in `0001.json`, and a caption, or a class, in `0001.txt`.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any, Final

from stages.video.lists.rows import COLUMNS, RowBuilder
from stages.video.lists.suffixes import has_video_suffix

SUFFIXES: Final = (".cls", ".json", ".txt")
MAX_BYTES: Final = 1 << 20
"""Bytes of a file beside a video; a larger one is passed over."""
MARKS: Final = ("label", "part", "group")


def is_video_or_sidecar(name: str) -> bool:
    """Returns whether a member of an archive is a video, or may say something of one."""
    return has_video_suffix(name) or name.lower().endswith(SUFFIXES)


class Sidecars:
    """The labels, parts, groups and texts in files beside videos, by the name that they share."""

    def __init__(self) -> None:
        self._marks: dict[str, dict[str, str]] = {}
        self._texts: dict[str, str] = {}
        self._rows = RowBuilder("/sidecars", None)

    def add(self, path: str, data: bytes) -> None:
        """Adds a file's content; one that says nothing of a video is dropped."""
        suffix, text = posixpath.splitext(path)[1].lower(), data.decode("utf-8", "replace").strip()
        if suffix == ".txt":
            self._texts[_key(path)] = text
        elif suffix == ".cls":
            self._marks.setdefault(_key(path), {}).update(self._values({"label": text}))
        else:
            try:
                values = json.loads(data)
            except (ValueError, RecursionError):
                return
            if isinstance(values, dict):
                marks = self._values(_columns(values))
                self._marks[_key(path)] = {**marks, **self._marks.get(_key(path), {})}

    def _values(self, values: Mapping[str, Any]) -> dict[str, str]:
        row = self._rows.row(1, {"uri": "/video", **values})
        return {name: value for name in MARKS if (value := getattr(row, name)) is not None}

    def marks(self, videos: Sequence[str]) -> dict[str, dict[str, str]]:
        """Returns video -> label, part and group of those of which something is said.

        A text is a class where no video has one otherwise, and texts repeat: there are at most half as many different
        ones as videos that have one. Else it is a caption, and no label.
        """
        marks = {video: dict(self._marks.get(_key(video), {})) for video in videos}
        texts = {video: text for video in videos if (text := self._texts.get(_key(video)))}
        if self.texts_are_labels(videos):
            for video, text in texts.items():
                marks[video] |= self._values({"label": text})
        return {video: values for video, values in marks.items() if values}

    def texts_are_labels(self, videos: Sequence[str]) -> bool:
        """Returns whether the texts beside the videos are their classes."""
        texts = [text for video in videos if (text := self._texts.get(_key(video)))]
        has_label = any("label" in self._marks.get(_key(video), {}) for video in videos)
        return bool(texts) and not has_label and 2 * len(set(texts)) <= len(texts)

    def has_captions(self, videos: Sequence[str]) -> bool:
        """Returns whether there are texts beside the videos that are not their classes."""
        return any(_key(video) in self._texts for video in videos) and not self.texts_are_labels(videos)


def _columns(values: Mapping[str, Any]) -> dict[str, Any]:
    plain = {str(name).casefold(): value for name, value in values.items()}
    columns = {
        column: next(plain[alias] for alias in COLUMNS[column] if alias in plain)
        for column in ("label", "part", "split", "group")
        if any(alias in plain for alias in COLUMNS[column])
    }
    if "group" not in columns and isinstance(plain.get("url"), str):
        columns["group"] = plain["url"]  # clips of one video stay on one side of a split
    return columns


def _key(path: str) -> str:
    """Returns the name that the files of a webdataset's sample share: all before the first dot of the file's own."""
    folder, name = posixpath.split(path)
    return posixpath.join(folder, name.partition(".")[0])
