"""A source's failure is a row with the server's words, never the end of a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.errors import SourceError
from pipeline.core.stage import Context
from stages.convnets.config import ConvnetConfig
from stages.extract import ExtractConfig, extract
from stages.ingest import IngestConfig, ingest
from stages.video import fetch
from stages.video.decode import DecodeConfig
from stages.video.ledger import NOT_READ
from stages.video.limits import Limits
from tests.stages.failing_server import FAILURES, FailingServer, failing_server
from tests.stages.video.clips import encode, moving_square

LIMITS = Limits(max_bytes=1 << 20)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Videos at whose URLs the server fails."""
    folder = tmp_path_factory.mktemp("films")
    names = [f"{n}-bad.mp4" for n in range(len(FAILURES))]
    films = {}
    for number, name in enumerate(names):
        films[name] = encode(folder / name, moving_square(5 + number)).read_bytes()
    return films


@pytest.fixture
def server(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[FailingServer]:
    monkeypatch.setattr(fetch, "PAUSES_S", (0.01,))
    monkeypatch.setattr(fetch, "STALL_S", 2.0)  # a busy machine is silent for a second
    with failing_server(files) as running:
        yield running


@pytest.mark.parametrize("number", range(len(FAILURES)), ids=FAILURES)
def test_each_failure_alone(server: FailingServer, tmp_path: Path, number: int) -> None:
    context = Context.for_test(tmp_path)
    index = ingest(IngestConfig(videos=(server.failing("bad.mp4")[number],), limits=LIMITS), context)
    (record,) = index.records()
    assert record.verdict == "rejected"
    assert record.reason


def test_each_failure_alone_after_ingest(server: FailingServer, tmp_path: Path) -> None:
    """The only video of a run was there for ingest and is not for extract: the end is one line with the reason."""
    decode = DecodeConfig(short_side_px=16, crop_px=16)
    config = ExtractConfig(
        convnet=ConvnetConfig(name="pixels", layer="gray", grid=2, input_px=16), decode=decode, limits=LIMITS
    )
    for number, failure in enumerate(FAILURES):
        server.is_well = True
        videos = (server.failing("bad.mp4")[number],)
        root = tmp_path / str(number)
        index = ingest(IngestConfig(videos=videos, limits=LIMITS), Context.for_test(root, uri=str(root / "index")))
        server.is_well = False
        with pytest.raises(SourceError, match="no video of the index gave a frame: http://127") as caught:
            extract(config, Context.for_test(root), index=index)
        assert str(caught.value).isprintable()
        assert NOT_READ in str(caught.value), failure
        server.is_well = True
        assert extract(config, Context.for_test(root), index=index).records()[0].verdict == "ok", failure


@pytest.mark.parametrize("uri", ["file:///dev/zero", "local:///dev/zero", "/dev/zero", "/dev/../dev/zero"])
def test_a_device_is_refused_by_every_name(tmp_path: Path, uri: str) -> None:
    (tmp_path / "list.txt").write_text(f"{uri}\n")
    (record,) = ingest(IngestConfig(videos=(str(tmp_path / "list.txt"),)), Context.for_test(tmp_path)).records()
    assert (record.verdict, "a device" in record.reason) == ("rejected", True)


def test_a_scheme_without_its_package_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("dropbox://films/a.mp4\nnosuchscheme://a.mp4\n")
    records = ingest(IngestConfig(videos=(str(tmp_path / "list.txt"),)), Context.for_test(tmp_path)).records()
    assert [record.verdict for record in records] == ["rejected", "rejected"]
    assert all(record.reason for record in records)


def test_a_list_that_a_server_refuses_is_one_line(server: FailingServer, tmp_path: Path) -> None:
    for number, failure in enumerate(FAILURES):
        if failure.isdigit():
            with pytest.raises(SourceError, match=r"cannot re(ach|ad)|there is nothing") as caught:
                ingest(IngestConfig(videos=(f"{server.url}/{number}/list.txt",)), Context.for_test(tmp_path))
            assert "\n" not in str(caught.value)


def test_a_bucket_without_credentials_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(SourceError, match="cannot reach 's3://no-such-bucket-here/films'") as caught:
        ingest(IngestConfig(videos=("s3://no-such-bucket-here/films",)), Context.for_test(tmp_path))
    assert "\n" not in str(caught.value)
