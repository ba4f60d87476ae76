"""The node's cache: one process fills, the others wait; what is mapped stays; what is damaged is read again."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from pipeline.core.errors import ConfigError, CorruptArtifact, StoreError
from pipeline.core.files import sha256_bytes, write_bytes
from stages.percepts import file_digests, open_store
from stages.percepts.node_cache import NodeCache, RemoteFile
from tests.stages.percepts.made_store import values, video_name, write_shard

DATA = bytes(range(256)) * 40
SPAWN = multiprocessing.get_context("spawn")


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 240
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.01)


def fill_slowly(directory: Path, me: str) -> None:
    """What a process of the node does: it fills when it is told to, and says that it waits."""

    def fill(target: BinaryIO) -> str:
        with (directory / "fills").open("a") as file:
            file.write(f"{me}\n")
        target.write(DATA[:100])
        target.flush()
        (directory / "filling").touch()
        wait_for(directory / "go")
        target.write(DATA[100:])
        return sha256_bytes(DATA)

    cache = NodeCache(directory / "cache", log=lambda line: (directory / f"{me} said").write_text(line) and None)
    entry = cache.entry("file", len(DATA), fill, sha256=sha256_bytes(DATA), what="s3://far/file")
    (directory / f"{me} has").write_bytes(entry.path.read_bytes())


def start(directory: Path, me: str) -> multiprocessing.process.BaseProcess:
    process = SPAWN.Process(target=fill_slowly, args=(directory, me))
    process.start()
    return process


def test_two_processes_at_once_read_once(tmp_path: Path) -> None:
    first = start(tmp_path, "first")
    wait_for(tmp_path / "filling")
    second = start(tmp_path, "second")
    wait_for(tmp_path / "second said")
    (tmp_path / "go").touch()
    for process in (first, second):
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / "fills").read_text() == "first\n"
    assert (tmp_path / "second said").read_text() == "waiting for another process of this node to get s3://far/file"
    assert (tmp_path / "first has").read_bytes() == (tmp_path / "second has").read_bytes() == DATA


def test_a_process_killed_while_filling_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    killed = start(tmp_path, "killed")
    wait_for(tmp_path / "filling")
    assert killed.pid is not None
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    assert (tmp_path / "cache/file.partial").stat().st_size == len(DATA)
    (tmp_path / "go").touch()
    fill_slowly(tmp_path, "next")
    assert (tmp_path / "next has").read_bytes() == DATA
    assert not (tmp_path / "next said").exists()
    assert not list((tmp_path / "cache").glob("*.partial"))


def filler(data: bytes) -> Callable[[BinaryIO], str]:
    def fill(target: BinaryIO) -> str:
        target.write(data)
        return sha256_bytes(data)

    return fill


def test_the_least_recently_used_goes_first_and_what_is_mapped_stays(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path, max_bytes=300)

    def get(name: str) -> object:
        entry = cache.entry(name, 100, filler(name.encode() * 100), what=name)
        time.sleep(0.01)  # times of use differ
        return entry

    def names() -> list[str]:
        return sorted(path.name for path in tmp_path.iterdir() if len(path.name) == 1)

    mapped = get("a")
    for name in ("b", "c", "b"):
        get(name)
    get("d")
    assert names() == ["a", "b", "d"]  # c: used before b; a: mapped
    others = [get("b"), get("d")]
    with pytest.raises(ConfigError, match=r"lacks 0.000 GB for e: what it holds is in use; give a larger"):
        get("e")
    assert names() == ["a", "b", "d"]
    del mapped, others
    get("e")
    assert names() == ["b", "d", "e"]


def test_leftovers_of_the_dead_make_room(tmp_path: Path) -> None:
    (tmp_path / "old.partial").write_bytes(b"x" * 250)
    cache = NodeCache(tmp_path, max_bytes=300)
    cache.entry("a", 100, filler(b"a" * 100), what="a")
    assert not (tmp_path / "old.partial").exists()


def test_a_damaged_file_is_read_again(s3_bucket: str, tmp_path: Path) -> None:
    said: list[str] = []
    cache = NodeCache(tmp_path, log=said.append)
    uri = f"{s3_bucket}/a.parquet"
    write_bytes(uri, DATA)
    file = RemoteFile(uri, len(DATA), sha256_bytes(DATA))
    path = cache.fetch(file).path
    assert path.name == f"{sha256_bytes(DATA)}.parquet"
    inode = path.stat().st_ino
    assert cache.fetch(file).path.stat().st_ino == inode
    os.utime(path)  # written to, and still the same bytes: hashed once more, and kept
    assert cache.fetch(file).path.stat().st_ino == inode
    assert not said
    with path.open("r+b") as damaged:
        damaged.seek(1000)
        damaged.write(b"!")
    assert cache.fetch(file).path.read_bytes() == DATA
    assert said == [f"{path} has changed on this node's disk: getting {uri} again"]


def test_bytes_that_are_not_promised_are_refused(s3_bucket: str, tmp_path: Path) -> None:
    write_bytes(f"{s3_bucket}/a.parquet", DATA)
    with pytest.raises(CorruptArtifact, match=r"its store promises 000.*the store has changed"):
        NodeCache(tmp_path).fetch(RemoteFile(f"{s3_bucket}/a.parquet", len(DATA), "0" * 64))
    with pytest.raises(FileNotFoundError):
        NodeCache(tmp_path).fetch(RemoteFile(f"{s3_bucket}/b.parquet", len(DATA), "0" * 64))
    assert {path.suffix for path in tmp_path.iterdir()} <= {""}


def test_a_store_that_cannot_fit_is_refused_before_it_is_read(s3_bucket: str, tmp_path: Path) -> None:
    for number in range(3):
        write_shard(f"{s3_bucket}/store/{number}.parquet", {number: [500]})
    with pytest.raises(ConfigError, match=r"3 files of 0.000 GB do not fit into the node's cache .* may hold 0.000 GB"):
        open_store(f"{s3_bucket}/store", cache=NodeCache(tmp_path / "small", max_bytes=20_000))
    assert not list((tmp_path / "small").iterdir())
    store = open_store(f"{s3_bucket}/store", cache=NodeCache(tmp_path / "large", max_bytes=10**6))
    for number in range(3):
        np.testing.assert_array_equal(store.percepts(video_name(number)), values(number, 500))


def test_local_stores_are_mapped_where_they_are(tmp_path: Path) -> None:
    write_shard(str(tmp_path / "a.parquet"), {1: [30]})
    store = open_store(str(tmp_path / "a.parquet"), cache=NodeCache(tmp_path / "cache"))
    np.testing.assert_array_equal(store.percepts(video_name(1)), values(1, 30))
    assert not (tmp_path / "cache").exists()


@pytest.mark.root
def test_a_full_disk_is_said(tmp_path: Path) -> None:
    import subprocess

    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], check=True)
    try:
        cache = NodeCache(tmp_path / "cache", max_bytes=10**9)
        with pytest.raises(StoreError, match=r"the disk of the node's cache .* is full: free some of it, or give"):
            cache.entry("a", 100_000, filler(b"a" * 100_000), what="a")
        assert not list((tmp_path / "cache").glob("a*"))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_the_environment_says_where_and_how_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERCEPTS_CACHE", str(tmp_path / "here"))
    monkeypatch.setenv("PERCEPTS_CACHE_GIGABYTES", "1.5")
    assert NodeCache.of_environment() == NodeCache(tmp_path / "here", 1_500_000_000)
    assert NodeCache.of_environment(directory="/other").directory == Path("/other")
    for wrong in ("many", "-1", "0", "nan", "inf", "1e400"):
        monkeypatch.setenv("PERCEPTS_CACHE_GIGABYTES", wrong)
        with pytest.raises(ConfigError, match="gigabytes above 0"):
            NodeCache.of_environment()
    monkeypatch.delenv("PERCEPTS_CACHE_GIGABYTES")
    for wrong in ("/", "/..", "s3://bucket/cache"):
        monkeypatch.setenv("PERCEPTS_CACHE", wrong)
        with pytest.raises(ConfigError, match="a folder of each node"):
            NodeCache.of_environment()
    monkeypatch.setenv("PERCEPTS_CACHE", ".")
    assert NodeCache.of_environment().directory == Path.cwd()


def test_a_directory_that_others_may_change_is_refused_in_one_line(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "cache")
    cache.entry("a", 3, filler(b"abc"), what="a")
    for mode in (0o770, 0o707):
        cache.directory.chmod(mode)
        with pytest.raises(StoreError, match=r"other users may write to .*cache, .* chmod go-w it, or give another"):
            cache.entry("a", 3, filler(b"abc"), what="a")
        (tmp_path / "cache-compiled").mkdir(exist_ok=True)
        (tmp_path / "cache-compiled").chmod(mode)
        with pytest.raises(StoreError, match=r"other users may write to .*cache-compiled"):
            _ = cache.compiled_code
    cache.directory.chmod(0o755)
    assert cache.entry("a", 3, filler(b"abc"), what="a").path.read_bytes() == b"abc"


@pytest.mark.root
def test_another_users_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o700)
    os.chown(tmp_path / "cache", 12345, 12345)
    with pytest.raises(StoreError, match="cache belongs to another user, who can change what it holds"):
        NodeCache(tmp_path / "cache").entry("a", 3, filler(b"abc"), what="a")


def test_a_flipped_bit_is_found_once_the_machine_has_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = NodeCache(tmp_path / "cache")
    path = cache.entry("a", 3, filler(b"abc"), sha256=sha256_bytes(b"abc"), what="a").path
    before = path.stat()
    path.chmod(0o600)
    path.write_bytes(b"abd")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    stamp = Path(f"{path}.checked")
    state = json.loads(stamp.read_text())
    state["state"][-2:] = [path.stat().st_mtime_ns, path.stat().st_ctime_ns]  # as if no time told of the change
    stamp.write_text(json.dumps(state))
    monkeypatch.setattr(file_digests, "boot_id", lambda: "another start")
    assert cache.entry("a", 3, filler(b"abc"), sha256=sha256_bytes(b"abc"), what="a").path.read_bytes() == b"abc"
