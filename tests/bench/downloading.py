"""A rehearsal of 300 hours of links: 108,000 ten-second clips on a network that a function plays.

    python -m tests.bench.downloading                     # some minutes
    python -m tests.bench.downloading --links 10800

Real are the list, the order of the seed, permits, retries, the memory of links, clips on the disk and their deletion,
rounds, ledger, corpus and index. The network is played: 30% of the links are dead, 2% stall until they fail, 1% answer
at the second attempt, and one of twenty hosts refuses. Percepts are not made; probing and cutting, which cost what they
cost in ingest, are not either.

Prints a JSON line: `ratio` is 2 ms over the CPU time of a link, above 1 where it is below; memory after a fifth of the
rounds and at the end, in MB, and what the ledger adds up to.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from pipeline.core.network import NetworkOptions
from pipeline.core.stage import Context, Resources
from stages import download as stage_module
from stages.download import DownloadConfig, download
from stages.downloading import link_worker
from stages.downloading.clip_rules import ClipRules
from stages.downloading.fetch_link import Fetched, FetchedClip, LinkTask
from stages.downloading.problems import LinkError, Problem
from stages.downloading.rounds import Rounds
from stages.extraction.config import ExtractionConfig
from stages.video.ledger import VideoRecord
from stages.video.processes.isolated_process import ProcessDied
from stages.video.processes.watchdog import resident_bytes

MAX_CPU_MS = 2.0


@dataclass
class PlayedFetcher:
    """A network that is played."""

    answer: Any

    def __call__(self, task: LinkTask, directory: Path) -> Fetched:
        uri = task.row.uri
        host = uri.split("/")[2]
        if refusal := self.answer((host, False)):
            raise LinkError(Problem(status="blocked", reason=refusal, host=host))
        chance = int(hashlib.sha256(uri.encode()).hexdigest()[:4], 16) / 65536
        if host == "host-0":
            raise LinkError(Problem(status="blocked", reason="429", host=host, may_pass=True, says_no=True))
        if chance < 0.3:
            raise LinkError(Problem(status="gone", reason="the server answers 404", host=host))
        if chance < 0.32:
            raise ProcessDied("no sign of life for 60 s", is_stall=True)
        waiting = directory / "waiting"
        if chance < 0.33 and not waiting.exists():
            directory.mkdir(parents=True)
            waiting.touch()
            raise LinkError(Problem(status="failed", reason="503", host=host, may_pass=True))
        data = uri.encode()
        path = directory / "clip"
        directory.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        facts: dict[str, Any] = {"size_bytes": len(data), "duration_us": 10_000_000, "frames_expected": 300}
        record = VideoRecord(
            uri=str(path), sha256=hashlib.sha256(data).hexdigest(), container="mov,mp4", verdict="ok", **facts
        )
        (span,) = task.rules.choose(uri, None, None, 200.0)
        return Fetched(clips=(FetchedClip(path=path, is_own=True, span=span, record=record),), num_bytes=len(data))

    def close(self) -> None:
        """Nothing is open."""


class NoExtraction:
    """Percepts that are not made; notes the memory after each round."""

    def __init__(self, *given: object) -> None:
        self.resident_mb: list[float] = []

    def has(self, sha256: list[str]) -> list[bool]:
        """Returns that none has percepts."""
        return [False] * len(sha256)

    def __call__(self, records: Iterable[VideoRecord]) -> None:
        assert all(Path(record.uri).exists() for record in records)
        self.resident_mb.append(resident_bytes() / 1e6)


def rehearse(num_links: int, directory: Path) -> dict[str, Any]:
    """Downloads as many clips as 65% of the links give."""
    links = directory / "links.csv"
    with open(links, "w") as file:
        file.write("uri,label\n")
        file.writelines(f"http://host-{n % 20}/watch/{n}.mp4,class {n % 487}\n" for n in range(num_links))
    extraction = NoExtraction()
    network = NetworkOptions(host_interval_s=0.0, site_interval_s=0.0, tries=2, max_unanswered=1.0)
    config = DownloadConfig(
        links=(str(links),),
        hours=num_links * 0.6 * 10 / 3600,
        rules=ClipRules(clip_seconds=10),
        extraction=ExtractionConfig(),
    )
    context = Context(
        f"{directory}/store/download/x", f"{directory}/store", resources=Resources(num_workers=1, network=network)
    )
    with (
        mock.patch.object(stage_module, "RoundExtraction", return_value=extraction),
        mock.patch.object(stage_module, "Rounds", partial(Rounds, make_fetcher=lambda _, ask: PlayedFetcher(ask))),
        mock.patch.object(link_worker, "FIRST_PAUSE_S", 0.0),
    ):
        began, cpu_began = time.perf_counter(), time.process_time()
        downloads = download(config, context)
        seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    statuses, num_used = Counter[str](), 0
    for record in downloads.iter_links():
        statuses[record.status] += 1
        num_used += record.is_used
    assert num_used == sum(1 for _ in downloads.iter_records()) == round(num_links * 0.6), num_used
    assert not list(directory.glob("store/downloaded/clips/*/*"))
    num_requested = sum(statuses.values())
    cpu_ms = 1000 * cpu_s / num_requested
    early = extraction.resident_mb[len(extraction.resident_mb) // 5]
    return {
        "bench": "downloading",
        "links": num_requested,
        "clips": num_used,
        "statuses": dict(statuses),
        "seconds": round(seconds, 1),
        "cpu_ms_a_link": round(cpu_ms, 3),
        "limit_ms": MAX_CPU_MS,
        "ratio": round(MAX_CPU_MS / cpu_ms, 2),
        "resident_mb_at_a_fifth": round(early),
        "resident_mb_at_the_end": round(extraction.resident_mb[-1]),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def main() -> None:
    """Prints the line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--links", type=int, default=180_000)
    with tempfile.TemporaryDirectory() as directory:
        print(json.dumps(rehearse(parser.parse_args().links, Path(directory))), flush=True)


if __name__ == "__main__":
    main()
