"""The download of links from a server with every bad manner of the web, over plain HTTP and through yt-dlp."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.errors import RunError, SourceError
from pipeline.core.events import Event, Log
from pipeline.core.network import NetworkOptions
from pipeline.core.stage import Context, Resources
from stages.download import DownloadConfig, download
from stages.downloading import link_worker
from stages.downloading.artifacts import DownloadRecord, Downloads
from stages.downloading.http_files import HttpClient, fetch_file
from stages.downloading.link_results import read_results
from stages.ingest import IngestConfig, ingest
from stages.video.limits import Limits
from tests.conftest import ROOT
from tests.stages.downloading.hostile_server import MANNERS, HostileServer, hostile_server
from tests.stages.loopback_server import running

WEB = ROOT.parent / "shared/data/web"
pytestmark = pytest.mark.skipif(not WEB.is_dir(), reason="no ../shared/data/web")

FAST = NetworkOptions(host_interval_s=0.01, site_interval_s=0.01, tries=3, allow_private=True, max_unanswered=1.0)
IMPATIENT = replace(FAST, stall_s=2.0)
"""For a server that hangs. Of one that does not, a busy machine would be given up, and asked once more."""


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Small real videos, of as many contents: what differs is a box behind them."""
    small = sorted(WEB.glob("*.mp4"), key=lambda path: path.stat().st_size)[:5]
    names = [f"{number}.mp4" for number in range(len(MANNERS))]
    return {
        name: small[n % len(small)].read_bytes() + b"\0\0\0\x10free" + n.to_bytes(8) for n, name in enumerate(names)
    }


