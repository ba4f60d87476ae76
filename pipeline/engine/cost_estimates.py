"""The time and cost of an extraction: frames, GPU-hours, core-hours, bytes and a price, from rates with a source.

    percepts plan youtube --videos clips/ --plan-hours 300 \\
        --gpu-frames-per-s 2000 --price-per-gpu-hour 2.5

The source of a rate is, in this order: a flag; `--calibrate`, which measures the decoder and the convnet here on a few
of the videos given; the last extraction with the same convnet in this store; two cores of the machine of
tests/RESULTS.md. The bill names the source.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.rates import BYTES_PER_FRAME, DECODED_FRAMES_PER_S, extraction_seconds
from pipeline.core.stage import Estimate, Resources
from pipeline.engine.cost_options import CostOptions
from pipeline.engine.status import Step, human_bytes
from pipeline.engine.store import Manifest, Store
from stages.convnets import convnet as convnets
from stages.extraction.config import ExtractionConfig
from stages.video.decode import VideoDecoder
from stages.video.sources import iter_videos, local_video

REFERENCE_CORES = 2
"""The number of cores of the machine whose rates are in `pipeline.core.rates`."""
CALIBRATION_S = 5.0
"""The time for which the decoder, and then the convnet, is measured."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """The frames per second of one device, and the source of that number."""

    frames_per_s: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Bill:
    """The time, size and price of an extraction."""

    num_frames: int
    decoder: Rate
    """The rate of one core."""
    convnet: Rate
    """The rate of one GPU, or of one core."""
    on_gpus: bool
    gpu_hours: float
    core_hours: float
    percept_bytes: int
    video_bytes: int
    price: float | None
    """The price in the currency of the options; None if a necessary price was not given."""

    @property
    def cores_per_gpu(self) -> float:
        """The number of cores that decode as fast as one GPU computes."""
        return self.convnet.frames_per_s / self.decoder.frames_per_s

    def seconds(self, resources: Resources) -> float:
        """Returns the duration on these workers. With GPUs, decoding and the convnet run at the same time."""
        core_hours = self.core_hours / max(resources.num_workers * resources.cpus_per_worker, 1.0)
        gpu_hours = self.gpu_hours / max(resources.num_workers * resources.gpus_per_worker, 1.0)
        return 3600 * max(core_hours, gpu_hours)


def bill(config: ExtractionConfig, estimate: Estimate, options: CostOptions, rates: tuple[Rate, Rate | None]) -> Bill:
    """Computes the bill of an extraction.

    Raises:
        ConfigError: the rate of this convnet is unknown.
    """
    decoder, convnet = rates
    on_gpus = options.gpu_frames_per_s is not None
    if convnet is None:
        raise ConfigError(
            f"{config.convnet.name} was never measured: give --gpu-frames-per-s, --core-frames-per-s or --calibrate"
        )
    assert estimate.num_frames is not None
    decode_hours, convnet_hours = (estimate.num_frames / rate.frames_per_s / 3600 for rate in (decoder, convnet))
    gpu_hours = convnet_hours if on_gpus else 0.0
    core_hours = decode_hours + (0.0 if on_gpus else convnet_hours)
    percept_bytes = estimate.num_bytes or 0
    parts = (
        (gpu_hours, options.price_per_gpu_hour),
        (core_hours, options.price_per_core_hour),
        (percept_bytes / 1e12, options.price_per_tb_month),
    )
    prices = [amount * price for amount, price in parts if price is not None]
    is_priced = bool(prices) and not (on_gpus and options.price_per_gpu_hour is None)
    return Bill(
        num_frames=estimate.num_frames,
        decoder=decoder,
        convnet=convnet,
        on_gpus=on_gpus,
        gpu_hours=gpu_hours,
        core_hours=core_hours,
        percept_bytes=percept_bytes,
        video_bytes=estimate.num_frames * BYTES_PER_FRAME,
        price=sum(prices) if is_priced else None,
    )


def rates(
    config: ExtractionConfig, options: CostOptions, store: Store, videos: Sequence[str]
) -> tuple[Rate, Rate | None]:
    """Returns the rates of the decoder and of the convnet; the second is None if it is unknown.

    Raises:
        SourceError: a calibration is set in the options, and no video could be decoded.
    """
    decoder = Rate(frames_per_s=DECODED_FRAMES_PER_S / REFERENCE_CORES, source="tests/RESULTS.md")
    convnet = _reference(config)
    last_rate = _last_rate(config, store)
    if last_rate is not None:
        convnet = last_rate
    if options.calibrate:
        decoder, convnet = calibrate(config, videos)
    if options.decode_frames_per_s is not None:
        decoder = Rate(frames_per_s=options.decode_frames_per_s, source="given")
    if options.core_frames_per_s is not None:
        convnet = Rate(frames_per_s=options.core_frames_per_s, source="given")
    if options.gpu_frames_per_s is not None:
        convnet = Rate(frames_per_s=options.gpu_frames_per_s, source="given")
    return decoder, convnet


def _reference(config: ExtractionConfig) -> Rate | None:
    seconds = extraction_seconds(config.convnet.name, config.convnet.input_px, 1)
    return None if seconds is None else Rate(frames_per_s=1 / seconds / REFERENCE_CORES, source="tests/RESULTS.md")


def _last_rate(config: ExtractionConfig, store: Store) -> Rate | None:
    """Returns the rate of the last extraction on cores. Its decoding counts as the convnet's: an upper bound."""
    last: Manifest | None = None
    for manifest in store.manifests("extract"):
        net = manifest.config.get("convnet", {})
        is_same = (net.get("name"), net.get("input_px")) == (config.convnet.name, config.convnet.input_px)
        is_measured = manifest.facts.get("num_cores") and not manifest.facts.get("num_gpus")
        if is_same and is_measured and "frames_per_s" in manifest.facts:
            last = max(last or manifest, manifest, key=lambda one: one.finished_at)
    if last is None:
        return None
    per_core = float(last.facts["frames_per_s"]) / float(last.facts["num_cores"])
    return Rate(frames_per_s=per_core, source=f"the last extraction of this store, {last.key}")


