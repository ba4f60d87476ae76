"""Extraction on one GPU and the cores beside it, without Ray: the convnet alone, compiled and plain, and from files.

    python -m tests.bench_gpu.extraction                                  # VGG-16 fc6, Lite0, ViT-S; random weights
    python -m tests.bench_gpu.extraction --only random_vgg16 --seconds 120
    python -m tests.bench_gpu.extraction --rehearse                       # a toy on CPU

A JSON line for each figure, as it is known, worth first. Videos are H.264 at 320x240, decoded to 224x224 in as many
processes as there are cores but one. `ratio` is frames a second from files to percepts on disk over those of the
convnet alone, with frames in pinned memory; the goal for VGG-16 fc6 is 0.90 and 12,000 frames/s. For the first convnet
also from long videos at 1280x720 and 1920x1080, decoded on the cores and on the GPU. Parts that would begin
after --seconds are left out, with a line that says so.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from pipeline.core.files import sha256_bytes, sha256_file
from stages.convnets import engines
from stages.convnets.convnet import Convnet, ConvnetConfig, build, load_network
from stages.convnets.cuda_engines import CudaEngine, plain_forward
from stages.convnets.engines import Engine, Frames
from stages.extraction.config import ExtractionConfig, extractor_of
from stages.extraction.decode_processes import DecodeProcesses
from stages.extraction.decode_queue import DecodeQueue, DecodeSource, Video
from stages.extraction.shard_extractor import ShardExtractor
from stages.extraction.shard_task import ShardTask, describe_timings
from stages.percepts.node_cache import NodeCache
from stages.percepts.shards import VideoResult, directory
from stages.video.decode import DecodeConfig
from tests.bench.made_videos import make_videos

LAYERS = {"random_vgg16": "fc6", "random_lite0": "features", "random_vit_small": "pooled"}


@dataclass
class Bench:
    """What all parts need."""

    rehearse: bool
    num_decoders: int
    videos: list[Video]
    folder: Path
    ends_s: float
    built: dict[str, ShardExtractor] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    source: DecodeSource = field(init=False)
    """Where frames are decoded for the extractor that was built last."""

    @property
    def device(self) -> str:
        return "cpu" if self.rehearse else "cuda"

    @property
    def num_batches(self) -> int:
        return 2 if self.rehearse else 40

    def config(self, name: str) -> ExtractionConfig:
        px = 32 if self.rehearse else 224
        convnet = ConvnetConfig(name=name, layer=LAYERS[name], input_px=px, plugin="tests.bench_gpu.random_convnets")
        decode = DecodeConfig(short_side_px=round(px * 240 / 224), crop_px=px)
        return ExtractionConfig(convnet=convnet, decode=decode)


def say(benchmark: str, **values: Any) -> None:
    """One JSON line; numbers to four digits."""
    rounded = {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in values.items()}
    print(json.dumps({"benchmark": benchmark} | rounded), flush=True)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def stream_rate(engine: Engine, batch_BHWC: Frames, num_batches: int) -> tuple[float, float]:
    """Frames a second of the engine alone on a batch in memory, and the share of that time that the device computed."""
    for _ in engine.stream([batch_BHWC] * 3):
        pass
    synchronize()
    began, busy_s = time.perf_counter(), engine.busy_s
    for _ in engine.stream([batch_BHWC] * num_batches):
        pass
    seconds = time.perf_counter() - began
    return len(batch_BHWC) * num_batches / seconds, (engine.busy_s - busy_s) / seconds


def noise(engine: Engine, convnet: ConvnetConfig) -> Frames:
    """A full batch in the engine's own memory."""
    batch_BHWC = engine.new_batch((engine.batch_frames, convnet.input_px, convnet.input_px, 3))
    batch_BHWC[:] = np.random.default_rng(1).integers(0, 256, batch_BHWC.shape, dtype=np.uint8)
    return batch_BHWC


def compiled_alone(bench: Bench, name: str) -> None:
    """Builds the extractor, whose engine compiles; then the convnet alone."""
    config = bench.config(name)
    began = time.perf_counter()
    bench.source = DecodeProcesses(config.decode, config.limits, num_processes=bench.num_decoders)
    extractor = ShardExtractor(
        config,
        extractor_of(config),
        str(bench.folder),
        device=bench.device,
        num_threads=1,
        num_decoders=bench.num_decoders,
        source=lambda video: bench.source(video),
    )
    built_s = time.perf_counter() - began
    bench.built[name] = extractor
    engine = extractor.convnet.engine
    rate, busy = stream_rate(engine, noise(engine, config.convnet), bench.num_batches)
    bench.rates[name] = rate
    say("convnet_alone", convnet=name, engine=engine.name, frames_per_second=rate, busy=busy, built_s=built_s)


