"""Two hosts download from one hostile server: one rate, one bound on the disk, and nothing twice after a kill -9.

Half of the links are plain videos, some of them on pages that yt-dlp reads; the others have every bad manner of the
web. A second server refuses all. Percepts are made in rounds, and the clips deleted. In the middle the driver is
killed, and started again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.workers import _WorkerActor
from stages.downloading.artifacts import DOWNLOADS_NAME, iter_downloads
from stages.downloading.link_results import ASKED_AGAIN, read_results
from stages.percepts.shards import folders, iter_complete
from stages.video.artifacts import INDEX_NAME
from stages.video.ledger import read_records
from tests import two_hosts
from tests.conftest import ROOT
from tests.stages.downloading.hostile_server import MANNERS, HostileServer
from tests.stages.loopback_server import running
from tests.two_hosts import TwoHosts

WEB = ROOT.parent / "shared/data/web"
pytestmark = [
    pytest.mark.root,
    pytest.mark.two_hosts,
    pytest.mark.skipif(not WEB.is_dir(), reason="no ../shared/data/web"),
]

INTERVAL_S = 0.1
MAX_DISK_GB = 0.006
PATIENCE_SECONDS = 600
NUM_REFUSED = 6

DRIVER = f"""
import sys
from cluster.ray_private import may_grow
from cluster.session import session
from cluster.workers import RayWorkers
from pipeline.core.network import NetworkOptions
from pipeline.core.stage import Context, Resources
from stages.convnets.config import ConvnetConfig
from stages.download import DownloadConfig, download
from stages.extraction.config import ExtractionConfig
from stages.video.decode import DecodeConfig

def downloaded(links, store):
    network = NetworkOptions(
        host_interval_s={INTERVAL_S}, site_interval_s={INTERVAL_S}, stall_s=2.0, tries=3, downloads_at_a_time=2,
        max_disk_gb={MAX_DISK_GB}, allow_private=True, max_unanswered=1.0,
    )
    convnet = ConvnetConfig(name="pixels", layer="gray", input_px=16)
    extraction = ExtractionConfig(convnet=convnet, decode=DecodeConfig(short_side_px=16, crop_px=16))
    context = Context(
        f"{{store}}/download/x", store, key="x", resources=Resources(num_workers=2, network=network),
        workers=RayWorkers(emit=lambda event: None),
    )
    download(DownloadConfig(links=(links,), extraction=extraction), context)

with session(None, {str(ROOT)!r}) as opened:
    opened.start("download", downloaded, *sys.argv[1:])
    while not (ended := opened.finished(1.0)):
        pass
    if ended[0].error is not None:
        raise ended[0].error
    print("may grow:", may_grow())
