"""Extraction against the convnet alone, against the loop people write, and against Ray Data, on the same videos.

    python -m tests.bench.extraction                     # 320x240 H.264 made here; Lite0 features at 224x224
    python -m tests.bench.extraction --only extract_vs_convnet --videos ../shared/data/ucf101
    python -m tests.bench.extraction --device cuda --name vgg16 --layer fc6 --weights URI --weights-sha256 HEX
    python -m tests.bench.extraction --device cuda --cpus 16 --random-weights --only extract_vs_convnet \
        --num-videos 64 --num-frames 300        # VGG-16 fc6 and the cores beside a GPU; goal: a ratio of 0.90

Prints a JSON line for each benchmark. Repetitions of both sides take turns; figures are medians. `ratio` of
extract_vs_convnet is the share of the convnet's own rate, on the same frames already in memory and with the same
engine on all the cores, that extraction from files keeps (1 is perfect); the other ratios are seconds over the peer's
seconds (below 1 is faster). Core seconds are those of this process on all cores: on a busy machine they say more than
seconds do. The floor: what the convnet alone and decoding alone take, in core milliseconds a frame.

Workers are those that `stages.extraction.worker_allocation` chooses for one shard on these cores. Ray is needed only
for its own peer, and with --device cpu --decoders, where processes on other cores decode.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from pipeline.core.files import sha256_file
from pipeline.core.stage import Resources
from pipeline.core.workers import ClusterNode, Workers
from stages.convnets import vgg16
from stages.convnets.config import ConvnetConfig
from stages.convnets.convnet import Convnet, build, load_network
from stages.extraction.config import ExtractionConfig, extractor_of
from stages.extraction.decode_queue import Video
from stages.extraction.extract_shards import shard_extractor
from stages.extraction.shard_extractor import ShardExtractor
from stages.extraction.shard_task import ShardDone, ShardTask, describe_timings
from stages.extraction.worker_allocation import WorkerAllocation, allocate_workers
from stages.percepts.shards import directory
from stages.video.decode import DecodeConfig, VideoDecoder
from tests.bench.made_videos import make_videos

Frames = npt.NDArray[np.uint8]
ROOT = Path(__file__).resolve().parents[2]
NAMES = ("extract_vs_convnet", "extract_vs_plain_loop", "extract_vs_ray_data")


def decode_all(videos: Sequence[Video], config: DecodeConfig) -> Frames:
    """Every frame of every video, in memory: (N, H, W, 3)."""
    return np.concatenate([chunk.frames_NHWC for video in videos for chunk in VideoDecoder(video.uri, config)])


def run_convnet(convnet: Convnet, frames_NHWC: Frames) -> None:
    """The convnet alone, batches as in extraction."""
    size = convnet.batch_frames
    for _ in convnet.stream(frames_NHWC[first : first + size] for first in range(0, len(frames_NHWC), size)):
        pass


class PlainLoop:
    """What people write: for each video, decode it whole, run the network in plain torch, np.save."""

    def __init__(self, config: ExtractionConfig, folder: Path, device: str) -> None:
        self.network = load_network(config.convnet)[0].to(device)
        self.short_px, self.px, self.device = config.decode.short_side_px, config.convnet.input_px, device
        self.folder = folder

    @torch.inference_mode()
    def __call__(self, videos: Sequence[Video]) -> None:
        for video in videos:
            x_NCHW = torch.from_numpy(self.decode(video.uri)).permute(0, 3, 1, 2).float()
            percepts = [self.network(batch.to(self.device)).cpu() for batch in x_NCHW.split(64)]
            np.save(self.folder / f"{video.sha256}.npy", torch.cat(percepts).numpy().astype(np.float16))

    def decode(self, path: str) -> Frames:
        """(N, px, px, 3): one frame after the other, scaled with `reformat`, the middle cut out."""
        images = []
        with av.open(path) as container:
            for frame in container.decode(video=0):
                scale = (self.short_px or min(frame.width, frame.height)) / min(frame.width, frame.height)
                size = round(frame.width * scale), round(frame.height * scale)
                image = frame.reformat(*size, format="rgb24").to_ndarray()
                top, left = (image.shape[0] - self.px) // 2, (image.shape[1] - self.px) // 2
                images.append(image[top : top + self.px, left : left + self.px])
        return np.stack(images)


class RayDataConvnet:
    """The class that `map_batches` builds in each of its actors."""

    def __init__(self, config: ConvnetConfig, device: str) -> None:
        torch.set_num_threads(1)
        self.convnet = build(config, device=device)

    def __call__(self, batch: dict[str, npt.NDArray[np.uint8]]) -> dict[str, npt.NDArray[np.float16]]:
        return {"percept": self.convnet(np.stack(list(batch["frame"])))}


def run_ray_data(videos: Sequence[Video], config: ExtractionConfig, folder: Path, device: str, num_cpus: int) -> None:
    """Ray Data over the same files with our own decoder and convnet: flat_map, map_batches in actors, write_parquet."""
    import ray

    def frames_of(row: dict[str, str]) -> list[dict[str, Frames]]:
        return [{"frame": f} for chunk in VideoDecoder(row["uri"], config.decode) for f in chunk.frames_NHWC]

    frames = ray.data.from_items([{"uri": video.uri} for video in videos]).flat_map(frames_of)
    actor = {"fn_constructor_args": (config.convnet, device), "batch_size": 16, "zero_copy_batch": True}
    actor |= {"num_gpus": 1, "concurrency": 1} if device == "cuda" else {"concurrency": max(1, num_cpus - 1)}
    frames.map_batches(RayDataConvnet, **actor).write_parquet(str(folder))


def remember(extractor: ShardExtractor, task: ShardTask, done: list[ShardDone]) -> None:
    """Extract, and keep what it says about itself."""
    done.append(extractor(task))


def flop_per_frame(config: ConvnetConfig) -> float:
    """Of convolutions and matrix products, 2 a multiply-add, counted by torch."""
    network = load_network(config)[0]
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 3, config.input_px, config.input_px))
    return float(counter.get_total_flops())


Times = tuple[float, float]
"""Seconds on the wall, and of all cores of this process."""


def timed(work: Callable[[], object]) -> Times:
    """Seconds of one call."""
    wall, cores = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cores


def compare(ours: Callable[[], object], peer: Callable[[], object], repetitions: int) -> tuple[Times, Times]:
    """Median seconds of both, after one warm-up of each; they take turns."""
    ours()
    peer()
    rounds = [(*timed(ours), *timed(peer)) for _ in range(repetitions)]
    wall, cores, peer_wall, peer_cores = (statistics.median(column) for column in zip(*rounds, strict=True))
    return (wall, cores), (peer_wall, peer_cores)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=NAMES, action="append", help="benchmarks to run (default: all)")
    parser.add_argument("--videos", type=Path, help="a folder of videos (default: made here)")
    parser.add_argument("--num-videos", type=int, default=4)
    parser.add_argument("--num-frames", type=int, default=150)
    parser.add_argument("--name", default="efficientnet_lite0")
    parser.add_argument("--layer", default="features")
    parser.add_argument("--input-px", type=int, default=224)
    parser.add_argument("--weights")
    parser.add_argument("--weights-sha256")
    parser.add_argument("--random-weights", action="store_true", help="VGG-16 fc6 of random weights, made here")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--cpus", type=int, default=2, help="cores for the convnet's engine and the decoders")
    parser.add_argument("--decoders", type=int, help="decoding cores of the GPU or worker (default: chosen)")
    parser.add_argument("--repetitions", type=int, default=3)
    return parser.parse_args()


def random_vgg16(folder: Path, input_px: int) -> ConvnetConfig:
    """VGG-16 up to fc6 with weights that keep the activations' size: speed does not depend on what is learned."""
    layers = vgg16.vgg16_layers("fc6", vgg16.STAGES, vgg16.FC_UNITS, vgg16.POOL5_CELLS)
    for parameter in layers.parameters():
        fan_in = parameter[0].numel()
        torch.nn.init.normal_(parameter, std=(2 / fan_in) ** 0.5) if parameter.ndim > 1 else parameter.data.zero_()
    path = folder / "random.safetensors"
    save_file(layers.state_dict(), path)
    sha256 = sha256_file(str(path))
    return ConvnetConfig(
        name="vgg16_torchvision", layer="fc6", input_px=input_px, weights=str(path), weights_sha256=sha256
    )


