"""Extraction that is killed at random moments, against an undisturbed one: the stores must be equal to the byte.

    python -m tests.chaos                    # 20 kills over one run; prints one JSON line
    python -m tests.chaos --kills 3 --seed 7

Starts a Ray cluster of its own (a head and two more nodes on this machine, one core each) and a driver that extracts
made videos. Then it kills with -9, in turn and at random moments spread over the run: the process of an extractor, a
whole node (which a new one replaces), the driver (which is started again). Exit status 1 if a byte differs, if the
account does not close, or if the run ended before all kills.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Ray reads these when it is imported.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["PYTHONPATH"] = os.pathsep.join([os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])])

import cluster.session
from cluster.session import session
from pipeline.core.files import list_files
from pipeline.core.stage import Context, Resources
from stages.convnets.config import ConvnetConfig
from stages.extract import ExtractConfig, extract
from stages.ingest import IngestConfig, ingest
from stages.percepts.artifacts import Percepts
from stages.video.artifacts import Index
from stages.video.decode import DecodeConfig
from stages.video.probe_cache import PROBE_CACHE
from tests.bench.extraction import make_videos

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("extractor", "node", "driver")
SHARDS_PER_KILL = 5
FRAMES_PER_VIDEO = 60
"""A shard holds one video and takes about a third of a second: kills fall into the middle of many."""
CONFIG = ExtractConfig(
    convnet=ConvnetConfig(layer="features", input_px=160),
    decode=DecodeConfig(short_side_px=160, crop_px=160),
    shard_frames=FRAMES_PER_VIDEO,
)
HEAD_SETTINGS = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 4,
}
"""A lost node is noticed after two seconds, not fifteen."""
MAX_SECONDS = 1500.0


def context_of(store: Path, name: str, **changes: Any) -> Context:
    return Context.for_test(store, uri=f"{store}/{name}", source=name, **changes)


def extract_on_ray(store: Path) -> None:
    """The stage as the pipeline runs it; in a Ray task."""
    from cluster.workers import RayWorkers

    def say(event: Any) -> None:
        if line := getattr(event, "line", ""):
            with (store.parent / "said.log").open("a") as file:
                file.write(f"{line}\n")

    workers = RayWorkers(source="extract", emit=say)
    context = context_of(store, "extract", workers=workers, resources=Resources(num_workers=2))
    extract(CONFIG, context, index=Index(f"{store}/ingest"))


def drive(address: str, store: Path) -> None:
    """The driver's process."""
    # The nodes of one machine share the folder that code is unpacked into, and clear it away under each other when a
    # job ends. They have the code on their PYTHONPATH.
    cluster.session._upload = lambda _: contextlib.nullcontext({})
    with session(address, str(ROOT)) as opened:
        opened.start("extract", extract_on_ray, store)
        while not (ended := opened.finished(0.5)):
            pass
        if ended[0].error is not None:
            raise ended[0].error


def digests(store: Path) -> dict[str, str]:
    """sha256 of every file but what is remembered of the videos' times; what a killed process was writing has a
    temporary name and is none."""
    names = [name for name in list_files(str(store)) if not name.startswith(f"{PROBE_CACHE}/")]
    return {name: hashlib.sha256((store / name).read_bytes()).hexdigest() for name in names}


