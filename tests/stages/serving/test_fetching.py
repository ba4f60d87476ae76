"""Addresses from strangers: what is fetched, and what is refused."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from pipeline.core.errors import ConfigError, SourceError
from stages.serving.fetching import FetchPolicy, fetched

DATA = bytes(range(256)) * 8192  # 2 MiB


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "clip #1.mp4").write_bytes(DATA)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "www"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def read(address: str, policy: FetchPolicy) -> bytes:
    with fetched(address, policy) as path:
        return path.read_bytes()


def test_the_web_a_bucket_and_the_question_itself(web: str, s3_bucket: str) -> None:
    policy = FetchPolicy(allow_private=True)
    with fsspec.open(f"{s3_bucket}/[x];&.mp4", "wb") as file:
        file.write(DATA)
    assert read(f"{web}/clip%20%231.mp4", policy) == DATA
    assert read(f"{s3_bucket}/[x];&.mp4", policy) == DATA
    encoded = base64.b64encode(DATA).decode()
    for head in ("data:video/mp4;base64,", "DATA:;BASE64,", "data:video/mp4;name=a;base64,"):
        assert read(head + encoded, policy) == DATA
    assert read("data:,a%20b", policy) == b"a b"
    with fetched(f"{web}/clip%20%231.mp4", policy) as path:
        kept = path
    assert not kept.exists()


def test_too_much_too_slow_and_nothing_there(web: str) -> None:
    address = f"{web}/clip%20%231.mp4"
    assert read(address, FetchPolicy(max_bytes=len(DATA), allow_private=True)) == DATA
    with pytest.raises(SourceError, match=f"more than the {len(DATA) - 1} bytes"):
        read(address, FetchPolicy(max_bytes=len(DATA) - 1, allow_private=True))
    with pytest.raises(SourceError, match="takes longer than the 1e-09 s"):
        read(address, FetchPolicy(max_seconds=1e-9, allow_private=True))
    with pytest.raises(SourceError, match=r"cannot be fetched \(HTTP 404\)"):
        read(f"{web}/nothing.mp4", FetchPolicy(allow_private=True))
    with pytest.raises(SourceError, match=r"'data:video/mp4;base64,x+\.\.\.' cannot be fetched"):
        read(f"data:video/mp4;base64,{'x' * 1001}", FetchPolicy())


@pytest.mark.parametrize(
    "address", ["ftp://h/x.mp4", "zip://x.mp4::file:///etc/p.zip", "http://h/x::file:///etc/p", "memory://x", "git://x"]
)
def test_other_schemes_and_chains_are_refused(address: str) -> None:
    with pytest.raises(SourceError, match="give a single address of one of https:, http:, s3:, data:"):
        read(address, FetchPolicy())


def test_local_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "videos" / "a:b.mp4"
    inside.parent.mkdir()
    inside.write_bytes(b"x")
    (tmp_path / "secret.mp4").write_bytes(b"y")
    (tmp_path / "videos" / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    for address in (str(inside), inside.as_uri(), "relative.mp4", "a:b.mp4"):
        with pytest.raises(SourceError, match="local paths are refused here"):
            read(address, FetchPolicy.of_environment())
    monkeypatch.setenv("PERCEPTS_VIDEO_FOLDER", str(tmp_path / "videos"))
    policy = FetchPolicy.of_environment()
    assert read(str(inside), policy) == b"x"
    assert inside.exists()
    for name in ("videos/../secret.mp4", "videos/link.mp4", "videos/none.mp4", "videos", "x" * 300, "y" * 5000):
        with pytest.raises(SourceError, match="there is no video"):
            read(f"{tmp_path}/{name}", policy)
    monkeypatch.setenv("PERCEPTS_VIDEO_MAX_BYTES", "many")
    with pytest.raises(ConfigError, match="give a number of bytes"):
        FetchPolicy.of_environment()
