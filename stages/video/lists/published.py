"""Lists as others write them: lines of TSN, mmaction and Sports-1M, and the JSON files of ActivityNet and Kinetics."""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pipeline.core.errors import SourceError
from pipeline.core.files import join
from stages.video.fetch import fetched
from stages.video.lists.rows import RowBuilder, WrongLine
from stages.video.lists.suffixes import has_video_suffix
from stages.video.lists.text_lines import iter_lines

Values = Mapping[str, Any]
Note = Callable[[str], None]

MAX_JSON_BYTES: Final = 512 << 20
"""Bytes of a JSON file, which is parsed whole. ActivityNet's has 3 MB, Sports-1M's 300 MB."""

LABELS_FILE: Final = "labels.txt"
"""Name of Sports-1M's file of class names, one a line; it lies beside the list or one folder above."""

_URL_AND_NUMBERS: Final = re.compile(r"(https?://\S+?)\s+(\d+(?:,\d+)*)")
_PATH_AND_NUMBERS: Final = re.compile(r"(.+?)(?:[ \t]+|,)(?:\d+(?:[ \t]+|,))?(\d+)")
_OUR_FORM: Final = "a list with names of columns is a .csv whose first line is uri,label"


class PlainLines:
    """Lines without columns: a path, a URL or a YouTube id, perhaps with numbers of classes as other tools add them."""

    def __init__(self, builder: RowBuilder, note: Note) -> None:
        """Takes what makes the rows, and a function that is called with what is to be said of the list, once each."""
        self._builder = builder
        self._note = note
        self._labels: list[str] | None = None
        name = posixpath.basename(builder.list_uri).lower()
        partition = re.match(r"(train|test)_partition\.", name)
        self._part = partition[1] if partition else None

    def values(self, line: str) -> Values:
        """Returns the values of a line, with the names of `rows.COLUMNS`. Raises WrongLine."""
        if self._builder.has_local(line):
            return {"uri": line}
        if match := _URL_AND_NUMBERS.fullmatch(line):
            return {"uri": match[1], "label": self._named(match[2]), "split": self._part}
        if match := self.path_and_label(line):
            self._note(f"lines are read as 'path label', as TSN and mmaction write them; {_OUR_FORM}")
            return {"uri": match[1], "label": match[2]}
        return {"uri": line, "split": self._part}

    def path_and_label(self, line: str) -> re.Match[str] | None:
        """Returns path and number of a line of TSN or mmaction, whose frame count is passed over; None: it is none."""
        match = _PATH_AND_NUMBERS.fullmatch(line)
        if match and "://" not in line and (self._builder.has_local(match[1]) or has_video_suffix(match[1])):
            return match
        return None

    def _named(self, numbers: str) -> list[str]:
        """Returns the classes of Sports-1M by name, where its file of names is there."""
        if self._labels is None:
            self._labels = _read_labels(self._builder.directory)
            names = f"names of {LABELS_FILE}" if self._labels else f"numbers: there is no {LABELS_FILE} beside the list"
            self._note(f"lines are read as 'URL labels', as Sports-1M writes them; labels are {names}")
        if not self._labels:
            return numbers.split(",")
        wrong = [number for number in numbers.split(",") if int(number) >= len(self._labels)]
        if wrong:
            raise WrongLine(f"has the label {wrong[0]}; {LABELS_FILE} has {len(self._labels)} lines, counted from 0")
        return [self._labels[int(number)] for number in numbers.split(",")]


def _read_labels(directory: str) -> list[str]:
    for folder in (directory, posixpath.dirname(directory)):
        uri = join(folder, LABELS_FILE)
        if "://" not in uri and os.path.isfile(uri):
            return list(map(str.strip, iter_lines(Path(uri))))
        if "://" in uri:
            try:
                with fetched(uri, max_bytes=MAX_JSON_BYTES) as path:
                    return list(map(str.strip, iter_lines(path)))
            except OSError:  # the numbers stand for themselves, which is said
                continue
    return []


def json_entries(path: Path, shown: str) -> Iterator[Values]:
    """Yields the values of the entries of a JSON file: of ActivityNet, Kinetics or Sports-1M, or a list of objects.

    An entry of several annotated clips yields one a clip.

    Raises:
        SourceError: it is none of these, or larger than `MAX_JSON_BYTES`.
    """
    if path.stat().st_size > MAX_JSON_BYTES:
        raise SourceError(f"{shown!r} has more than {MAX_JSON_BYTES} bytes; give JSON lines (.jsonl) instead")
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SourceError(f"cannot read the list {shown!r}: {error or 'it is nested too deeply'}") from error
    if isinstance(data, list):
        for entry in data:
            yield _sports_entry(entry) if isinstance(entry, dict) and "label487" in entry else entry
        return
    videos = data.get("database", data) if isinstance(data, dict) else None
    if not isinstance(videos, dict) or not all(isinstance(entry, dict) for entry in videos.values()) or not videos:
        raise SourceError(
            f"{shown!r} is no list of videos; a .json list is ActivityNet's, Kinetics' or Sports-1M's, or a list of "
            "objects with a uri; JSON lines end in .jsonl"
        )
    for name, entry in videos.items():
        yield from _annotated(name, entry)


def _annotated(name: str, entry: dict[str, Any]) -> Iterator[Values]:
    """Yields the clips of a video of ActivityNet (a list of annotations) or Kinetics (one); without any, the video."""
    common = {"uri": entry.get("url"), "youtube_id": name, "split": entry.get("subset"), "group": name}
    annotations = entry.get("annotations") or [{}]
    for clip in annotations if isinstance(annotations, list) else [annotations]:
        segment = clip.get("segment") if isinstance(clip, dict) else None
        if not isinstance(clip, dict) or not (segment is None or (isinstance(segment, list) and len(segment) == 2)):
            yield {**common, "start": "no segment"}
            continue
        start, end = segment or (None, None)
        yield {**common, "start": start, "end": end, "label": clip.get("label")}


def _sports_entry(entry: dict[str, Any]) -> Values:
    labels = entry.get("label_names", entry["label487"])
    return {"youtube_id": entry.get("id"), "label": labels, "split": entry.get("source487")}