def parents() -> dict[int, tuple[int, str]]:
    """Process -> its parent and its command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                after_name = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found[int(entry.name)] = int(after_name[1]), command
    return found


@dataclass
class Arena:
    """The cluster, the driver, and what was killed."""

    store: Path
    rng: random.Random
    cluster: Any = None
    nodes: list[Any] = field(default_factory=list)
    """Those that may be killed: all but the head."""
    driver: subprocess.Popen[bytes] | None = None
    killed: list[str] = field(default_factory=list)

    def __enter__(self) -> Arena:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "include_dashboard": False, "_system_config": HEAD_SETTINGS}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(2)]
        self.start_driver()
        return self

    def __exit__(self, *_: object) -> None:
        if self.driver is not None:
            self.driver.kill()
            self.driver.wait()
        self.cluster.shutdown()

    def start_driver(self) -> None:
        command = [sys.executable, "-m", "tests.chaos", "--drive", self.cluster.address, "--store", str(self.store)]
        # A group of its own: a raylet ends the process group of a driver that is gone, and that must not be ours.
        self.driver = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True
        )

    def num_shards(self) -> int:
        return len(list(self.store.glob("percepts/*/*.parquet")))

    def extractors(self) -> list[int]:
        """Processes below our own raylets that are extractors, and not helpers or idle workers."""
        from cluster.workers import _WorkerActor

        processes, name = parents(), f"ray::{_WorkerActor.__name__}"
        mine = {process.process.pid for node in self.cluster.list_all_nodes() for process in self._raylets(node)}
        return [pid for pid, (parent, command) in processes.items() if parent in mine and name in command]

    def _raylets(self, node: Any) -> list[Any]:
        return list(node.all_processes.get("raylet", []))

    def kill(self, target: str) -> bool:
        """Whether there was something to kill."""
        if target == "extractor":
            extractors = self.extractors()
            if not extractors:
                return False
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.rng.choice(extractors), signal.SIGKILL)
        elif target == "node":
            node = self.nodes.pop(self.rng.randrange(len(self.nodes)))
            for process in self._raylets(node):
                os.kill(process.process.pid, signal.SIGKILL)
            self.cluster.remove_node(node, allow_graceful=False)
            self.nodes.append(self.cluster.add_node(num_cpus=1))
        else:
            assert self.driver is not None
            self.driver.kill()
            self.driver.wait()
            self.start_driver()
        self.killed.append(target)
        print(f"killed: {target}, {self.num_shards()} shards were there", file=sys.stderr, flush=True)
        return True

    def run(self, num_kills: int, num_shards: int) -> int:
        """Kill and wait; returns the driver's exit status."""
        assert self.driver is not None
        began, next_at = time.monotonic(), 0.0
        targets = [TARGETS[number % len(TARGETS)] for number in range(num_kills)]
        self.rng.shuffle(targets)
        while self.driver.poll() is None:
            if time.monotonic() - began > MAX_SECONDS:
                raise TimeoutError(f"not finished after {MAX_SECONDS:.0f} s, {len(self.killed)} kills")
            due = len(self.killed) < num_kills and self.num_shards() >= (
                len(self.killed) * (num_shards - 2) // num_kills
            )
            if due and not next_at:
                next_at = time.monotonic() + self.rng.uniform(0, 1)
            if next_at and time.monotonic() >= next_at and self.kill(targets[len(self.killed)]):
                next_at = 0.0
            time.sleep(0.05)
        return self.driver.returncode


def main() -> int:
    """Run, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.drive:
        drive(args.drive, args.store)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        report = disturb(Path(scratch), args.kills, args.seed)
    print(json.dumps(report), flush=True)
    return 0 if report["equal"] and report["closes"] and report["kills"] == args.kills else 1


def disturb(folder: Path, num_kills: int, seed: int) -> dict[str, Any]:
    """What became of an extraction that was killed so many times."""
    num_videos = SHARDS_PER_KILL * num_kills + 4
    (folder / "videos").mkdir()
    make_videos(folder / "videos", num_videos, FRAMES_PER_VIDEO)
    quiet, chaos = folder / "quiet", folder / "chaos"
    for store in (quiet, chaos):
        ingest(IngestConfig(videos=(str(folder / "videos"),)), context_of(store, "ingest"))
    began = time.monotonic()
    extract(CONFIG, context_of(quiet, "extract"), index=Index(f"{quiet}/ingest"))
    quiet_s = time.monotonic() - began
    with Arena(chaos, random.Random(seed)) as arena:
        status = arena.run(num_kills, num_videos)
        seconds = time.monotonic() - began - quiet_s
    records = Percepts(f"{chaos}/extract").records() if status == 0 else []
    accounts = [(r.frames_expected, r.frames_decoded, r.frames_dropped, r.frames_missing) for r in records]
    said = folder / "said.log"
    return {
        "benchmark": "chaos",
        "kills": len(arena.killed),
        "killed": {target: arena.killed.count(target) for target in TARGETS},
        "status": status,
        "equal": digests(quiet) == digests(chaos),
        "closes": accounts == [(FRAMES_PER_VIDEO, FRAMES_PER_VIDEO, 0, 0)] * num_videos,
        "shards": num_videos,
        "seconds": round(seconds, 1),
        "quiet_seconds_in_process": round(quiet_s, 1),
        "said": len(said.read_text().splitlines()) if said.exists() else 0,
    }


if __name__ == "__main__":
    sys.exit(main())
