"""Digests of files on the disk: hashed once, and again once anything has written to them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from pipeline.core.files import sha256_bytes
from stages.percepts import file_digests
from stages.percepts.file_digests import has_digest


def test_a_file_is_hashed_once_and_again_when_it_has_changed_with_its_times_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, stamp, hashed = tmp_path / "a", tmp_path / "a.checked", []
    path.write_bytes(b"abc")
    digest = sha256_bytes(b"abc")

    def counted(*arguments: object) -> object:
        hashed.append(arguments)
        return hashlib.file_digest(*arguments)  # type: ignore[arg-type]  # those of the call that it stands for

    monkeypatch.setattr(file_digests, "file_digest", counted)

    def is_whole(where: Path | None = stamp) -> bool:
        with path.open("rb") as file:
            return has_digest(path, file.fileno(), digest, where)

    assert [is_whole(), is_whole(), len(hashed)] == [True, True, 1]
    assert [is_whole(None), len(hashed)] == [True, 2]
    times = path.stat()
    path.write_bytes(b"abd")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not is_whole()
    path.write_bytes(b"abc")
    for other in ("{", "[]"):
        stamp.write_text(other)
        assert is_whole()
    monkeypatch.setattr(file_digests, "boot_id", lambda: "another start")
    assert [is_whole(), len(hashed)] == [True, 6]