def main() -> None:
    args = parse()
    with tempfile.TemporaryDirectory() as scratch:
        run_in(Path(scratch), args)


def run_in(folder: Path, args: argparse.Namespace) -> None:
    convnet = ConvnetConfig(
        name=args.name,
        layer=args.layer,
        input_px=args.input_px,
        weights=args.weights,
        weights_sha256=args.weights_sha256,
    )
    if args.random_weights:
        convnet = random_vgg16(folder, args.input_px)
    decode = DecodeConfig(short_side_px=round(args.input_px * 240 / 224), crop_px=args.input_px)
    config = ExtractionConfig(convnet=convnet, decode=decode)
    found = sorted(p for p in args.videos.rglob("*") if p.is_file()) if args.videos else None
    paths = found or make_videos(folder, args.num_videos, args.num_frames)
    videos = [Video(sha256_file(str(path)), str(path), 0) for path in paths]
    bench(args, config, videos, folder)


def bench(args: argparse.Namespace, config: ExtractionConfig, videos: Sequence[Video], folder: Path) -> None:
    """Run the benchmarks that were asked for."""
    extractor = extractor_of(config)
    resources = Resources(num_workers=1, gpus_per_worker=float(args.device == "cuda"), decoders_per_gpu=args.decoders)
    allocation = allocate_workers(resources, [ClusterNode(args.cpus, int(args.device == "cuda"))], 1)
    with ray_session(args.cpus) if allocation.decodes_elsewhere else nullcontext():
        workers = on_ray() if allocation.decodes_elsewhere else Workers()
        ours = shard_extractor(config, extractor, str(folder), allocation, workers)
        compare_all(args, config, videos, folder, ours, allocation)


