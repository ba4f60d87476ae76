"""Files under any name: what is written is read back, and nothing else changes, on disk and on an S3 server."""

from __future__ import annotations

import itertools
import re
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from s3fs.core import S3File, S3FileSystem

from pipeline.core.errors import SourceError
from pipeline.core.files import (
    absolute,
    exists,
    filesystem,
    is_local,
    is_url,
    join,
    list_directories,
    list_files,
    list_states,
    local_copy,
    open_atomic,
    read_bytes,
    read_many,
    remove,
    sha256_bytes,
    sha256_file,
    size_bytes,
    write_bytes,
)
from pipeline.engine.store import Manifest, Store

NUM_EXAMPLES = 134
"""Each with three names: 402 on disk. On S3, where one is some fifty requests, a third as many."""
PHASES = (Phase.explicit, Phase.generate)
"""Shrinking takes minutes where every example is some fifty requests."""
ALPHABET = st.one_of(
    st.sampled_from("[]*?!{}%#&;:~$'\"\\ \n\r\t\x01\x1f\x7f.-ab01é\u0301漢🎬\u202e\ufeff"),
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0"),
)
TAKEN = (".", "..", "store.json", "k")
"""Steps, and what the store itself writes beside these names."""
NAMES = st.one_of(
    st.sampled_from(
        ["run[1]", "a?b", "a*", "%20", "a%2Fb", "a::b", "s3:", "~", "-rf", "a\nb", "{a,b}", "[!a]", "x.tmp-y"]
    ),
    st.text(ALPHABET, min_size=1, max_size=40),
).filter(lambda name: name not in TAKEN and len(name.encode()) <= 255)
S3_NAMES = NAMES.filter(lambda name: "\n" not in name)
"""The routes of moto's server match no key with a newline; S3 itself takes one."""


def siblings(name: str) -> set[str]:
    """Returns names that `name` would stand for as a pattern, as an encoded URL, or as a step."""
    near = {
        unquote(name),
        quote(name),
        re.sub(r"[*?]", "x", name),
        re.sub(r"\[(.)[^]]*\]", r"\1", name),
        name.partition("?")[0],
        name.strip(),
        name.partition("::")[0],
    }
    near |= {"a", "run1"}
    return {
        other
        for other in near
        if other not in (name, "", ".", "..") and "/" not in other and "\0" not in other and len(other.encode()) <= 255
    }


def contents(root: str) -> dict[str, str]:
    """Returns the etag, or the bytes, of every file below a bucket or folder, not by the functions under test."""
    fs, path = filesystem(root)
    fs.invalidate_cache()
    infos = fs.find(path, detail=True)
    return {str(name): str(info.get("ETag") or fs.cat_file(name)) for name, info in infos.items()}


def check_names(root: str, store_name: str, folder: str, name: str) -> None:
    """Writes, reads and removes a file of these names among neighbours that must stay as they are."""
    for other in siblings(store_name):
        write_bytes(join(root, other, "neighbour"), other.encode())
    write_bytes(join(root, store_name + "-beside"), b"beside")
    store = Store.open(join(root, store_name), create=True)
    store.commit(Manifest(stage=folder, version=1, key="k", name="", recipe="", config={}, inputs={}))
    for other in siblings(name) - {"manifest.json"}:
        write_bytes(join(store.root, folder, other), other.encode())
    before = contents(root)

    uri, data = join(store.root, folder, name), f"{store_name}\0{folder}\0{name}".encode()
    write_bytes(uri, data)
    assert read_bytes(uri) == data
    assert read_many([uri, uri + "-absent"]) == {uri: data}
    assert size_bytes(uri) == len(data)
    assert sha256_file(uri) == sha256_bytes(data)
    with local_copy(uri) as copy:
        assert copy.read_bytes() == data
    assert exists(uri)
    assert f"{folder}/{name}" in list_states(store.root)
    if ".tmp-" not in name:
        assert name in list_files(join(store.root, folder))
    assert folder in list_directories(store.root)
    assert [manifest.stage for manifest in store.manifests()] == [folder]
    assert set(contents(root)) - set(before) == {filesystem(uri)[1]}

    remove(uri)
    assert contents(root) == before
    remove(uri)
    remove(join(store.root, folder))
    path = filesystem(join(store.root, folder))[1]
    assert contents(root) == {other: digest for other, digest in before.items() if not other.startswith(f"{path}/")}
    remove(store.root)
    path = filesystem(store.root)[1]
    assert contents(root) == {other: digest for other, digest in before.items() if not other.startswith(f"{path}/")}


