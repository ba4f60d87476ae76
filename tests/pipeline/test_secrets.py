"""A run with passwords and signatures in its addresses leaves them nowhere: all that it wrote is looked through."""

from __future__ import annotations

import base64
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.commands.run import main as run
from pipeline.core import secrets
from pipeline.core.secrets import masked, public
from pipeline.core.stage import config_dict
from pipeline.engine.store import Store
from stages.ingest import IngestConfig
from stages.video.artifacts import INDEX_NAME
from stages.video.ledger import read_records
from stages.video.sources import hash_sources, list_videos
from tests.pipeline.engine.mlflow_server import Server
from tests.stages.test_extract import encode

PASSWORD, SIGNATURE, NEXT_SIGNATURE = "hush-3141", "5ec2e7", "0thers1gn"
SMALL = [
    *("--in-process", "--held-out", "0.4", "--extract.convnet.layer", "stem", "--extract.convnet.input-px", "32"),
    *("--extract.decode.short-side-px", "32", "--extract.decode.crop-px", "32"),
    *("--pretrain.num-steps", "2", "--pretrain.num-units", "4", "--pretrain.batch-size", "2"),
    *("--pretrain.num-frames-in", "3", "--pretrain.num-frames-out", "2", "--models", "composite"),
    *("--pretrain.window-stride", "1", "--forecast.window-stride", "1"),
]


class Guarded(SimpleHTTPRequestHandler):
    """Files for those who know the password, and have signed."""

    signature = SIGNATURE

    def do_GET(self) -> None:
        if self.is_allowed():
            super().do_GET()

    def do_HEAD(self) -> None:
        if self.is_allowed():
            super().do_HEAD()

    def is_allowed(self) -> bool:
        expected = "Basic " + base64.b64encode(f"ann:{PASSWORD}".encode()).decode()
        is_allowed = self.headers["Authorization"] == expected and f"X-Amz-Signature={self.signature}" in self.path
        if not is_allowed:
            self.send_error(403)
        return is_allowed

    def log_message(self, format: str, *args: object) -> None:
        return None


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Guarded, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def signed(host: str, name: str, signature: str) -> str:
    return f"http://ann:{PASSWORD}@{host}/{name}?X-Amz-Date={signature}&X-Amz-Signature={signature}"


def test_a_run_with_signed_addresses_leaves_no_secret_and_a_new_signature_is_the_same_source(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    videos, store = tmp_path / "videos", tmp_path / "store"
    videos.mkdir()
    for number in range(4):
        encode(videos / f"{number}.mp4", 12 + number, seed=number)
    server = Server(tmp_path)
    server.start()
    tracking = server.uri.replace("://", f"://ann:{PASSWORD}@")
    monkeypatch.setattr(secrets, "_real", {})
    with serving(videos) as host:

        def command(signature: str, *others: str) -> list[str]:
            given = [signed(host, f"{n}.mp4", signature) for n in range(4)]
            return ["youtube", "--videos", *given, *SMALL, "--store", str(store), *others]

        assert run(command(SIGNATURE, "--tracking-uri", tracking)) == 0
        out, err = capfd.readouterr()
        keys = {m.key for m in Store.open(str(store)).manifests()}
        monkeypatch.setattr(Guarded, "signature", NEXT_SIGNATURE)
        secrets._real.clear()
        (percepts,) = store.glob("extract/*/manifest.json")
        percepts.unlink()
        for shard in (store / "percepts").rglob("*.*"):
            shard.unlink()
        assert (
            run(command(NEXT_SIGNATURE, "--no-tracking")) == 0
        )  # the index is reused, and the videos are fetched with the new one
    server.kill()
    again_out, again_err = capfd.readouterr()
    assert {m.key for m in Store.open(str(store)).manifests()} == keys
    assert "ingest: have" in again_out
    assert "extract: made" in again_out
    (index,) = store.glob(f"ingest/*/{INDEX_NAME}")
    records = read_records(str(index))
    assert [(r.uri, r.verdict) for r in records] == [(f"http://{host}/{n}.mp4", "ok") for n in range(4)]
    assert f"http://{host}/0.mp4" in next(store.glob("reports/*/report.html")).read_text()

    written = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    written |= {"stdout": (out + again_out).encode(), "stderr": (err + again_err).encode()}
    assert b"youtube" in written[f"{tmp_path}/mlflow.db"]
    for secret in (PASSWORD, SIGNATURE, NEXT_SIGNATURE):
        told = [name for name, data in written.items() if secret.encode() in data]
        assert not told, secret


def test_two_videos_that_differ_in_a_token_alone_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_real", {})
    given = ["https://h.example/v.mp4?token=a", "https://h.example/v.mp4?token=b", "https://h.example/v.mp4?token=a"]
    listed = [source.uri for source in list_videos(given)]
    assert listed == ["https://h.example/v.mp4", "https://h.example/v.mp4#2"]
    assert [secrets.real(uri) for uri in listed] == given[:2]
    other = [address.replace("=a", "=c").replace("=b", "=d") for address in given]
    assert hash_sources(list_videos(other)) == hash_sources(list_videos(given))
    assert config_dict(IngestConfig(videos=tuple(other))) == config_dict(IngestConfig(videos=tuple(given)))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://b.s3.amazonaws.com/v.mp4?X-Amz-Date=1&X-Amz-Signature=q&versionId=3", "https://b.s3.amazonaws.com/v.mp4?versionId=3"),
        ("https://acct.blob.core.windows.net/c/v.mp4?sv=1&se=2&sig=q", "https://acct.blob.core.windows.net/c/v.mp4"),
        ("https://h/v.mp4?st=10&se=20", "https://h/v.mp4?st=10&se=20"),
        ("https://h/get?id=3&access_token=q#t=1", "https://h/get?id=3#t=1"),
        ("postgresql://ann:p@ss@db/mlflow", "postgresql://db/mlflow"),
        ("simplecache::https://u:q@h/v.mp4", "simplecache::https://h/v.mp4"),
        ("abfs://container@account.dfs.core.windows.net/v.mp4", "abfs://container@account.dfs.core.windows.net/v.mp4"),
        ("s3://bucket/a b@c.mp4", "s3://bucket/a b@c.mp4"),
        ("/clips/what?token=3.mp4", "/clips/what?token=3.mp4"),
        ("models:/walks@best", "models:/walks@best"),
    ],
)  # fmt: skip
def test_an_address_is_shown_without_its_secrets_and_otherwise_as_it_is(address: str, expected: str) -> None:
    assert public(address) == expected
    assert public(expected) == expected
    assert masked(f"cannot reach {address!r}: gone") == f"cannot reach {expected!r}: gone"


def test_settings_that_are_secrets_are_masked_in_text() -> None:
    said = masked('AWS_SECRET_ACCESS_KEY=hush {"aws_session_token": "hush", "password": \'hush\'} --workers 2')
    assert "hush" not in said
    assert said.endswith("--workers 2")


def test_other_users_do_not_see_secrets_in_the_title_of_the_process() -> None:
    script = (
        "from pipeline.core.secrets import hide_in_title; hide_in_title();"
        "print(open('/proc/self/cmdline').read().replace('\\0', ' '))"
    )
    seen = subprocess.run(
        [sys.executable, "-c", script, "--videos", "https://ann:hush@h.example/v.mp4?sig=hush"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "https://h.example/v.mp4" in seen
    assert "hush" not in seen
