"""The store: complete if and only if the manifest exists; on a disk and on S3 alike."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy

from pipeline.core import files
from pipeline.core.errors import CorruptArtifact, StoreError
from pipeline.engine.store import Manifest, Output, Store

MANIFEST = Manifest(stage="count", version=1, key="count-0", name="n", recipe="r", config={"num": 3}, inputs={})


@pytest.fixture(params=["disk", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{request.getfixturevalue('s3_bucket')}/store" if request.param == "s3" else str(tmp_path / "store")


def test_an_artifact_is_complete_once_its_manifest_is_there(root: str) -> None:
    store = Store.open(root, create=True)
    directory = store.directory("count", "count-0")
    files.write_bytes(files.join(directory, "sub/numbers.bin"), b"1234")
    assert store.find("count", "count-0") is None
    assert list(store.manifests()) == []
    outputs = store.outputs("count", "count-0")
    assert outputs == {"sub/numbers.bin": Output(sha256=hashlib.sha256(b"1234").hexdigest(), num_bytes=4)}
    manifest = replace(MANIFEST, outputs=outputs)
    store.commit(manifest)
    assert store.find("count", "count-0") == manifest
    assert list(store.manifests("count")) == [manifest]
    assert store.outputs("count", "count-0") == outputs
    assert Store.open(root) == store


def test_a_write_that_fails_leaves_nothing(root: str) -> None:
    uri = files.join(root, "a/b.bin")

    def fail() -> None:
        with files.open_atomic(uri) as file:
            file.write(b"half")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert not files.exists(uri)
    assert files.list_files(root) == []


def test_unfinished_writes_are_not_listed(tmp_path: Path) -> None:
    with files.open_atomic(str(tmp_path / "a.bin")) as file:
        file.write(b"x")
        assert files.list_files(str(tmp_path)) == []
    assert files.list_files(str(tmp_path)) == ["a.bin"]


def test_a_newer_store_is_refused(tmp_path: Path) -> None:
    files.write_json(str(tmp_path / "store.json"), {"format": 99})
    with pytest.raises(StoreError, match=r"format 99.*newer version; upgrade"):
        Store.open(str(tmp_path), create=True)


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no percepts store"):
        Store.open(str(tmp_path / "nowhere"))
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(StoreError, match="not JSON"):
        Store.open(str(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be written|is a file"):
        Store.open(str(tmp_path / "file"), create=True)
    with pytest.raises(StoreError, match="cannot be written"):
        Store.open("/proc/percepts", create=True)
    with pytest.raises(StoreError, match="cannot reach"):
        Store.open("nosuchprotocol://x", create=True)


@pytest.mark.parametrize("uri", ["", " "])
def test_an_address_that_is_empty_is_no_store(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for create in (True, False):
        with pytest.raises(StoreError, match="address is empty"):
            Store.open(uri, create=create)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_other_files_is_no_store(root: str) -> None:
    files.write_bytes(files.join(root, ".git/config"), b"")
    with pytest.raises(StoreError, match=r"holds other files \('\.git'\).* new or empty directory"):
        Store.open(root, create=True)
    assert files.list_files(root) == [".git/config"]


def test_a_new_volume_may_become_a_store(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    assert Store.open(str(tmp_path), create=True).root == str(tmp_path)


@pytest.mark.parametrize(
    "text", [b"[]", b'{"format": true}', b'{"format": 0}', b'{"format": "1"}', b"\xff\xfe{", b"[" * 100_000, b""]
)
def test_a_nonsensical_format_is_one_line(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "store.json").write_bytes(text)
    with pytest.raises(StoreError, match="no percepts store, or a damaged one") as caught:
        Store.open(str(tmp_path), create=True)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "store.json").read_bytes() == text


def test_the_check_of_rights_changes_nothing(root: str) -> None:
    store = Store.open(root, create=True)
    marker = files.join(root, "store.json")
    files.write_bytes(marker, b'{"format": 1, "note": "kept"}')
    store.check_writable()
    assert files.list_files(root) == ["store.json"]
    assert files.read_json(marker)["note"] == "kept"


@pytest.mark.parametrize("name", ["a?b", "a%20b", "a%b", "a#b", "a[1]", "a;b=c"])
def test_mlflow_keeps_its_file_in_a_store_of_any_name(tmp_path: Path, name: str) -> None:
    store = Store.open(str(tmp_path / name), create=True)
    engine = sqlalchemy.create_engine(store.default_tracking_uri)
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("create table t (x int)"))
    engine.dispose()
    assert (tmp_path / name / "mlflow.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path), create=True)
    files.write_bytes(str(tmp_path / "count/count-0/manifest.json"), b"{}")
    with pytest.raises(CorruptArtifact, match=r"count-0/manifest\.json is not a manifest"):
        store.find("count", "count-0")


def test_sqlite_needs_a_disk(tmp_path: Path) -> None:
    assert Store(str(tmp_path)).default_tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    with pytest.raises(StoreError, match="pass --tracking-uri"):
        _ = Store("memory://store").default_tracking_uri


def test_digests_and_copies(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc" * 1_000_000)
    assert files.sha256_file(str(path)) == hashlib.sha256(path.read_bytes()).hexdigest()
    with files.local_copy(str(path)) as local:
        assert local == path
    files.write_bytes("memory://copies/b.bin", b"xyz")
    with files.local_copy("memory://copies/b.bin") as local:
        assert local.read_bytes() == b"xyz"
    assert not local.exists()
