"""The choice of clips, the bound on the disk and the memory of links, on a network that a function plays."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import ConfigError, RunError, SourceError
from pipeline.core.network import NetworkOptions
from pipeline.core.stage import Context, Resources
from pipeline.core.workers import ClusterNode, Workers
from stages import download as module
from stages.download import DownloadConfig, download
from stages.downloading import rounds
from stages.downloading.artifacts import DOWNLOADS_NAME, DownloadRecord, Downloads
from stages.downloading.clip_rules import ClipRules
from stages.downloading.fetch_link import Fetched, FetchedClip, LinkTask
from stages.downloading.listing import LinkListing
from stages.downloading.problems import LinkError, Problem
from stages.downloading.rounds import Rounds
from stages.extraction.config import ExtractionConfig
from stages.video.ledger import VideoRecord
from stages.video.lists.rows import ListRules


@dataclass(frozen=True)
class WorkersBesideOthers(Workers):
    """Workers that look like those of a cluster whose two cores are all taken by extraction."""

    replaces_workers: bool = True
    node: ClusterNode = ClusterNode(num_cpus=2)

    def map(self, *given: Any, cpus_per_worker: float = 1.0, **settings: Any) -> Iterator[tuple[int, Any]]:
        assert cpus_per_worker == 0, "a download that waits for a core waits for the end of the extraction"
        return super().map(*given, **settings)


IN_PROCESS, CLUSTER = Workers(), WorkersBesideOthers()
TEN = ClipRules(clip_seconds=10.0)
PATIENT = NetworkOptions(host_interval_s=0.0, site_interval_s=0.0, tries=1, max_unanswered=1.0)


@dataclass
class PlayedNetwork:
    """A network on which every link has a clip of ten seconds, unless it is dead; a maker of fetchers."""

    store: Path
    dead: set[str] = field(default_factory=set)
    refusing: set[str] = field(default_factory=set)
    clip_bytes: int = 100
    requests: list[str] = field(default_factory=list)
    most_bytes: int = 0

    def __call__(self, limits: object, answer: object) -> PlayedNetwork:
        return self

    def close(self) -> None:
        """Nothing is open."""

    def fetch(self, task: LinkTask, directory: Path) -> Fetched:
        uri = task.row.uri
        self.requests.append(uri)
        if uri in self.dead:
            raise LinkError(Problem(status="gone", reason="it is gone", host="h"))
        if uri in self.refusing:
            raise LinkError(Problem(status="failed", reason="the server answers 500", host="h"))
        data = uri.encode().ljust(self.clip_bytes, b".")
        path = directory / "clip"
        directory.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        folders = os.walk(self.store / "downloaded")
        files = [Path(folder, name) for folder, _, names in folders if not folder.endswith("links") for name in names]
        self.most_bytes = max(self.most_bytes, sum(map(_size, files)))
        sha256 = hashlib.sha256(data).hexdigest()
        facts: dict[str, Any] = {"size_bytes": len(data), "duration_us": 10_000_000, "frames_expected": 300}
        record = VideoRecord(uri=str(path), sha256=sha256, container="mov,mp4", verdict="ok", **facts)
        spans = task.pinned or task.rules.choose(uri, None, None, 60.0)
        return Fetched(clips=(FetchedClip(path=path, is_own=True, span=spans[0], record=record),), num_bytes=len(data))


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlayedNetwork:
    played = PlayedNetwork(tmp_path / "store")
    monkeypatch.setattr(PlayedNetwork, "__call__", lambda self, *given: _Fetcher(self))
    monkeypatch.setattr(module, "Rounds", lambda **given: Rounds(**given, make_fetcher=played))
    return played


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # another thread has moved it
        return 0


@dataclass
class _Fetcher:
    network: PlayedNetwork

    def __call__(self, task: LinkTask, directory: Path) -> Fetched:
        return self.network.fetch(task, directory)

    def close(self) -> None:
        """Nothing is open."""


def run(
    tmp_path: Path,
    config: DownloadConfig,
    key: str = "x",
    network: NetworkOptions = PATIENT,
    workers: Workers = IN_PROCESS,
) -> Downloads:
    store, resources = tmp_path / "store", Resources(num_workers=1, network=network)
    context = Context(f"{store}/download/{key}", str(store), key=key, resources=resources, workers=workers)
    return download(config, context)


def list_of(tmp_path: Path, num_links: int, **settings: Any) -> DownloadConfig:
    path = tmp_path / "list.csv"
    path.write_text("uri\n" + "".join(f"http://host/{n}.mp4\n" for n in range(num_links)))
    return DownloadConfig(links=(str(path),), **settings)


def used(downloads: Downloads) -> list[DownloadRecord]:
    return [record for record in downloads.iter_links() if record.is_used]


def test_lines_that_are_no_links_are_counted_before_anything_is_requested(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("uri,start\nhttp://host/a.mp4,x\nhttp://host/b.mp4,\nno-such://host/c.mp4,\n")
    (note,) = LinkListing((str(path),), ListRules()).notes
    assert note.startswith(f"lines that name no usable link: 2 (first {path}, line 2: the value of 'start' is 'x'")


@pytest.mark.parametrize("name", ["shards/00000.tar", "film.mp4", "shards"])
def test_what_holds_videos_is_no_list_of_links(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch() if path.suffix else path.mkdir()
    with pytest.raises(SourceError, match=rf"{name}' is an? \w+, and --links takes lists: give it with --videos"):
        run(tmp_path, DownloadConfig(links=(str(path),)))


def test_hours_are_filled_in_the_order_of_the_seed_and_the_next_replace_the_dead(
    network: PlayedNetwork, tmp_path: Path
) -> None:
    config = list_of(tmp_path, 100, hours=0.05, rules=TEN)  # 18 clips
    first = used(run(tmp_path, config))
    assert len(first) == len(network.requests) == 18
    assert [record.uri for record in first] != sorted(record.uri for record in first)

    dead = {first[3].uri, first[7].uri}
    other = PlayedNetwork(tmp_path / "other/store", dead=dead)
    network.dead, network.requests = dead, other.requests
    (tmp_path / "other").mkdir()
    second = used(run(tmp_path / "other", config))
    assert [r.uri for r in second[:16]] == [r.uri for r in first if r.uri not in dead]
    assert len(second) == 18
    assert len(other.requests) == 20, "no link is requested that is not needed"

    third = used(run(tmp_path / "third", replace(config, rules=replace(TEN, seed=1))))
    assert {record.uri for record in third} != {record.uri for record in first}


def test_what_was_downloaded_is_not_requested_by_a_longer_run_and_pinned_clips_are_those_of_the_earlier(
    network: PlayedNetwork, tmp_path: Path
) -> None:
    config = list_of(tmp_path, 60, hours=0.05, rules=TEN)
    first = run(tmp_path, config)
    network.requests.clear()
    longer = used(run(tmp_path, replace(config, hours=0.1), "longer"))
    assert [r.sha256 for r in longer[:18]] == [r.sha256 for r in used(first)]
    assert len(network.requests) == 18

    elsewhere = tmp_path / "elsewhere"
    pinned = replace(config, hours=None, rules=ClipRules(), pin=first.path(DOWNLOADS_NAME))
    again = used(run(elsewhere, pinned))
    facts = {(r.uri, r.start_s, r.end_s, r.sha256) for r in used(first)}
    assert {(r.uri, r.start_s, r.end_s, r.sha256) for r in again} == facts

    (tmp_path / "list.csv").write_text("uri\nhttp://host/0.mp4\n")
    with pytest.raises(SourceError, match="are not in the lists"):
        run(tmp_path / "shorter", pinned)


class PlayedExtraction:
    """Percepts that are made of every clip whose file is there."""

    def __init__(self, *given: object) -> None:
        self.rounds: list[int] = []

    def has(self, sha256: list[str]) -> list[bool]:
        return [False] * len(sha256)

    def __call__(self, records: Iterable[VideoRecord]) -> None:
        files = [Path(record.uri) for record in records]
        assert all(file.is_file() for file in files)
        self.rounds.append(len(files))


@pytest.mark.parametrize("workers", [IN_PROCESS, CLUSTER], ids=["one after the other", "side by side"])
def test_the_disk_stays_below_its_bound_and_files_are_deleted_once_extracted(
    workers: Workers, network: PlayedNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extraction = PlayedExtraction()
    monkeypatch.setattr(module, "RoundExtraction", lambda *given: extraction)
    network.clip_bytes = 10_000
    bound = replace(PATIENT, max_disk_gb=200e-6, downloads_at_a_time=4)  # 200 kB: 8 shares of 25 kB
    downloads = run(tmp_path, list_of(tmp_path, 60, extraction=ExtractionConfig()), network=bound, workers=workers)
    assert len(used(downloads)) == 60
    assert sorted(network.requests) == sorted({record.uri for record in downloads.iter_links()})
    assert len(extraction.rounds) > 3, "one round would have needed 600 kB"
    assert sum(extraction.rounds) == 60
    assert network.most_bytes <= 200_000
    assert not [path for path in (tmp_path / "store/downloaded/clips").rglob("*") if path.is_file()]


def test_the_next_links_are_requested_while_percepts_are_made(
    network: PlayedNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested_meanwhile: list[int] = []

    class SlowExtraction(PlayedExtraction):
        def __call__(self, records: Iterable[VideoRecord]) -> None:
            num_before, deadline = len(network.requests), time.monotonic() + 240
            while len(network.requests) == num_before < 40 and time.monotonic() < deadline:
                time.sleep(0.01)
            requested_meanwhile.append(len(network.requests) - num_before)
            super().__call__(records)

    monkeypatch.setattr(module, "RoundExtraction", SlowExtraction)
    monkeypatch.setattr(rounds, "ROUND_LINKS", 10)
    downloads = run(tmp_path, list_of(tmp_path, 40, extraction=ExtractionConfig()), workers=CLUSTER)
    assert len(used(downloads)) == len(network.requests) == 40
    assert len(requested_meanwhile) == 4
    assert all(requested_meanwhile[:-1])
    assert not [path for path in (tmp_path / "store/downloaded/clips").rglob("*") if path.is_file()]

    class FailingExtraction(PlayedExtraction):
        def __call__(self, records: Iterable[VideoRecord]) -> None:
            raise OSError("No space left on device")

    monkeypatch.setattr(module, "RoundExtraction", FailingExtraction)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path / "other", list_of(tmp_path, 40, extraction=ExtractionConfig()), workers=CLUSTER)


def test_a_clip_that_was_lost_before_percepts_were_made_of_it_is_fetched_again(
    network: PlayedNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As files are that a power failure leaves empty, since clips that are deleted soon are not forced to the disk."""

    class FailingExtraction(PlayedExtraction):
        def __call__(self, records: Iterable[VideoRecord]) -> None:
            raise OSError("No space left on device")

    config = list_of(tmp_path, 5, extraction=ExtractionConfig())
    monkeypatch.setattr(module, "RoundExtraction", FailingExtraction)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path, config)
    lost, *_ = (path for path in (tmp_path / "store/downloaded/clips").rglob("*") if path.is_file())
    uri = lost.read_bytes().rstrip(b".").decode()
    lost.write_bytes(b"")
    network.requests.clear()
    monkeypatch.setattr(module, "RoundExtraction", PlayedExtraction)
    assert len(used(run(tmp_path, config))) == 5
    assert network.requests == [uri]


