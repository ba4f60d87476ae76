"""The rates of decoder and convnet that a plan is computed from.

The source of a rate is, in this order: a flag; `--calibrate`, which measures the decoder and the convnet here on a few
of the videos given; the last extraction with the same convnet in this store; the two cores, or the H100, that
tests/RESULTS.md was measured on. The bill names the source.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.core.errors import SourceError
from pipeline.core.rates import (
    DECODED_FRAMES_PER_S,
    H100_DECODERS,
    H100_FRAMES_PER_S_AT_224_PX,
    REFERENCE_CORES,
    extraction_seconds,
)
from pipeline.engine.cost_options import CostOptions
from pipeline.engine.store import Manifest, Store
from stages.convnets import convnet as convnets
from stages.extraction.config import ExtractionConfig
from stages.video.decode import VideoDecoder
from stages.video.sources import iter_videos, local_video

CALIBRATION_S = 5.0
"""The time for which the decoder, and then the convnet, is measured."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """The frames per second of one device, and the source of that number."""

    frames_per_s: float
    source: str
    num_decoders: float | None = None
    """The cores that decoded for one GPU while this was measured, so that each is as fast or faster; None: it is of the
    convnet alone."""


def rates(
    config: ExtractionConfig, options: CostOptions, store: Store, videos: Sequence[str], *, on_gpus: bool = False
) -> tuple[Rate, Rate | None]:
    """Returns the rates of the decoder, a core, and of the convnet, a GPU or a core; the second is None if unknown.

    Raises:
        SourceError: a calibration is set in the options, and no video could be decoded.
    """
    decoder = Rate(frames_per_s=DECODED_FRAMES_PER_S / REFERENCE_CORES, source="tests/RESULTS.md")
    convnet = _reference(config, on_gpus=on_gpus)
    last_rate = _last_rate(config, store, on_gpus=on_gpus)
    if last_rate is not None:
        convnet = last_rate
    if convnet is not None and convnet.num_decoders:
        seen = convnet.frames_per_s / convnet.num_decoders
        decoder = max(decoder, Rate(frames_per_s=seen, source=convnet.source), key=lambda rate: rate.frames_per_s)
    if options.calibrate:
        decoder, here = calibrate(config, videos)
        convnet = convnet if on_gpus else here
    if options.decode_frames_per_s is not None:
        decoder = Rate(frames_per_s=options.decode_frames_per_s, source="given")
    given = options.gpu_frames_per_s if on_gpus else options.core_frames_per_s
    return decoder, convnet if given is None else Rate(frames_per_s=given, source="given")


def _reference(config: ExtractionConfig, *, on_gpus: bool) -> Rate | None:
    name, input_px = config.convnet.name, config.convnet.input_px
    if on_gpus:
        at_224 = H100_FRAMES_PER_S_AT_224_PX.get(name)
        # Smaller frames are not faster: the process that feeds the GPU is the limit.
        scale = min(1.0, (224 / input_px) ** 2)
        source = "default: an H100, tests/RESULTS.md"
        return None if at_224 is None else Rate(frames_per_s=at_224 * scale, source=source, num_decoders=H100_DECODERS)
    seconds = extraction_seconds(name, input_px, 1)
    return None if seconds is None else Rate(frames_per_s=1 / seconds / REFERENCE_CORES, source="tests/RESULTS.md")


def _last_rate(config: ExtractionConfig, store: Store, *, on_gpus: bool) -> Rate | None:
    """Returns the rate of the last extraction on such devices. Its decoding counts as the convnet's: a lower bound."""
    fact = "num_gpus" if on_gpus else "num_cores"
    last: Manifest | None = None
    for manifest in store.manifests("extract"):
        net = manifest.config.get("convnet", {})
        is_same = (net.get("name"), net.get("input_px")) == (config.convnet.name, config.convnet.input_px)
        is_measured = manifest.facts.get(fact) and (on_gpus or not manifest.facts.get("num_gpus"))
        if is_same and is_measured and "frames_per_s" in manifest.facts:
            last = max(last or manifest, manifest, key=lambda one: one.finished_at)
    if last is None:
        return None
    num_devices = float(last.facts[fact])
    num_decoders = float(last.facts.get("num_decoders", 0)) * float(last.facts.get("num_workers", 0)) / num_devices
    return Rate(
        frames_per_s=float(last.facts["frames_per_s"]) / num_devices,
        source=f"the last extraction of this store, {last.key}",
        num_decoders=num_decoders or None if on_gpus else None,
    )


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
