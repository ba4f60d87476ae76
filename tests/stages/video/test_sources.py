"""Listings against what was put there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import SourceError
from stages.video.listing import SourceListing
from stages.video.lists.suffixes import START_BYTES, is_video_by_content
from stages.video.sources import VideoSource, list_videos, local_video


def names(sources: list[VideoSource], below: Path | None = None) -> list[str]:
    return [os.path.relpath(source.uri, below) if below else source.uri for source in sources]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.mp4", "a.MKV", "sub/c.webm", "sub/deep/d.avi", "notes.txt", "cover.jpg"):
        path = tmp_path / "films" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "films"


def test_folder_is_read_to_its_depth(folder: Path) -> None:
    sources = list_videos((str(folder),))
    assert names(sources, folder) == ["a.MKV", "b.mp4", "sub/c.webm", "sub/deep/d.avi"]
    assert [source.size_bytes for source in sources] == [5, 5, 10, 14]
    assert names(list_videos((folder.as_uri(),)), folder) == names(sources, folder)


def test_symlinks(folder: Path) -> None:
    """A loop ends, a broken link is listed (and later rejected), a pipe is left alone."""
    (folder / "sub/loop").symlink_to(folder)
    (folder / "gone.mp4").symlink_to(folder / "nowhere.mp4")
    os.mkfifo(folder / "pipe.mp4")
    listed = ["a.MKV", "b.mp4", "gone.mp4", "sub/c.webm", "sub/deep/d.avi"]
    assert names(list_videos((str(folder),)), folder) == listed
    assert names(list_videos((f"{folder}/**/*.mp4",)), folder) == ["b.mp4", "gone.mp4", "pipe.mp4"]
    with pytest.raises(SourceError, match="neither a file nor a folder"):
        list_videos((str(folder / "pipe.mp4"),))


def test_glob(folder: Path) -> None:
    assert names(list_videos((f"{folder}/*",)), folder) == ["a.MKV", "b.mp4", "sub/c.webm", "sub/deep/d.avi"]
    assert names(list_videos((f"{folder}/*.jpg",)), folder) == ["cover.jpg"]
    assert names(list_videos((f"{folder}/**/*.avi",)), folder) == ["sub/deep/d.avi"]


@pytest.mark.parametrize("name", ["! # [ ] ( ) & ;", "[ab]*?", "new\nline", "🎬", "a::b~", "memory:x"])
def test_names_that_exist_are_taken_literally(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    video = tmp_path / name / f"{name}.mp4"
    video.write_bytes(b"x")
    for given in (str(tmp_path), str(tmp_path / name), str(video)):
        assert names(list_videos((given,))) == [str(video)]
    with local_video(str(video)) as path:
        assert path.read_bytes() == b"x"


def test_several_sources_and_repetitions(folder: Path) -> None:
    given = (str(folder / "sub"), f"{folder}/b.mp4", str(folder))
    assert names(list_videos(given), folder) == ["sub/c.webm", "sub/deep/d.avi", "b.mp4", "a.MKV"]


def test_manifests(folder: Path) -> None:
    """The same four rows in every format; the absolute, the remote and the missing one are kept as they are."""
    rows = [
        {"uri": "sub/c.webm", "label": "run", "part": "train", "group": "g1"},
        {"uri": str(folder / "b.mp4"), "label": "walk", "part": "test", "group": ""},
        {"uri": "s3://bucket/x.mp4", "label": "", "part": "", "group": ""},
        {"uri": "# not there.mp4", "label": "", "part": "", "group": ""},
    ]
    (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "list.csv").write_text(
        "uri,label,part,group\r\n" + "".join(",".join(row.values()) + "\r\n" for row in rows)
    )
    pq.write_table(pa.Table.from_pylist(rows), folder / "list.parquet")
    expected = list_videos((str(folder / "list.jsonl"),))
    uris = [str(folder / "sub/c.webm"), str(folder / "b.mp4"), "s3://bucket/x.mp4", str(folder / "# not there.mp4")]
    assert names(expected) == uris
    assert [(source.label, source.part, source.group) for source in expected[:3]] == [
        ("run", "train", "g1"),
        ("walk", "test", None),
        (None, None, None),
    ]
    assert list_videos((str(folder / "list.csv"),)) == expected
    assert list_videos((str(folder / "list.parquet"),)) == expected
    (folder / "list.txt").write_text("\r\n".join(row["uri"] + "  " for row in rows) + "\r\n\r\n")
    assert names(list_videos((str(folder / "list.txt"),))) == uris


def test_bucket() -> None:
    """Any fsspec file system: names, sizes and manifests there."""
    fs = fsspec.filesystem("memory")
    for name, data in (("b/2.mp4", b"22"), ("b/x/1.mkv", b"1"), ("b/readme.md", b""), ("b/l.csv", b"uri\nx/1.mkv\n")):
        fs.pipe_file(f"/{name}", data)
    sources = list_videos(("memory://b",))
    assert names(sources) == ["memory://b/2.mp4", "memory://b/x/1.mkv"] or names(sources) == [
        "memory:///b/2.mp4",
        "memory:///b/x/1.mkv",
    ]
    assert [source.size_bytes for source in sources] == [2, 1]
    assert names(list_videos(("memory://b/l.csv",))) == ["memory://b/x/1.mkv"]
    assert len(list_videos(("memory://b/*.mp4",))) == 1
    with local_video(sources[0].uri) as path:
        assert path.read_bytes() == b"22"
    with pytest.raises(SourceError, match="nothing at 'memory://elsewhere'"):
        list_videos(("memory://elsewhere",))


def test_objects_of_a_bucket_are_known_by_their_content(monkeypatch: pytest.MonkeyPatch) -> None:
    fs = fsspec.filesystem("memory")
    film = b"\0\0\0\x20ftypisom" + bytes(5000)
    objects = {"a.mp4": b"1", "b.unknown": film, "c[1]": film, "d": b"text", "e.jpg": film, "f.mp4.part": film}
    for name, data in objects.items():
        fs.pipe_file(f"/content/{name}", data)
    asked: list[tuple[int, int]] = []
    cat_file = type(fs).cat_file

    def counted(self: Any, path: str, start: int, end: int) -> bytes:
        asked.append((start, end))
        return bytes(cat_file(self, path, start=start, end=end))

    monkeypatch.setattr(type(fs), "cat_file", counted)
    notes: list[str] = []
    found = [source.uri.rpartition("/")[2] for source in list_videos(("memory://content",), note=notes.append)]
    assert found == ["a.mp4", "b.unknown", "c[1]"]
    assert asked == [(0, START_BYTES)] * 3
    assert "no videos by name or content: 1 .jpg, 1 .part, 1 no suffix" in notes[0]


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ((), "no videos were given"),
        (("nowhere",), "there is no file or folder 'nowhere'"),
        (("*.nothing",), "nothing matches"),
        (("empty",), "holds no videos"),
        (("films.7z",), "an archive of a kind that is not read; unpack it"),
        (("bad.csv",), r"it has no column 'uri'; rename its column 'path' to uri"),
        (("bad.jsonl",), "no line of the list 'bad.jsonl' can be used: line 1: is not JSON"),
        (("bad.parquet",), "cannot read the list"),
        (("nope://x",), "cannot reach 'nope://x'"),
    ],
)
def test_what_cannot_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], rule: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.csv").write_text("path\na.mp4\n")
    (tmp_path / "bad.jsonl").write_text("{")
    (tmp_path / "bad.parquet").write_bytes(b"PAR0")
    with pytest.raises(SourceError, match=rule.replace("*", r"\*")):
        list_videos(given)


def test_snapshot_sees_what_changes(folder: Path) -> None:
    given = (str(folder),)
    seen = [SourceListing(given).digest]
    assert SourceListing(given).digest == seen[0]
    (folder / "b.mp4").write_bytes(b"longer")
    seen.append(SourceListing(given).digest)
    (folder / "e.mp4").write_bytes(b"new")
    seen.append(SourceListing(given).digest)
    os.utime(folder / "e.mp4", ns=(1, 1))
    seen.append(SourceListing(given).digest)
    (folder / "e.mp4").unlink()
    (folder / os.fsdecode(b"\xff.mp4")).write_bytes(b"not UTF-8")
    seen.append(SourceListing(given).digest)
    assert len(set(seen)) == 5


def test_nothing_is_left_out_in_silence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Videos under other names are known by their content; the rest is counted, a folder without rights is a line."""
    (folder / "film").write_bytes(b"\0\0\0\x20ftypisom" + bytes(100))
    (folder / "film.mp4.part").write_bytes(b"\0\0\0\x20ftypisom" + bytes(100))
    (folder / "photo").write_bytes(b"\0\0\0\x20ftypavif" + bytes(100))
    (folder / "more.zip").write_bytes(b"PK")
    os.mkfifo(folder / "pipe")
    notes: list[str] = []
    sources = list_videos((str(folder),), note=notes.append)
    assert names(sources, folder) == ["a.MKV", "b.mp4", "film", "sub/c.webm", "sub/deep/d.avi"]
    assert notes == [
        f"{folder}: files that are no videos by name or content: 2 no suffix, 1 .jpg, 1 .part, 1 .txt, 1 .zip (left "
        f"out; archives are unpacked where --videos names them, such as --videos {str(folder / '*.zip')!r})"
    ]
    assert SourceListing((str(folder),)).notes == tuple(notes)
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if Path(path).name == refused:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    refused = "deep"
    sources = list_videos((str(folder),), note=notes.append)
    assert [source.uri for source in sources if source.problem] == [str(folder / "sub/deep")]
    assert sources[-1].problem == "cannot read the folder: Permission denied; check its permissions"
    assert sum("Permission denied; check its permissions; what is in it is left out" in note for note in notes) == 1
    refused = "films"
    with pytest.raises(SourceError, match="cannot read the folder: Permission denied"):
        list_videos((str(folder),))
    refused = ""
    with pytest.raises(
        SourceError, match=r"holds no videos \(files that are no videos by name or content: 1 .jpg, 1 .part, 1 .txt\)"
    ):
        list_videos((str(folder / "*[gt]"),))