def from_files(bench: Bench, name: str) -> None:
    """Files to percepts: the first pass warms the decoding processes up."""
    extractor = bench.built[name]
    fingerprint = extractor_of(bench.config(name)).fingerprint
    for number, videos in enumerate((bench.videos[: 2 * bench.num_decoders], bench.videos, bench.videos)):
        began = time.perf_counter()
        done = extractor(ShardTask(f"{directory(fingerprint)}/bench{number}.parquet", tuple(videos)))
        seconds = time.perf_counter() - began
        if number:
            rate = done.timings.num_frames / seconds
            say(
                "extract_vs_convnet",
                convnet=name,
                frames_per_second=rate,
                ratio=rate / bench.rates[name],
                frames=done.timings.num_frames,
                seconds=seconds,
                decoders=bench.num_decoders,
                bottleneck=describe_timings(done.timings, worker="GPU"),
            )


def decoding_alone(bench: Bench, name: str) -> None:
    """What the decoding processes bring to one consumer that copies each frame once."""
    config = bench.config(name)
    source = DecodeProcesses(config.decode, config.limits, num_processes=bench.num_decoders)
    for number, videos in enumerate((bench.videos[: 2 * bench.num_decoders], bench.videos)):
        frames, place_NHWC = 0, np.empty((32, config.convnet.input_px, config.convnet.input_px, 3), np.uint8)
        began, core_s = time.perf_counter(), time.process_time()
        with DecodeQueue(videos, source, num_decoders=bench.num_decoders) as decoding:
            while (item := decoding.next()) is not None:
                if not isinstance(item[1], VideoResult):
                    place_NHWC[: len(item[1].index_N)] = item[1].frames_NHWC
                    frames += len(item[1].index_N)
        seconds = time.perf_counter() - began
        if number:
            say(
                "decode_in_processes",
                frames_per_second=frames / seconds,
                decoders=bench.num_decoders,
                decode_core_ms_per_frame=1000 * decoding.core_s / frames,
                consumer_core_ms_per_frame=1000 * (time.process_time() - core_s) / frames,
            )


def large_frames(bench: Bench, name: str) -> None:
    """Long videos of large frames to percepts, decoded on the cores and on the GPU; equal bytes have one sha256."""
    config, extractor = bench.config(name), bench.built[name]
    on: tuple[Literal["none", "cuda"], ...] = ("none",) if bench.rehearse else ("none", "cuda")
    for width, height in ((128, 96),) if bench.rehearse else ((1280, 720), (1920, 1080)):
        folder = bench.folder / f"{width}x{height}"
        (folder / "copies").mkdir(parents=True)
        make_videos(folder, 1, 40 if bench.rehearse else 600, width, height, grain=6)
        videos = videos_of(folder, folder / "copies", 3 * bench.num_decoders)
        for hardware in on:
            decode = replace(config.decode, hardware=hardware)
            bench.source = DecodeProcesses(decode, config.limits, num_processes=bench.num_decoders)
            # The first pass warms the processes up.
            for shard in (videos[: bench.num_decoders], videos):
                path = f"{directory(extractor_of(config).fingerprint)}/{height}-{hardware}-{len(shard)}.parquet"
                began = time.perf_counter()
                done = extractor(ShardTask(path, tuple(shard)))
                seconds = time.perf_counter() - began
            say(
                "extract_large_frames",
                convnet=name,
                size=folder.name,
                hardware=hardware,
                frames_per_second=done.timings.num_frames / seconds,
                frames=done.timings.num_frames,
                decode_core_ms_per_frame=1000 * done.timings.decode_core_s / done.timings.num_frames,
                bottleneck=describe_timings(done.timings, worker="GPU"),
                sha256=sha256_file(str(bench.folder / path))[:16],
            )


def plain_alone(bench: Bench, name: str) -> None:
    """The engine that does not compile."""
    config = bench.config(name).convnet
    network, _ = load_network(config)
    if bench.rehearse:
        engine: Engine = engines.TorchCpu(network, 1)
    else:
        engine = CudaEngine("torch-cuda", plain_forward(network, torch.device("cuda")))
    engines.check_engine(engine, network, config.input_px, 3)
    rate, busy = stream_rate(engine, noise(engine, config), bench.num_batches)
    ratio = bench.rates.get(name, float("nan")) / rate
    say("convnet_plain", convnet=name, engine=engine.name, frames_per_second=rate, busy=busy, compiled_over_plain=ratio)


def same_bits(bench: Bench, name: str) -> None:
    """Whether a frame's percept depends on where it lies in its batch, or on the run."""
    convnet: Convnet = bench.built[name].convnet
    batch_BHWC = noise(convnet.engine, convnet.config)
    order = np.random.default_rng(2).permutation(len(batch_BHWC))
    shuffled_BHWC = convnet.new_batch()
    shuffled_BHWC[:] = batch_BHWC[order]
    whole, again, shuffled = convnet.stream([batch_BHWC, batch_BHWC, shuffled_BHWC])
    short = convnet(batch_BHWC[:5])
    say(
        "same_bits",
        convnet=name,
        engine=convnet.engine.name,
        twice=whole.tobytes() == again.tobytes(),
        shuffled=whole[order].tobytes() == shuffled.tobytes(),
        short_batch=whole[:5].tobytes() == short.tobytes(),
        sha256=sha256_bytes(whole.tobytes())[:16],
    )


