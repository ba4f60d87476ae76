"""A source's failure is a row with the server's words, never the end of a run."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.errors import SourceError
from pipeline.core.stage import Context
from stages.convnets.config import ConvnetConfig
from stages.extract import ExtractConfig, extract
from stages.ingest import IngestConfig, ingest
from stages.percepts.artifacts import Percepts
from stages.video import fetch
from stages.video.artifacts import Index
from stages.video.decode import DecodeConfig
from stages.video.limits import Limits
from tests.stages.failing_server import FAILURES, STATUSES, FailingServer, failing_server
from tests.stages.video.clips import encode, moving_square

NUM_GOOD = 30
LIMITS = Limits(max_bytes=1 << 20)
EXTRACT = ExtractConfig(
    convnet=ConvnetConfig(name="pixels", layer="gray", grid=2, input_px=16),
    decode=DecodeConfig(short_side_px=16, crop_px=16),
    limits=LIMITS,
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Thirty videos, and those at whose URLs the server fails, all of different bytes."""
    folder = tmp_path_factory.mktemp("films")
    names = [f"{number:02}.mp4" for number in range(NUM_GOOD)] + [f"{n}-bad.mp4" for n in range(len(FAILURES))]
    films = {}
    for number, name in enumerate(names):
        films[name] = encode(folder / name, moving_square(5 + number)).read_bytes()
    return films


@pytest.fixture
def server(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[FailingServer]:
    monkeypatch.setattr(fetch, "PAUSES_S", (0.01,))
    monkeypatch.setattr(fetch, "STALL_S", 3.0)
    with failing_server(files) as running:
        yield running


def manifest(path: Path, server: FailingServer) -> Path:
    """A list with the failing URLs in the middle of the good ones."""
    good = [f"{server.url}/good/{number:02}.mp4" for number in range(NUM_GOOD)]
    half = NUM_GOOD // 2
    path.write_text("\n".join([*good[:half], *server.failing("bad.mp4"), *good[half:]]) + "\n")
    return path


def run(store: Path, name: str, videos: str) -> tuple[Index, Percepts]:
    """Index and percepts, in one store, under keys of their own."""
    index = ingest(
        IngestConfig(videos=(videos,), limits=LIMITS), Context.for_test(store, uri=str(store / "ingest" / name))
    )
    return index, extract(EXTRACT, Context.for_test(store, uri=str(store / "extract" / name)), index=index)


def test_fifteen_failures_are_fifteen_rows(server: FailingServer, tmp_path: Path) -> None:
    listed = manifest(tmp_path / "list.txt", server)
    index, percepts = run(tmp_path / "store", "first", str(listed))
    for records in (index.records(), percepts.records()):
        assert Counter(record.verdict for record in records) == {"ok": NUM_GOOD, "rejected": len(FAILURES)}
    reasons = [record.reason for record in index.records() if record.verdict == "rejected"]
    assert all(reasons)
    for failure, reason in zip(FAILURES, reasons, strict=True):
        if failure == "404":
            assert "there is no such file" in reason
        elif failure.isdigit():
            assert f"the server answers {failure}" in reason
    assert "max_bytes" in reasons[FAILURES.index("never ends")]
    assert "TooManyRedirects" in reasons[FAILURES.index("loops")]

    before = dict(server.num_requests)
    assert before[f"/{STATUSES.index(503)}/{STATUSES.index(503)}-bad.mp4"] >= 1 + len(fetch.PAUSES_S)
    server.is_well = True
    config = IngestConfig(videos=(str(listed),), limits=LIMITS, look_again=1)
    ingesting = Context.for_test(tmp_path / "store", uri=str(tmp_path / "store" / "ingest" / "second"))
    index = ingest(config, ingesting)
    good = [path for path in before if path.startswith("/good/")]
    assert [server.num_requests[path] for path in good] == [before[path] for path in good]
    extracting = Context.for_test(tmp_path / "store", uri=str(tmp_path / "store" / "extract" / "second"))
    percepts = extract(EXTRACT, extracting, index=index)
    assert [server.num_requests[path] for path in good] == [before[path] for path in good]
    assert {record.verdict for record in (*index.records(), *percepts.records())} == {"ok"}
    missing = sum(record.frames_expected for record in index.records() if "bad" in record.uri)
    assert extracting.facts["num_frames_extracted"] == missing


def test_a_server_that_fails_between_ingest_and_extract(
    server: FailingServer, tmp_path: Path, files: dict[str, bytes]
) -> None:
    server.is_well = True
    listed = manifest(tmp_path / "list.txt", server)
    store = tmp_path / "store"
    index = ingest(IngestConfig(videos=(str(listed),), limits=LIMITS), Context.for_test(store, uri=str(store / "i")))
    assert {record.verdict for record in index.records()} == {"ok"}
    server.is_well = False
    first = Context.for_test(store, uri=str(store / "extract" / "first"))
    verdicts = Counter(record.verdict for record in extract(EXTRACT, first, index=index).records())
    assert verdicts == {"ok": NUM_GOOD, "rejected": len(FAILURES)}
    server.is_well = True
    again = Context.for_test(store, uri=str(store / "extract" / "second"))
    percepts = extract(EXTRACT, again, index=index)
    assert {record.verdict for record in percepts.records()} == {"ok"}
    missing = sum(record.frames_expected for record in index.records() if "bad" in record.uri)
    assert again.facts["num_frames_extracted"] == missing


@pytest.mark.parametrize("number", range(len(FAILURES)), ids=FAILURES)
def test_each_failure_alone(server: FailingServer, tmp_path: Path, number: int) -> None:
    context = Context.for_test(tmp_path)
    index = ingest(IngestConfig(videos=(server.failing("bad.mp4")[number],), limits=LIMITS), context)
    (record,) = index.records()
    assert record.verdict == "rejected"
    assert record.reason


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
            with pytest.raises(SourceError, match=r"cannot reach|there is nothing") as caught:
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