def test_too_many_unanswered_links_end_the_run_and_the_next_requests_those_alone(
    network: PlayedNetwork, tmp_path: Path
) -> None:
    config = list_of(tmp_path, 10)
    network.refusing = {f"http://host/{n}.mp4" for n in range(4)}
    with pytest.raises(RunError, match="4 of 10 links are blocked or failed"):
        run(tmp_path, config, network=replace(PATIENT, max_unanswered=0.1))
    assert not (tmp_path / "store/download/x/manifest.csv").exists()
    refused, network.refusing = network.refusing, set()
    network.requests.clear()
    assert len(used(run(tmp_path, config, network=replace(PATIENT, max_unanswered=0.1)))) == 10
    assert set(network.requests) == refused


def test_clips_at_random_places_lie_in_the_video_do_not_overlap_and_depend_on_seed_and_link() -> None:
    rules = ClipRules(clip_seconds=10, clips_per_video=3)
    spans = rules.choose("a", None, None, 95.0)
    assert spans == rules.choose("a", None, None, 95.0) != rules.choose("b", None, None, 95.0)
    assert spans != replace(rules, seed=1).choose("a", None, None, 95.0)
    edges = [edge for span in spans for edge in span or ()]
    assert edges == sorted(edges)
    assert edges[0] >= 0
    assert edges[-1] <= 95.001
    assert all(0 <= start >= 30 for start, _ in filter(None, rules.choose("a", 30.0, 70.0, 95.0)))
    assert rules.choose("a", None, None, 9.0) == []
    assert rules.choose("a", None, None, 9.9) == [(0.0, 10.0)], "headers round"
    assert ClipRules(clip_seconds=10, clips="consecutive").choose("a", 5.0, None, 40.0) == [
        (5.0, 15.0),
        (15.0, 25.0),
        (25.0, 35.0),
    ]
    with pytest.raises(ConfigError, match="needs a length"):
        ClipRules(clips="random")