def calibrate(config: ExtractionConfig, videos: Sequence[str]) -> tuple[Rate, Rate]:
    """Measures the decoder and the convnet on one core each, for a few seconds.

    Raises:
        SourceError: no video could be decoded.
    """
    frames: list[Any] = []
    began, num_decoded = time.perf_counter(), 0
    for chunk in _decoded(config, videos):
        num_decoded += len(chunk)
        if len(frames) < 4:
            frames.append(chunk)
        if time.perf_counter() - began > CALIBRATION_S:
            break
    decode_s = time.perf_counter() - began
    if not frames:
        raise SourceError("--calibrate decodes some of the videos given, and none of the first could be decoded")
    convnet = convnets.build(config.convnet, num_threads=1)
    convnet(frames[0])
    began, num_seen = time.perf_counter(), 0
    while time.perf_counter() - began < CALIBRATION_S:
        for chunk in frames:
            convnet(chunk)
            num_seen += len(chunk)
    seen_s = time.perf_counter() - began
    here = f"measured here, {num_decoded:,} frames decoded and {num_seen:,} through the convnet"
    return Rate(frames_per_s=num_decoded / decode_s, source=here), Rate(frames_per_s=num_seen / seen_s, source=here)


def _decoded(config: ExtractionConfig, videos: Sequence[str]) -> Iterator[Any]:
    for source in itertools.islice(iter_videos(videos), 32):
        with local_video(source.uri) as path:
            for chunk in VideoDecoder(path, config.decode, limits=config.limits):
                yield chunk.frames_NHWC


def bill_lines(extraction: Bill, options: CostOptions) -> list[str]:
    """Formats the bill as lines of text."""
    hours = f"{options.plan_hours:g} hours at {options.plan_fps:g} frames/s: " if options.plan_hours else ""
    device = "GPU" if extraction.on_gpus else "core"
    lines = [
        f"{hours}{extraction.num_frames:,} frames, about {human_bytes(extraction.video_bytes)} of compressed video",
        f"convnet {extraction.convnet.frames_per_s:,.0f} frames/s a {device} ({extraction.convnet.source}); "
        f"decoder {extraction.decoder.frames_per_s:,.0f} frames/s a core ({extraction.decoder.source})",
        f"extract: {extraction.gpu_hours:,.1f} GPU-hours, {extraction.core_hours:,.1f} core-hours, "
        f"{human_bytes(extraction.percept_bytes)} of percepts",
    ]
    if extraction.on_gpus:
        lines.append(f"one GPU is fed by {extraction.cores_per_gpu:.1f} cores that decode")
    if extraction.price is not None:
        month = ", the first month of storage included" if options.price_per_tb_month is not None else ""
        lines.append(f"price: {extraction.price:,.2f}{month}")
    return lines


def with_bill(
    steps: list[Step], options: CostOptions, store: Store, videos: Sequence[str]
) -> tuple[list[Step], list[str]]:
    """Returns the plan's steps with the bill's time for the extraction, and the lines of the bill.

    Without options of cost, or with nothing to extract, the steps are unchanged and there are no lines.

    Raises:
        ConfigError, SourceError: see `bill` and `rates`.
    """
    step = next((step for step in steps if isinstance(step.node.config, ExtractionConfig)), None)
    if options == CostOptions() or step is None or step.have or not step.estimate.num_frames:
        return steps, []
    config: ExtractionConfig = step.node.config
    computed = bill(config, step.estimate, options, rates(config, options, store, videos))
    seconds = computed.seconds(step.node.resources)
    timed = replace(step, estimate=replace(step.estimate, seconds=seconds))
    return [timed if one is step else one for one in steps], bill_lines(computed, options)