"""


@contextmanager
def disk_watched(directory: Path) -> Iterator[list[int]]:
    """Yields a list that gets the bytes of all files below a directory, again and again."""
    sizes: list[int] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.05):
            # Not rglob, which raises where a folder is deleted while it looks.
            walk = os.walk(directory)
            sizes.append(sum(_size(Path(folder, name)) for folder, _, names in walk for name in names))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield sizes
    finally:
        done.set()
        thread.join()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.parent.name != "links" else 0
    except OSError:  # it was deleted meanwhile
        return 0


def wait(what: str, happened: Callable[[], object], driver: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert driver.poll() is None, f"the run ended before {what}:\n{log.read_text()[-3000:]}"
        assert time.monotonic() < deadline, f"no {what}:\n{log.read_text()[-3000:]}"
        time.sleep(0.05)


def write_list(path: Path, good: HostileServer, refusing: HostileServer, names: list[str]) -> dict[str, str]:
    """Writes the list, bad manners between good ones; returns link -> what becomes of it."""
    expected: dict[str, str] = {}
    manners = iter(MANNERS.items())
    for number, name in enumerate(names):
        well = ("good", "page", "slow")[number // 2 % 3], "downloaded"
        manner, status = next(manners, well) if number % 2 else well
        expected[f"{good.url}/{manner}/{name}"] = status
        if number < NUM_REFUSED:
            expected[f"{refusing.url}/429/{name}"] = "blocked"
    path.write_text("".join(f"{uri}\n" for uri in expected))
    return expected


def count_answered(store: str) -> int:
    """Returns how many links need no further request."""
    return sum(result.status not in ASKED_AGAIN for _, result in read_results(store))


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    if reason := two_hosts.missing():
        pytest.skip(reason)
    with two_hosts.two_hosts() as pair:
        yield pair


def test_two_hosts_keep_one_rate_and_one_bound_and_fetch_nothing_twice(hosts: TwoHosts, tmp_path: Path) -> None:
    video = (WEB / "daft_sample_video.mp4").read_bytes()
    names = [f"{number}.mp4" for number in range(2 * len(MANNERS))]
    files = {name: video + b"\0\0\0\x10free" + n.to_bytes(8) for n, name in enumerate(names)}
    store, driver_path, log = tmp_path / "store", tmp_path / "driver.py", tmp_path / "log"
    driver_path.write_text(DRIVER)
    command = ["python", str(driver_path), str(tmp_path / "links.txt"), str(store)]
    with (
        running(two_hosts.on_network_of(1, lambda: HostileServer(files, "10.99.0.1"))) as server,
        running(two_hosts.on_network_of(1, lambda: HostileServer(files, "10.99.0.1"))) as refusing,
        disk_watched(store / "downloaded") as sizes,
    ):
        server.num_hosts_awaited = 2
        expected = write_list(tmp_path / "links.txt", server, refusing, names)
        driver = hosts.on(1, *command, log=log)
        wait(
            "work on both hosts",
            lambda: (
                len({request.client for request in server.requests}) == 2
                and count_answered(str(store)) > len(expected) // 4
            ),
            driver,
            log,
        )
        for pid in hosts.pids(1, str(driver_path)):
            os.kill(pid, signal.SIGKILL)
        driver.wait()
        worker = f"{_WorkerActor.__name__}."
        deadline = time.monotonic() + PATIENCE_SECONDS
        while any(hosts.pids(host, worker) or hosts.pids(host, "isolated_process") for host in (1, 2)):
            assert time.monotonic() < deadline, "workers of a killed driver do not end"
            time.sleep(0.1)
        known = {r.clips[0].record.sha256 for _, r in read_results(str(store)) if r.clips}
        num_before, num_refused = len(server.requests), len(refusing.requests)

        again = hosts.on(1, *command, log=log)
        assert again.wait(PATIENCE_SECONDS) == 0, log.read_text()[-3000:]
        assert log.read_text().count("may grow: False") == 1, "its head has no autoscaler"

    records = list(iter_downloads(f"{store}/download/x/{DOWNLOADS_NAME}"))
    assert {record.uri: record.status for record in records} == expected
    assert len(records) == len(expected)

    first, second = server.requests[:num_before], server.requests[num_before:]
    was_known = {record.uri for record in records if record.sha256 in known}
    assert not [request for request in second if f"{server.url}{request.path}" in was_known], "fetched twice"
    assert {request.client for request in first} == {"10.99.0.1", "10.99.0.2"}
    # One link in flight on each thread, three attempts at each; in each of the two runs.
    assert 0 < num_refused <= 12
    assert len(refusing.requests) - num_refused <= 12

    # A request may come late in its time slot, and the next one not; a rate for each host would be twice as many.
    assert len(server.requests) > 100
    assert server.most_within(10.0) <= 1.5 * 10.0 / INTERVAL_S + 1

    assert 1e6 < max(sizes) <= MAX_DISK_GB * 1e9
    assert sum(record.size_bytes for record in records) > 1.3 * MAX_DISK_GB * 1e9, "one round would have done"
    assert not [path for path in (store / "downloaded/clips").rglob("*") if path.is_file()]
    used = {record.sha256 for record in records if record.is_used}
    assert used == {record.sha256 for record in read_records(f"{store}/download/x/{INDEX_NAME}")}
    (folder,) = folders(str(store))
    assert used == {video for shard in iter_complete(str(store), folder) for video in shard.results}