def second_worker(bench: Bench, name: str) -> None:
    """A new process builds the same engine: what was compiled is on this node's disk."""
    command = [sys.executable, "-m", "tests.bench_gpu.extraction", "--build-only", name]
    command += ["--rehearse"] if bench.rehearse else []
    began = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=100)
    line = json.loads(done.stdout.splitlines()[-1])
    say(line.pop("benchmark"), **line, process_s=time.perf_counter() - began)


def build_only(bench: Bench, name: str) -> None:
    began = time.perf_counter()
    load_network(bench.config(name).convnet)
    loaded_s = time.perf_counter() - began
    began = time.perf_counter()
    convnet = build(
        bench.config(name).convnet, device=bench.device, compiled_code=NodeCache.of_environment().compiled_code
    )
    built_s = time.perf_counter() - began
    percepts = convnet(noise(convnet.engine, convnet.config))
    from torch._dynamo.utils import counters

    say(
        "second_worker",
        convnet=name,
        engine=convnet.engine.name,
        built_s=built_s,
        of_these_network_s=loaded_s,
        graphs_from_disk=counters["inductor"]["fxgraph_cache_hit"],
        graphs_compiled=counters["inductor"]["fxgraph_cache_miss"],
        sha256=sha256_bytes(percepts.tobytes())[:16],
    )


PARTS: tuple[Callable[[Bench, str], None], ...] = (
    *(compiled_alone, from_files, decoding_alone, large_frames, plain_alone, same_bits, second_worker),
)
OF_THE_FIRST = {decoding_alone, large_frames, second_worker}
"""Parts for the first convnet alone."""


def parts(bench: Bench, names: list[str], wanted: list[str]) -> Iterator[tuple[str, Callable[[], None]]]:
    """Name and work of each part, worth first; all others need the first one."""
    for name in names:
        for part in PARTS:
            if part is compiled_alone or (part.__name__ in wanted and (name == names[0] or part not in OF_THE_FIRST)):
                yield f"{part.__name__} {name}", partial(part, bench, name)


def videos_of(source: Path, folder: Path, num_videos: int) -> list[Video]:
    """So many videos of different bytes, copies of those in `source` with an empty box behind."""
    found = sorted(source.glob("*.mp4"))
    videos = []
    for number, path in zip(range(num_videos), chain.from_iterable(repeat(found)), strict=False):
        copy = folder / f"{number:04d}.mp4"
        copy.write_bytes(path.read_bytes() + (16).to_bytes(4, "big") + b"free" + number.to_bytes(8, "big"))
        videos.append(Video(sha256_file(str(copy)), str(copy), 0))
    return videos


def main() -> int:
    """1 where a part failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(LAYERS), default=list(LAYERS), help="convnets to run")
    names = [part.__name__ for part in PARTS]
    parser.add_argument("--parts", nargs="+", choices=names, default=names, help="what is measured of each")
    parser.add_argument("--videos", type=Path, help="folder of H.264 files at 320x240; none: some are made")
    parser.add_argument("--num-videos", type=int, default=160, help="copies of those to extract from")
    parser.add_argument("--decoders", type=int, help="decoding processes; none: the cores but one")
    parser.add_argument("--seconds", type=float, default=600.0, help="no part begins later than this")
    parser.add_argument("--rehearse", action="store_true", help="toy sizes on CPU")
    parser.add_argument("--build-only", choices=list(LAYERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    began = time.perf_counter()
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if options.videos is None and not options.build_only:
            make_videos(folder, 2 if options.rehearse else 16, 40 if options.rehearse else 300)
        copies = folder / "copies"
        copies.mkdir()
        videos = [] if options.build_only else videos_of(options.videos or folder, copies, options.num_videos)
        num_decoders = options.decoders or max(1, len(os.sched_getaffinity(0)) - 1)
        bench = Bench(options.rehearse, num_decoders, videos, folder, began + options.seconds)
        if options.build_only:
            build_only(bench, options.build_only)
            return 0
        say(
            "machine",
            gpu="none" if options.rehearse else torch.cuda.get_device_name(),
            cpus=os.cpu_count(),
            torch=torch.__version__,
            load=os.getloadavg()[0],
        )
        for name, part in parts(bench, options.only, options.parts):
            if time.perf_counter() > bench.ends_s:
                say("left_out", part=name)
                continue
            try:
                part()
            except Exception as error:  # noqa: BLE001  # the other parts go on
                failed = True
                traceback.print_exc()
                say("failed", part=name, error=" ".join(f"{type(error).__name__}: {error}".split())[:500])
            say("elapsed", part=name, seconds=time.perf_counter() - began)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
