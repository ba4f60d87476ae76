"""300 hours on paper: 108,000 ten-second clips through every step but decoding and the convnet, on this machine's disk.

    python -m tests.bench.scale                     # 108,000 clips, and 10,800 for comparison; some minutes
    python -m tests.bench.scale --clips 10800 1080

Real are the listing of a folder (of empty files), ingest's records and parts, planning, sharding, Parquet writing,
sidecars, ledger, manifest, the second run, a grown index, verify, compaction's plan, opening and windows. Probing,
decoding and the convnet are stubs that give the right shapes: 300 frames a clip, percepts of 4 dimensions (32.4 M of
1280 would take 83 GB). What writes the store is one process; each of what reads it is a process of its own.

Prints a table of microseconds a clip and peak memory of each phase, and a JSON line for each: `ratio` is the CPU time
that a clip takes in the small run over that in the large one, 1 where the phase is linear.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from pipeline.commands import compact, verify
from pipeline.core.files import HashingFile, join, open_atomic
from pipeline.core.stage import Context, config_dict
from pipeline.engine.plan import Node, Plan
from pipeline.engine.store import Manifest, Store
from stages import extract as extraction_stage
from stages import ingest as ingest_stage
from stages.extract import ExtractConfig, extract
from stages.extraction import extract_shards
from stages.extraction.shard_task import ShardDone, ShardTask, Timings
from stages.ingest import IngestConfig, ingest
from stages.percepts import Windows, open_store
from stages.percepts.schema import Extractor
from stages.percepts.shards import Shard, VideoResult, write_sidecar
from stages.percepts.writer import ShardWriter
from stages.video.ledger import VideoRecord
from stages.video.sources import VideoSource

CLIP_FRAMES, DIM = 300, 4


class Phases:
    """Seconds and peak memory of named parts of the run."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, float]] = {}
        self._peaks_mb: list[float] = []
        """So far, of the phases that go on: those within others count for both."""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._look()
        self._peaks_mb.append(0.0)
        began, cpu_began = time.perf_counter(), time.process_time()
        yield
        seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
        self._look()
        peak_mb = self._peaks_mb.pop()
        if self._peaks_mb:
            self._peaks_mb[-1] = max(self._peaks_mb[-1], peak_mb)
        kept = self.found.setdefault(name, {"seconds": 0.0, "cpu_s": 0.0, "peak_mb": 0.0})
        kept["seconds"] += seconds
        kept["cpu_s"] += cpu_s
        kept["peak_mb"] = max(kept["peak_mb"], peak_mb)

    def _look(self) -> None:
        """Reads the kernel's peak, which then begins anew."""
        status = Path("/proc/self/status").read_text()
        peak_mb = int(status.partition("VmHWM:")[2].split()[0]) / 1000
        if self._peaks_mb:
            self._peaks_mb[-1] = max(self._peaks_mb[-1], peak_mb)
        Path("/proc/self/clear_refs").write_text("5")

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self(name):
                return function(*args, **kwargs)

        return call


def stub_probe(source: VideoSource, limits: object) -> VideoRecord:
    """What ingest would find out about a clip of ten seconds."""
    sha256 = hashlib.sha256(source.uri.encode()).hexdigest()
    size = {"width": 320, "height": 240, "fps": 30.0, "duration_us": 10_000_000, "frames_expected": CLIP_FRAMES}
    return VideoRecord(
        uri=source.uri, sha256=sha256, size_bytes=900_000, codec="h264", verdict="ok", part=source.part, **size
    )


class StubExtractor:
    """Writes a shard of the right number of rows, as the real one does, of a fixed noise."""

    def __init__(self, extractor: Extractor, store_uri: str) -> None:
        self.extractor, self.store_uri = extractor, store_uri
        self.percepts_ND = np.random.default_rng(0).standard_normal((CLIP_FRAMES, DIM)).astype(np.float16)
        self.frame_N = np.arange(CLIP_FRAMES, dtype=np.int32)

    def __call__(self, task: ShardTask) -> ShardDone:
        with open_atomic(join(self.store_uri, task.path)) as target:
            file = HashingFile(target)
            with ShardWriter(file, self.extractor) as writer:
                for video in task.videos:
                    pts_us_N = self.frame_N * np.int64(33_333)
                    writer.write(video.sha256, self.frame_N, pts_us_N, self.frame_N * 0, self.percepts_ND)
        result = VideoResult(
            frames_expected=CLIP_FRAMES,
            frames_decoded=CLIP_FRAMES,
            frames_dropped=0,
            frames_missing=0,
            verdict="ok",
            reason="",
        )
        results = {video.sha256: result for video in task.videos}
        digest = file.digest.hexdigest()
        shard = Shard(path=task.path, sha256=digest, bytes=file.num_bytes, rows=writer.num_rows, results=results)
        write_sidecar(self.store_uri, shard)
        return ShardDone(task.path, Timings(num_frames=writer.num_rows), "stub")