def test_reported_suffixes(shared_data: Path) -> None:
    listed = names(list_videos((str(shared_data / "reported/suffixes"),)), shared_data / "reported/suffixes")
    assert listed == ["Talk-634704007.unknown_video", "b.f4v", "c.mpe", "e.264", "ok.gif"]
    for path in (shared_data / "reported/suffixes").iterdir():
        assert is_video_by_content(path.read_bytes()[:START_BYTES])


def test_a_list_names_a_video_again(folder: Path) -> None:
    notes: list[str] = []
    (folder / "list.csv").write_text("uri,label\nb.mp4,run\n./b.mp4,sit\nx\0,\n")
    sources = list_videos((str(folder / "list.csv"),), note=notes.append)
    assert [(source.uri, source.label) for source in sources] == [
        (str(folder / "b.mp4"), "run"),
        (f"{folder / 'list.csv'}:4", None),
    ]
    assert notes == [
        f"{folder / 'list.csv'}: lines that name no usable video and are rejected: 1; the first is line 4: "
        "holds a NUL byte",
        f"videos that are named again: 1 (first {folder / 'b.mp4'}); each counts as it was named first",
    ]
    given = str(folder), str(folder / "list.csv")
    for videos, num_told in ((given[::-1], 1), (given, 2)):  # where the folder comes first, both labels are lost
        notes.clear()
        list_videos(videos, note=notes.append)
        assert [note for note in notes if note.startswith(f"videos that are named again: {num_told} ")]


