"""A listing that has grown costs what is new in it, and what changed under its old name is found out."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipeline.core.errors import CorruptArtifact
from pipeline.core.stage import Context
from stages import ingest as module
from stages.ingest import IngestConfig, ingest
from stages.video.ledger import VideoRecord
from stages.video.limits import Limits
from stages.video.probe_cache import PROBE_CACHE
from tests.stages.video.clips import encode, moving_square


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the videos that have been read, in order."""
    names: list[str] = []
    real = module.probe_source

    def probe_source(source: Any, *arguments: Any) -> VideoRecord:
        names.append(os.path.basename(source.uri))
        return real(source, *arguments)

    monkeypatch.setattr(module, "probe_source", probe_source)
    return names


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Two videos of one size, and a third."""
    folder = tmp_path_factory.mktemp("clips")
    for number, frames in enumerate((9, 8, 7)):
        encode(folder / f"{number}.mp4", moving_square(frames))
    data = [(folder / f"{number}.mp4").read_bytes() for number in range(3)]
    longest = max(map(len, data))
    return [clip + bytes(longest - len(clip)) for clip in data]  # FFmpeg does not mind zeros at the end


@pytest.fixture
def index_of(tmp_path: Path) -> Callable[..., list[VideoRecord]]:
    """Indexes videos in one store, under another key each time."""
    keys = iter("abcdefghij")

    def make(*videos: str, **settings: Any) -> list[VideoRecord]:
        context = Context.for_test(tmp_path / "store", uri=f"{tmp_path}/store/ingest/{next(keys)}")
        return ingest(IngestConfig(videos=videos, **settings), context).records()

    return make


def write(path: Path, data: bytes, age_s: float = 3600) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (time.time() - age_s,) * 2)


def test_a_grown_folder_is_read_where_it_is_new(
    clips: list[bytes], tmp_path: Path, probed: list[str], index_of: Callable[..., list[VideoRecord]]
) -> None:
    folder = tmp_path / "clips"
    write(folder / "b.mp4", clips[0])
    write(folder / "d.mp4", clips[1])
    write(folder / "e.mp4", b"not a video")
    before = index_of(str(folder))
    assert probed == ["b.mp4", "d.mp4", "e.mp4"]
    # What comes first moves all others; what was rejected may be whole now.
    write(folder / "a.mp4", clips[2])
    after = index_of(str(folder))
    assert probed[3:] == ["a.mp4", "e.mp4"]
    assert after[1:] == before
    fresh = ingest(IngestConfig(videos=(str(folder),)), Context.for_test(tmp_path / "fresh"))
    assert fresh.records() == after


def test_the_same_name_and_size_with_other_bytes(
    clips: list[bytes], tmp_path: Path, probed: list[str], index_of: Callable[..., list[VideoRecord]]
) -> None:
    path = tmp_path / "clips" / "a.mp4"
    write(path, clips[0])
    index_of(str(path))
    write(path, clips[1], age_s=1800)
    assert len(clips[0]) == len(clips[1])
    (record,) = index_of(str(path))
    assert probed == ["a.mp4", "a.mp4"]
    assert record.sha256 == hashlib.sha256(clips[1]).hexdigest()
    # Changed a moment ago: it may change again within the same tick of the clock.
    write(path, clips[0], age_s=0)
    index_of(str(path))
    index_of(str(path))
    assert len(probed) == 4


def test_only_what_the_bytes_decide_is_taken_over(
    clips: list[bytes], tmp_path: Path, probed: list[str], index_of: Callable[..., list[VideoRecord]]
) -> None:
    folder = tmp_path / "clips"
    write(folder / "a.mp4", clips[0])
    (plain,) = index_of(str(folder))
    (folder / "list.csv").write_text("uri,label,part,group\na.mp4,left,train,7\n")
    (named,) = index_of(str(folder / "list.csv"))
    assert named == replace(plain, label="left", part="train", group="7")
    assert probed == ["a.mp4"]
    (short,) = index_of(str(folder), limits=Limits(max_frames=3))
    assert short.verdict == "rejected"
    assert len(probed) == 2


def test_a_bucket(
    s3_bucket: str,
    clips: list[bytes],
    tmp_path: Path,
    probed: list[str],
    index_of: Callable[..., list[VideoRecord]],
) -> None:
    fs = fsspec.filesystem("s3")
    fs.pipe({f"{s3_bucket}/b.mp4": clips[0], f"{s3_bucket}/c.mp4": clips[1]})
    before = index_of(s3_bucket)
    fs.pipe({f"{s3_bucket}/a.mp4": clips[2]})
    assert index_of(s3_bucket)[1:] == before
    assert probed == ["b.mp4", "c.mp4", "a.mp4"]
    fs.pipe({f"{s3_bucket}/c.mp4": clips[0]})
    assert index_of(s3_bucket)[2].reason == "same bytes as b.mp4"
    assert probed[3:] == ["c.mp4"]
    # A manifest tells no more than names: the store is asked for the rest.
    (tmp_path / "list.txt").write_text(f"{s3_bucket}/c.mp4\n{s3_bucket}/a.mp4\n{s3_bucket}/gone.mp4\n")
    assert [record.reason for record in index_of(str(tmp_path / "list.txt"))] == [
        "",
        "",
        "could not be read: there is no such file",
    ]
    assert probed[4:] == ["gone.mp4"]


def test_without_etag_and_time_all_is_read(
    clips: list[bytes], probed: list[str], index_of: Callable[..., list[VideoRecord]]
) -> None:
    fsspec.filesystem("memory").pipe({"/unstamped/a.mp4": clips[0]})
    assert index_of("memory://unstamped") == index_of("memory://unstamped")
    assert len(probed) == 2


def test_a_damaged_memory_is_named(
    clips: list[bytes], tmp_path: Path, index_of: Callable[..., list[VideoRecord]]
) -> None:
    write(tmp_path / "clips" / "a.mp4", clips[0])
    index_of(str(tmp_path / "clips"))
    (memory,) = (tmp_path / "store" / PROBE_CACHE).iterdir()
    memory.write_bytes(memory.read_bytes()[:-9])
    with pytest.raises(CorruptArtifact, match=f"{memory.name} is damaged .* remove it"):
        index_of(str(tmp_path / "clips"))