def run(root: str, num_clips: int, phases: Phases) -> None:
    """A run, a second one, and one of an index that has grown by 1%."""
    folder = Path(root).parent / "clips"
    store = Store.open(root, create=True)
    extractor = Extractor(settings={"made": "by a stub"}, dim=DIM)
    made = 0
    for turn, num in (("", num_clips), ("second run: ", num_clips), ("grown by 1%: ", num_clips * 101 // 100)):
        for number in range(made, num):
            make_clip(folder / f"{number // 1000:04d}" / f"{number:07d}.mp4")
        made = num
        with stubs(extractor, phases, turn), phases(f"{turn}list and keys"):
            plan = Plan("scale")
            index = plan.add(ingest, IngestConfig(videos=(str(folder),)))
            plan.add(extract, ExtractConfig(), index=index)
        with stubs(extractor, phases, turn):
            for node in plan.nodes:
                with phases(f"{turn}find"):
                    found = store.find(node.stage.name, node.key)
                if found is None:
                    make(store, node, phases, turn)


def make_clip(path: Path) -> None:
    """An empty file that has been there for a day."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (time.time() - 86_400,) * 2)


@contextmanager
def stubs(extractor: Extractor, phases: Phases, turn: str) -> Iterator[None]:
    """Stubs for what costs, and clocks around what extract calls."""
    timed = {
        "make_plan": "plan",
        "extract_shards": "shards and sidecars",
        "collect_results": "collect results",
        "write_records": "write ledger",
    }
    with (
        mock.patch.object(ingest_stage, "probe_source", stub_probe),
        mock.patch.object(extract_shards, "shard_extractor", lambda *args: StubExtractor(extractor, args[2])),
        mock.patch.multiple(
            extraction_stage,
            extractor_of=lambda config: extractor,
            **{name: phases.timed(f"{turn}{word}", getattr(extraction_stage, name)) for name, word in timed.items()},
        ),
    ):
        yield


def make(store: Store, node: Node, phases: Phases, turn: str) -> None:
    directory = store.directory(node.stage.name, node.key)
    context = Context(uri=directory, store_uri=store.root, key=node.key, source=node.name)
    inputs: dict[str, Any] = {
        edge: value.stage.produces(store.directory(value.stage.name, value.key), value.key)
        for edge, value in node.inputs.items()
        if isinstance(value, Node)
    }
    with phases(f"{turn}{node.name}, all"):
        node.stage(node.config, context, **inputs)
    with phases(f"{turn}{node.name} manifest"):
        facts = {"name": node.name, "recipe": "scale", "config": config_dict(node.config), "inputs": node.input_keys()}
        outputs = store.outputs(node.stage.name, node.key)
        manifest = Manifest(stage=node.stage.name, version=node.stage.version, key=node.key, outputs=outputs, **facts)
        store.commit(manifest)


def look_open(root: str, phases: Phases) -> None:
    uri = next(str(path.parent) for path in Path(root).glob("extract/*/manifest.json"))
    with phases("open_store"):
        store = open_store(uri)
    with phases("windows"):
        windows = Windows(store, length=29, stride=8)
    with phases("gather 100 batches"):
        rng = np.random.default_rng(0)
        for _ in range(100):
            windows.gather(rng.integers(0, len(windows), 128))


def look_verify(root: str, phases: Phases) -> None:
    with phases("verify"):
        assert verify.main(["--store", root, "--json"]) == 0


def look_compact(root: str, phases: Phases) -> None:
    with phases("compact --plan"):
        compact.main(["--store", root, "--plan", "--json"])


READERS = {"open": look_open, "verify": look_verify, "compact": look_compact}


def in_own_process(*arguments: object) -> dict[str, Any]:
    """What a process with these arguments prints on its last line."""
    command = [sys.executable, "-m", "tests.bench.scale", *map(str, arguments)]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def measure(num_clips: int) -> dict[str, Any]:
    """All phases; `num_bytes` of the store."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        root = str(Path(folder) / "store")
        Path(root).mkdir()
        phases = in_own_process("--make", root, num_clips)
        for reader in READERS:
            phases |= in_own_process("--look", root, reader)
        return {"phases": phases, "num_bytes": sum(p.stat().st_size for p in Path(root).rglob("*") if p.is_file())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs=2, default=(108_000, 10_800), metavar=("LARGE", "SMALL"))
    parser.add_argument("--make", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--look", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    phases = Phases()
    if args.make:
        run(args.make[0], int(args.make[1]), phases)
    if args.look:
        READERS[args.look[1]](args.look[0], phases)
    if phases.found:
        print(json.dumps(phases.found), flush=True)
        return
    large, small = map(measure, args.clips)
    print(
        "| phase | us a clip | CPU us | small run | peak MB | small run | bytes a clip |\n|---|---|---|---|---|---|---|"
    )
    lines = []
    for name, found in large["phases"].items():
        other = small["phases"][name]
        us = found["seconds"] / args.clips[0] * 1e6
        cpu_us, other_us = found["cpu_s"] / args.clips[0] * 1e6, other["cpu_s"] / args.clips[1] * 1e6
        growth = (found["peak_mb"] - other["peak_mb"]) * 1e6 / (args.clips[0] - args.clips[1])
        memory = f"{found['peak_mb']:.0f} | {other['peak_mb']:.0f} | {growth:.0f}"
        print(f"| {name} | {us:.1f} | {cpu_us:.1f} | {other_us:.1f} | {memory} |")
        lines.append(
            {
                "benchmark": "scale",
                "phase": name,
                "seconds": round(found["seconds"], 3),
                "us_per_clip": round(us, 2),
                "cpu_us_per_clip": round(cpu_us, 2),
                "peer_cpu_us_per_clip": round(other_us, 2),
                "ratio": round(other_us / max(cpu_us, 0.01), 2),
                "peak_mb": round(found["peak_mb"]),
                "peer_peak_mb": round(other["peak_mb"]),
                "bytes_per_clip": round(growth),
                "config": {"clips": args.clips[0], "peer_clips": args.clips[1], "bytes": large["num_bytes"]},
            }
        )
    for line in lines:
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
