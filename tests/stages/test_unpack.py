"""Archives unpacked into a store: once, by content, and on from where a killed run ended."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.stage import Context
from stages.ingest import IngestConfig, ingest
from stages.unpack import UnpackConfig, unpack
from stages.video.artifacts import Corpus
from stages.video.sources import list_videos, split_archives
from tests.stages.video.made_archives import make_rar, make_tar, make_zip

NAME = "pick/#122_Cleaning_(Up)_[x];&!_pick_f_nm_np1_fr_bad_1.avi"


def context_of(root: str | Path, name: str) -> Context:
    return Context.for_test(root, uri=f"{root}/unpack/{name}", store_uri=str(root))


def contents(corpus: Corpus) -> dict[str, bytes]:
    found = {}
    for source in list_videos((corpus.manifest_uri,)):
        with fsspec.open(source.uri, "rb") as file:
            found[source.uri.rpartition("/files/")[2]] = file.read()
    return found


@pytest.fixture
def archives(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "a.zip").write_bytes(make_zip({NAME: b"one", "notes.txt": b"-"}))
    (tmp_path / "b.tar.gz").write_bytes(make_tar({"x/two.mp4": b"two"}, compression="gz"))
    (tmp_path / "c.rar").write_bytes(make_rar({"k.rar": make_rar({"k/three.avi": b"three"})}))
    return tuple(str(tmp_path / name) for name in ("a.zip", "b.tar.gz", "c.rar"))


EXPECTED = {NAME: b"one", "x/two.mp4": b"two", "k/k/three.avi": b"three"}


def test_in_a_store_on_disk_and_again(archives: tuple[str, ...], tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = unpack(UnpackConfig(archives=archives), context_of(store, "1"))
    assert contents(first) == EXPECTED
    # Another name and another artifact, the same bytes: nothing is written a second time.
    moved = shutil.copy(archives[0], tmp_path / "renamed.zip")
    before = {path: path.stat().st_mtime_ns for path in (store / "unpacked").rglob("*")}
    again = unpack(UnpackConfig(archives=(str(moved), archives[2])), context_of(store, "2"))
    assert list(contents(again)) == [NAME, "k/k/three.avi"]
    assert {path: path.stat().st_mtime_ns for path in (store / "unpacked").rglob("*")} == before
    # A store may be moved.
    shutil.move(store, tmp_path / "elsewhere")
    assert contents(Corpus(str(tmp_path / "elsewhere" / "unpack" / "1"))) == EXPECTED


def test_in_a_bucket_from_a_bucket(archives: tuple[str, ...], s3_bucket: str) -> None:
    """What was unpacked is indexed by its place in the bucket, special characters in names and all."""
    remote = [f"{s3_bucket}/in/{Path(archive).name}" for archive in archives]
    for archive, target in zip(archives, remote, strict=True):
        with fsspec.open(target, "wb") as file:
            file.write(Path(archive).read_bytes())
    corpus = unpack(UnpackConfig(archives=tuple(remote)), context_of(f"{s3_bucket}/store", "1"))
    assert contents(corpus) == EXPECTED
    index = ingest(IngestConfig(), Context.for_test(f"{s3_bucket}/store"), unpacked=corpus)
    records = index.records()
    assert [record.size_bytes for record in records] == [3, 3, 5]
    assert records[0].uri.endswith(NAME)
    assert ".." not in records[0].uri


def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"{n}.avi": bytes([n]) * 1000 for n in range(6)}
    (tmp_path / "a.tar").write_bytes(make_tar(files))
    config, store = UnpackConfig(archives=(str(tmp_path / "a.tar"),)), tmp_path / "store"
    written: list[str] = []

    def killed_at_the_fourth(uri: str) -> object:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(uri)
        return real(uri)

    from stages import unpack as module

    real = module.open_atomic
    monkeypatch.setattr(module, "open_atomic", killed_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        unpack(config, context_of(store, "1"))
    assert not list(store.rglob("contents.json"))
    monkeypatch.setattr(module, "open_atomic", lambda uri: (written.append(uri), real(uri))[1])
    assert contents(unpack(config, context_of(store, "1"))) == files
    assert [Path(uri).name for uri in written] == list(files)  # each of them once, over both runs


@pytest.mark.parametrize("label", ["cls", "json", "txt", "captions"])
def test_shards_of_webdataset_and_video2dataset(tmp_path: Path, label: str) -> None:
    """Files beside a video say its class; texts that repeat are classes, others captions."""
    files: dict[str, bytes] = {}
    for number in range(4):
        name, kind = f"00000/{number:09}", ("walk", "run")[number % 2]
        files[f"{name}.mp4"] = bytes([number])
        text = f"caption {number}" if label == "captions" else kind
        values: dict[str, object] = {
            "key": f"{number:09}",
            "url": f"https://host/{number // 2}.mp4",
            "status": "success",
        }
        if label == "json":
            values |= {"label": kind, "split": "val"}
        if label == "cls":
            files[f"{name}.cls"] = f"{number % 2}".encode()
        files[f"{name}.json"] = json.dumps(values).encode()
        files[f"{name}.txt"] = text.encode()
    files["README.md"] = b"x"
    (tmp_path / "00000.tar").write_bytes(make_tar(files))
    logged: list[str] = []
    context = replace(context_of(tmp_path / "store", "1"), emit=lambda event: logged.append(getattr(event, "line", "")))
    corpus = unpack(UnpackConfig(archives=(str(tmp_path / "00000.tar"),)), context)
    sources = list_videos((corpus.manifest_uri,))
    expected = {"cls": ["0", "1"], "json": ["walk", "run"], "txt": ["walk", "run"], "captions": [None, None]}
    assert [source.label for source in sources] == 2 * expected[label]
    assert {source.part for source in sources} == {"validation" if label == "json" else None}
    assert [source.group for source in sources] == [f"https://host/{number // 2}.mp4" for number in range(4)]
    assert ("captions" in " ".join(logged)) == (label != "txt")
    assert "members that are no videos, left out: 1 .md" in " ".join(logged)
    again = unpack(UnpackConfig(archives=(str(tmp_path / "00000.tar"),)), context_of(tmp_path / "store", "2"))
    assert [source.label for source in list_videos((again.manifest_uri,))] == [source.label for source in sources]


def test_a_bad_archive_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(make_zip({"good.avi": b"x", "../bad.avi": b"y"}))
    (tmp_path / "none.zip").write_bytes(make_zip({"readme.txt": b"x"}))
    store = tmp_path / "store"
    with pytest.raises(SourceError, match=r"member '../bad.avi' leads out of its folder"):
        unpack(UnpackConfig(archives=(str(tmp_path / "bad.zip"),)), context_of(store, "1"))
    assert not (tmp_path / "bad.avi").exists()
    with pytest.raises(SourceError, match="holds no videos"):
        unpack(UnpackConfig(archives=(str(tmp_path / "none.zip"),)), context_of(store, "1"))
    assert not list(store.rglob("contents.json"))
    assert unpack.snapshot is not None
    with pytest.raises(SourceError, match="there is no archive"):
        unpack.snapshot(UnpackConfig(archives=("nowhere.zip",)))
    with pytest.raises(ConfigError, match="archives is empty"):
        UnpackConfig(archives=())


def test_which_of_the_videos_given_are_archives(archives: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "folder.zip").mkdir()
    given = ("s3://b/hmdb.rar", "s3://b/clips", f"{tmp_path}/*.zip", archives[2], str(tmp_path / "folder.zip"))
    packed, others = split_archives(given)
    assert packed == ("s3://b/hmdb.rar", archives[0], archives[2])
    assert others == ("s3://b/clips", f"{tmp_path}/folder.zip")
    with pytest.raises(SourceError, match="connect an unpack stage"):
        list_videos((archives[0],))
