"""A gallery: pictures with their titles and captions, as an artifact that the report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Self

from pipeline.core.files import read_bytes, write_bytes, write_json
from pipeline.core.records import read_record
from pipeline.core.stage import Artifact
from stages.video.artifacts import TO_LOOK_AT

GALLERY_FILE: Final = "gallery.json"


@dataclass(frozen=True, kw_only=True)
class GalleryEntry:
    """A picture of a gallery."""

    title: str
    caption: str
    file: str
    """The name of its file in the artifact's directory."""
    kind: Literal["image", "animation"] = "image"


@dataclass(frozen=True)
class Gallery(Artifact):
    """A gallery: `gallery.json`, with titles and captions of pictures, and the files beside it."""

    def read(self) -> tuple[GalleryEntry, ...]:
        """Reads `gallery.json`. Raises CorruptArtifact."""
        return read_record(self.path(GALLERY_FILE), tuple[GalleryEntry, ...])

    def num_to_look_at(self, facts: Mapping[str, int | float | str], *, all_rejected: bool = False) -> int:
        """Returns how many videos could not be read any more when pictures were taken of them."""
        return int(facts.get(TO_LOOK_AT, 0))

    def has_same_videos(self, other: Self) -> bool:
        """Returns whether both have the same pictures."""
        return self.read() == other.read() and all(
            read_bytes(self.path(entry.file)) == read_bytes(other.path(entry.file)) for entry in self.read()
        )


@dataclass(frozen=True)
class Figure:
    """A picture with its title and caption."""

    file: str
    """The name of its file: .png or .gif."""
    title: str
    caption: str
    data: bytes

    @property
    def kind(self) -> Literal["image", "animation"]:
        return "animation" if self.file.endswith(".gif") else "image"


def write_gallery(uri: str, figures: Sequence[Figure]) -> None:
    """Writes the pictures, and `gallery.json` last."""
    names = [figure.file for figure in figures]
    assert len(set(names)) == len(names), names
    for figure in figures:
        write_bytes(f"{uri}/{figure.file}", figure.data)
    entries = [{"title": f.title, "caption": f.caption, "file": f.file, "kind": f.kind} for f in figures]
    write_json(f"{uri}/{GALLERY_FILE}", entries)