@pytest.fixture
def server(files: Mapping[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[HostileServer]:
    monkeypatch.setattr(link_worker, "FIRST_PAUSE_S", 0.05)
    with hostile_server(files) as started:
        yield started


def context(tmp_path: Path, key: str, lines: list[str] | None = None, network: NetworkOptions = FAST) -> Context:
    def emit(event: Event) -> None:
        if isinstance(event, Log) and lines is not None:
            lines.append(event.line)

    store = tmp_path / "store"
    resources = Resources(num_workers=1, network=network)
    return Context(f"{store}/download/{key}", str(store), key=key, resources=resources, emit=emit)


def write_list(tmp_path: Path, uris: list[str]) -> DownloadConfig:
    path = tmp_path / "links.txt"
    path.write_text("\n".join(uris) + "\n")
    return DownloadConfig(links=(str(path),))


def by_manner(downloads: Downloads) -> dict[str, DownloadRecord]:
    return {record.uri.split("/")[3]: record for record in downloads.iter_links() if record.link}


def test_every_link_is_accounted_for_and_only_blocked_and_failed_are_requested_again(
    server: HostileServer, files: Mapping[str, bytes], tmp_path: Path
) -> None:
    names = list(files)
    uris = [f"{server.url}/{manner}/{names[n]}" for n, manner in enumerate(MANNERS)]
    config = write_list(tmp_path, [*uris, "no-such://scheme"])
    first = download(config, context(tmp_path, "first", network=IMPATIENT))

    records = list(first.iter_links())
    assert len(records) == len(uris) + 1
    assert {manner: record.status for manner, record in by_manner(first).items()} == MANNERS
    assert [record.line for record in records if "no-such" in record.reason] == [len(uris) + 1]
    assert all(record.reason for record in records if record.status != "downloaded")
    whole = [record for record in records if record.status == "downloaded"]
    assert {record.size_bytes for record in whole} <= {len(data) for data in files.values()}

    answered = {record.uri for record in records if record.status not in ("blocked", "failed")}
    server.requests.clear()
    server.is_well = True
    second = download(config, context(tmp_path, "second"))
    assert not answered & {f"{server.url}{path}" for path in server.paths()}
    again = {record.uri: record for record in second.iter_links()}
    assert {again[record.uri].status for record in records if record.status in ("blocked", "failed")} == {"downloaded"}

    index = ingest(IngestConfig(), Context(f"{tmp_path}/store/ingest/x", f"{tmp_path}/store"), corpus=second)
    assert all(record.verdict != "rejected" for record in index.iter_records())


def test_clips_are_cut_from_ranges_of_a_file_and_from_pages(
    server: HostileServer, files: Mapping[str, bytes], tmp_path: Path
) -> None:
    large = "a_large_file.mp4"
    server.files = {**files, large: (WEB / "moviepy_second_vid.mp4").read_bytes()}
    manners = ("good", "page", "noranges", "capped", "shifted", "changing", "packed", "chunked")
    uris = [f"{server.url}/{manner}/{large}" for manner in manners]
    list_path = tmp_path / "links.csv"
    list_path.write_text("uri,start,end\n" + "".join(f"{uri},30,32\n" for uri in uris))
    downloads = download(DownloadConfig(links=(str(list_path),)), context(tmp_path, "clips"))
    ranged, page, unranged, capped, *others = downloads.iter_links()
    size = len(server.files[large])
    assert ranged.status == "downloaded"
    assert (ranged.start_s, ranged.end_s) == (30.0, 32.0)
    assert ranged.bytes_fetched < size / 2 <= size <= unranged.bytes_fetched
    # The same packets, whichever way they came.
    assert {record.sha256 for record in (page, unranged, capped, *others)} == {ranged.sha256}
    assert {record.status for record in (page, unranged, capped, *others)} == {"duplicate"}
    assert capped.bytes_fetched < size / 2, "a server that sends little at a time is requested on"
    (record,) = downloads.iter_records()
    assert record.duration_us == pytest.approx(2e6, abs=2e5)


@pytest.mark.parametrize(
    ("manner", "words"),
    [
        ("429", "the server answers 429: too many requests"),
        ("later", "the server answers 503, and asks for a pause of 1,000,000,000 s (--max-retry-after-s)"),
    ],
)
def test_a_host_that_says_no_is_not_requested_again_in_the_run(
    manner: str, words: str, server: HostileServer, tmp_path: Path
) -> None:
    uris = [f"{server.url}/{manner}/clip-{n}.mp4" for n in range(30)]
    server.files = {**server.files, **{uri.rpartition("/")[2]: b"x" for uri in uris}}
    lines: list[str] = []
    network = replace(FAST, tries=2, downloads_at_a_time=2, max_unanswered=0.1)
    with pytest.raises(RunError, match=r"30 of 30 links are blocked or failed \(most often: .*the server answers"):
        download(write_list(tmp_path, uris), context(tmp_path, "no", lines, network))
    assert len(server.requests) <= 4
    assert lines[0].startswith("to request: about 30 links")
    assert [line for line in lines if "no further request" in line] == [
        f"{server.url.removeprefix('http://')} gets no further request of this run: {words}"
    ]


def test_a_file_above_the_largest_size_is_requested_again_once_that_is_raised(
    server: HostileServer, files: Mapping[str, bytes], tmp_path: Path
) -> None:
    name = next(iter(files))
    config = write_list(tmp_path, [f"{server.url}/good/{name}"])
    small = replace(config, limits=Limits(max_bytes=len(files[name]) - 1))
    with pytest.raises(SourceError, match=rf"1 failed; most often: has more than {len(files[name]) - 1} bytes"):
        download(small, context(tmp_path, "small"))
    (record,) = download(config, context(tmp_path, "large")).iter_links()
    assert record.status == "downloaded"


def test_private_addresses_are_refused_and_nothing_private_is_written(
    server: HostileServer, files: Mapping[str, bytes], tmp_path: Path
) -> None:
    name = next(iter(files))
    uri = f"{server.url.replace('://', '://user:HIDDEN@')}/login/{name}?signature=HIDDEN"
    lines: list[str] = []
    network = replace(FAST, allow_private=False)
    with pytest.raises(SourceError, match=r"1 blocked; most often: 127\.0\.0\.1 is a private address"):
        download(write_list(tmp_path, [uri]), context(tmp_path, "private", lines, network))
    assert not server.requests
    downloads = download(
        write_list(tmp_path, [uri, f"{server.url}/500/{name}?token=HIDDEN"]), context(tmp_path, "x", lines)
    )
    assert [record.status for record in downloads.iter_links()] == ["downloaded", "failed"]
    records = [str(record) for record in (*downloads.iter_links(), *downloads.iter_records(), *lines)]
    assert not [text for text in records if "HIDDEN" in text]
    written = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert not [path for path in written if b"HIDDEN" in path.read_bytes()]


def test_packed_cut_up_and_endless_bodies_of_an_ipv6_address_are_links_and_videos(
    files: Mapping[str, bytes], tmp_path: Path
) -> None:
    with running(HostileServer(files, "::1")) as server:
        uris = [f"{server.url}/{manner}/{n}.mp4" for n, manner in enumerate(("packed", "chunked", "endless"))]
        downloads = download(write_list(tmp_path, uris), context(tmp_path, "ipv6"))
        index = ingest(IngestConfig(videos=tuple(uris)), Context(f"{tmp_path}/store/ingest/x", f"{tmp_path}/store"))
    expected = [hashlib.sha256(files[f"{n}.mp4"]).hexdigest() for n in range(3)]
    assert [record.sha256 for record in downloads.iter_links()] == expected
    assert [record.sha256 for record in index.iter_records()] == expected


def test_cookies_and_passwords_do_not_follow_a_redirect_to_another_host(server: HostileServer, tmp_path: Path) -> None:
    url = f"{server.url.replace('://', '://user:p%40ss@')}/elsewhere/0.mp4"
    client = HttpClient(permit=lambda host: None, beat=lambda: None, stall_s=30.0, headers={"Cookie": "a=b"})
    fetch_file(client, url, tmp_path / "file", 1 << 20)
    assert [request.secrets for request in server.requests] == [f"a=bBasic {b64encode(b'user:p@ss').decode()}", ""]


KILLED = """
import sys
from pathlib import Path
from tests.stages.downloading.test_hostile_links import DownloadConfig, context, download
download(DownloadConfig(links=(sys.argv[1],)), context(Path(sys.argv[2]), "killed"))
"""


def test_a_run_that_is_killed_fetches_nothing_twice(
    server: HostileServer, files: Mapping[str, bytes], tmp_path: Path
) -> None:
    names = list(files)
    uris = [f"{server.url}/slow/{names[n]}" for n in range(14)]
    config = write_list(tmp_path, uris)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", KILLED, config.links[0], str(tmp_path)], env=environment)
    store = str(tmp_path / "store")
    while sum(1 for _ in read_results(store)) < 4:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    known = {result.clips[0].record.sha256 for _, result in read_results(store)}
    num_before = len(server.requests)
    links = list(download(config, context(tmp_path, "killed")).iter_links())
    assert {record.status for record in links} <= {"downloaded", "duplicate"}
    # What was in flight at the kill may come late, too: of no link that was known.
    again = {f"{server.url}{path}" for path in server.paths()[num_before:]}
    assert again == {record.uri for record in links if record.sha256 not in known}
    twice = {path for path in server.paths() if server.paths().count(path) > 1}
    assert len(twice) <= FAST.downloads_at_a_time, "only what was in flight"
