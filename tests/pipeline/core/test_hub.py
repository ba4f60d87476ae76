"""Addresses on the hub, and a model loaded from one: a server that lays files out as the hub does."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch

from pipeline.core.addresses.hub import hub_address
from pipeline.core.errors import ConfigError, SourceError
from stages.models.composite import Composite
from stages.models.config import CompositeConfig
from stages.models.pretrained import Pretrained, load_encoder


def test_addresses_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert (
        hub_address("hf://timm/net.tag/a/b.safetensors")
        == "https://huggingface.co/timm/net.tag/resolve/main/a/b.safetensors"
    )
    assert hub_address("hf://o/n@v1/m.pth") == "https://huggingface.co/o/n/resolve/v1/m.pth"
    assert hub_address("/local/hf.pth") == "/local/hf.pth"
    for wrong in ("hf://", "hf://name", "hf://owner/name", "hf://owner/name/"):
        with pytest.raises(ConfigError, match="names no file of the hub"):
            hub_address(wrong)


class Counting(SimpleHTTPRequestHandler):
    """Serves files and keeps the paths that were asked for with GET."""

    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_: object) -> None:
        """Prints nothing."""


def test_an_encoder_is_loaded_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Pretrained(Composite(CompositeConfig(num_units=3).spec(4)))
    model.save(str(tmp_path / "me" / "walks" / "resolve" / "v2" / "model.safetensors"))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Counting, directory=str(tmp_path))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        loaded = load_encoder("hf://me/walks@v2")
        with pytest.raises(SourceError, match="there is no model file at http"):
            load_encoder("hf://me/walks")
        server.shutdown()
    for name, value in model.composite.state_dict().items():
        assert torch.equal(loaded.composite.state_dict()[name], value)
    assert Counting.asked.count("/me/walks/resolve/v2/model.safetensors") <= 2  # whether it is there, and its bytes