def ray_session(num_cpus: int) -> AbstractContextManager[object]:
    """Ray on this machine, imported only where a benchmark needs it."""
    from cluster.session import session

    return session(None, str(ROOT), num_cpus=num_cpus)


def on_ray() -> Workers:
    from cluster.workers import RayWorkers

    return RayWorkers()


def compare_all(
    args: argparse.Namespace,
    config: ExtractionConfig,
    videos: Sequence[Video],
    folder: Path,
    ours: ShardExtractor,
    allocation: WorkerAllocation,
) -> None:
    """A JSON line for each benchmark."""
    extractor = extractor_of(config)
    task = ShardTask(f"{directory(extractor.fingerprint)}/bench.parquet", tuple(videos))
    frames_NHWC = decode_all(videos, config.decode)
    _, decode_s = timed(lambda: decode_all(videos, config.decode))
    convnet = build(config.convnet, device=args.device, num_threads=allocation.num_threads)
    run_convnet(convnet, frames_NHWC)
    _, convnet_s = timed(lambda: run_convnet(convnet, frames_NHWC))
    done: list[ShardDone] = []
    extract = partial(remember, ours, task, done)
    peers = {
        "extract_vs_convnet": partial(run_convnet, convnet, frames_NHWC),
        "extract_vs_plain_loop": partial(PlainLoop(config, folder, args.device), videos),
        "extract_vs_ray_data": partial(run_ray_data, videos, config, folder / "ray", args.device, args.cpus),
    }
    for name in args.only or NAMES:
        torch.set_num_threads(args.cpus)
        needs_ray = name == "extract_vs_ray_data" and not allocation.decodes_elsewhere
        ray = ray_session(args.cpus) if needs_ray else nullcontext()
        with ray:
            (wall_s, cores_s), (peer_wall_s, peer_cores_s) = compare(extract, peers[name], args.repetitions)
        line = {
            "benchmark": name,
            "seconds": round(wall_s, 3),
            "peer_seconds": round(peer_wall_s, 3),
            "ratio": round(peer_wall_s / wall_s if name == "extract_vs_convnet" else wall_s / peer_wall_s, 3),
            "core_seconds": round(cores_s, 3),
            "peer_core_seconds": None if name == "extract_vs_ray_data" else round(peer_cores_s, 3),
            "frames": len(frames_NHWC),
            "frames_per_second": round(len(frames_NHWC) / wall_s, 1),
            "peer_frames_per_second": round(len(frames_NHWC) / peer_wall_s, 1),
            "decode_core_ms_per_frame": round(1000 * decode_s / len(frames_NHWC), 3),
            "convnet_core_ms_per_frame": round(1000 * convnet_s / len(frames_NHWC), 3),
            "gflop_per_frame": round(flop_per_frame(config.convnet) / 1e9, 4),
            "bottleneck": describe_timings(done[-1].timings, worker="GPU" if args.device == "cuda" else "worker"),
            "config": {
                "convnet": f"{config.convnet.name}:{config.convnet.layer}@{config.convnet.input_px}",
                "engine": convnet.engine.name,
                "cpus": args.cpus,
                "decoders": allocation.num_decoders,
                "decodes_elsewhere": allocation.decodes_elsewhere,
            },
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
