"""A gallery: pictures with their titles and captions, as an artifact that the report shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pipeline.core.files import write_bytes, write_json
from pipeline.core.stage import Artifact

GALLERY_FILE: Final = "gallery.json"


@dataclass(frozen=True)
class Gallery(Artifact):
    """`gallery.json`: a list of {"title", "caption", "file", "kind": "image" or "animation"}; the files beside it."""


@dataclass(frozen=True)
class Figure:
    """One picture."""

    file: str
    """Name of its file: .png or .gif."""
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
