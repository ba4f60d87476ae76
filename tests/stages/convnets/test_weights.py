"""Files of weights: from where, and with which digest."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.core.errors import ConfigError, DigestError, SourceError
from pipeline.core.files import sha256_file
from stages.convnets.config import ConvnetConfig
from stages.convnets.convnet import identity
from stages.convnets.weights import Weights, digest


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """A server with one file where the hub would have it; its address."""
    folder = tmp_path / "hub" / "owner" / "net.tag" / "resolve" / "main"
    folder.mkdir(parents=True)
    save_file({"x": torch.arange(3.0)}, folder / "model.safetensors")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "hub")) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_weights_of_the_hub_and_of_the_web(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub)
    sha256 = sha256_file(str(tmp_path / "hub/owner/net.tag/resolve/main/model.safetensors"))
    named = "hf://owner/net.tag/model.safetensors"
    for uri in (named, f"{hub}/owner/net.tag/resolve/main/model.safetensors"):
        assert digest(uri) == sha256
        assert Weights(uri, sha256).load()["x"].tolist() == [0, 1, 2]
    with pytest.raises(DigestError, match=f"have sha256 {sha256}, not 000"):
        Weights(named, "0" * 64).load()
    with pytest.raises(SourceError, match="no weights at hf://owner/other/"):
        digest("hf://owner/other/model.safetensors")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match="cannot be read") as refused:
        digest(named)
    assert "\n" not in str(refused.value)


def test_a_missing_digest_is_told(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "net.safetensors")
    weights = str(tmp_path / "net.safetensors")
    with pytest.raises(ConfigError, match=f"has {sha256_file(weights)}; give it as weights_sha256"):
        identity(ConvnetConfig(weights=weights))