def test_pages_of_sites_are_left_to_the_download_of_links(folder: Path) -> None:
    """Read in place, each would be a request without a rate limit, whose answer is no video."""
    notes: list[str] = []
    path = folder / "kinetics.csv"
    path.write_text("label,youtube_id\nrun,AAAAAAAAAA1\nsit,AAAAAAAAAA2\n")
    with pytest.raises(SourceError, match=rf"line 2: is a page of youtube.com \(pages of sites: 2; --links {path}"):
        list_videos((str(path),))
    with pytest.raises(SourceError, match=r"is a page of youtube.com.* give --links links.txt"):
        list_videos(("https://youtu.be/AAAAAAAAAA1",))
    (folder / "mixed.csv").write_text("uri\nb.mp4\nhttps://vimeo.com/1\n")
    sources = list_videos((str(folder / "mixed.csv"),), note=notes.append)
    assert [source.problem for source in sources] == ["", "line 3: is a page of vimeo.com"]
    assert "--links" in notes[0]


def test_a_forked_process_takes_no_listing_away(folder: Path, tmp_path: Path) -> None:
    listing = SourceListing([str(folder)])
    pid = os.fork()
    if pid == 0:
        del listing
        os._exit(0)
    os.waitpid(pid, 0)
    listing.write(str(tmp_path / "listing.parquet"))
    assert pq.read_table(tmp_path / "listing.parquet").num_rows == len(list_videos([str(folder)]))