@settings(max_examples=NUM_EXAMPLES, phases=PHASES)
@given(store_name=NAMES, folder=NAMES, name=NAMES)
def test_any_name_is_literal_on_disk(store_name: str, folder: str, name: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        check_names(directory, store_name, folder, name)


@settings(
    max_examples=NUM_EXAMPLES // 3,
    phases=PHASES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(store_name=S3_NAMES, folder=S3_NAMES, name=S3_NAMES)
def test_any_name_is_literal_on_s3(s3_bucket: str, store_name: str, folder: str, name: str) -> None:
    check_names(f"{s3_bucket}/top", store_name, folder, name)
    remove(f"{s3_bucket}/top")


def test_an_upload_that_is_cut_leaves_what_was_there(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large checkpoint goes in parts: without the last ones, the others may not become a file of its name."""
    uri, upload, num_parts = f"{s3_bucket}/step-00000010.safetensors", S3File._upload_chunk, itertools.count(1)

    def cut(self: Any, final: bool = False) -> Any:
        if next(num_parts) == 2:
            raise ConnectionResetError("the cable is cut, and mended at once")
        return upload(self, final)

    write_bytes(uri, b"before")
    monkeypatch.setattr(filesystem(uri)[0], "default_block_size", 5 << 20)
    monkeypatch.setattr(S3File, "_upload_chunk", cut)
    with pytest.raises(SourceError, match="cable is cut"):
        write_bytes(uri, bytes(12 << 20))
    assert read_bytes(uri) == b"before"


def test_what_another_process_writes_after_a_listing_is_seen(s3_bucket: str) -> None:
    """Workers write the parts that are missing after their stage has listed those that are there."""
    folder, others = f"{s3_bucket}/table", S3FileSystem(skip_instance_cache=True)
    write_bytes(f"{folder}/part-1", b"one")
    assert list_files(folder) == ["part-1"]
    others.pipe_file(f"{folder}/part-0", b"zero")
    assert exists(f"{folder}/part-0")
    assert list_files(folder) == ["part-0", "part-1"]
    others.pipe_file(f"{folder}/part-2", b"three")
    assert size_bytes(f"{folder}/part-2") == 5


def test_removal_in_a_bucket_reads_no_pattern(s3_bucket: str) -> None:
    for name in ("run[1]/a", "run1/a", "run?/a", "run[1]/b"):
        write_bytes(join(s3_bucket, name), name.encode())
    remove(join(s3_bucket, "run[1]/a"))
    remove(join(s3_bucket, "run?"))
    assert list_files(s3_bucket) == ["run1/a", "run[1]/b"]


def test_a_name_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    uri = str(tmp_path / ("é" * 127))
    with open_atomic(uri) as file:
        file.write(b"1")
        (temporary,) = [path.name for path in tmp_path.iterdir()]
        assert ".tmp-" in temporary
    assert list_files(str(tmp_path)) == ["é" * 127]


def test_file_urls_are_decoded_unless_the_literal_name_exists(tmp_path: Path) -> None:
    plain, literal = tmp_path / "a b?.txt", tmp_path / "c%20d.txt"
    plain.write_bytes(b"plain")
    literal.write_bytes(b"literal")
    assert read_bytes(plain.as_uri()) == b"plain"
    assert read_bytes(f"file://localhost{quote(str(plain))}") == b"plain"
    assert read_bytes(f"file://{literal}") == b"literal"
    assert absolute(plain.as_uri()) == str(plain)


@pytest.mark.parametrize(
    ("uri", "is_a_url"),
    [
        ("s3://b/k", True),
        ("memory://x", True),
        ("zip://a::s3://b/k.zip", True),
        ("simplecache::s3://b/k", True),
        ("file:///a", True),
        ("a/s3://b", False),
        ("/a://b", False),
        ("a::b", False),
        ("[1]://b", False),
        ("", False),
    ],
)
def test_what_is_a_url(uri: str, is_a_url: bool) -> None:
    assert is_url(uri) is is_a_url


def test_a_nul_is_refused_and_the_home_folder_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="NUL"):
        read_bytes("/tmp/a\0b")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert absolute("~/store") == str(tmp_path / "store")
    assert is_local("~/store")
