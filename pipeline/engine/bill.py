"""The bill of a plan: GPU-hours, core-hours, bytes and a price of all that is to be made, from rates with a source.

    percepts plan youtube --videos clips/ --plan-hours 300 --price-per-gpu-hour 2.5

What the bill leaves out, it names; and there is no price without the prices and times that it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.core.errors import ConfigError
from pipeline.core.printable import human_bytes, time_in_words
from pipeline.core.rates import BYTES_PER_FRAME, H100_DECODERS
from pipeline.core.stage import Estimate, Resources
from pipeline.engine.cost_estimates import Rate, rates
from pipeline.engine.cost_options import CostOptions
from pipeline.engine.status import Step
from pipeline.engine.store import Store
from stages.extraction.config import ExtractionConfig


@dataclass(frozen=True, kw_only=True)
class Bill:
    """The time and size of an extraction."""

    num_frames: int
    decoder: Rate
    """The rate of one core."""
    convnet: Rate
    """The rate of one GPU, or of one core."""
    num_decoders: float
    """The cores that decode for each GPU; 0 without GPUs."""
    gpu_hours: float
    """The hours of GPUs, with those in which they wait for decoders."""
    core_hours: float
    percept_bytes: int
    video_bytes: int

    @property
    def cores_per_gpu(self) -> float:
        """The number of cores that decode as fast as one GPU computes."""
        return self.convnet.frames_per_s / self.decoder.frames_per_s

    @property
    def waiting_share(self) -> float:
        """The share of the GPUs' hours in which they wait for decoders."""
        return max(0.0, 1 - self.num_decoders / self.cores_per_gpu) if self.num_decoders else 0.0

    def seconds(self, resources: Resources) -> float:
        """Returns the duration on these workers."""
        return 3600 * (self.gpu_hours or self.core_hours) / resources.num_devices


def bill(config: ExtractionConfig, estimate: Estimate, pair: tuple[Rate, Rate | None], resources: Resources) -> Bill:
    """Computes the bill of an extraction. A GPU decodes and computes at the same time, and waits for the slower.

    pair: the rates of decoder and convnet. resources: the workers; on GPUs with as many decoders as they say or, where
    they do not, as beside the GPU of the rate.

    Raises:
        ConfigError: the rate of this convnet is unknown.
    """
    decoder, convnet = pair
    on_gpus = bool(resources.gpus_per_worker)
    if convnet is None:
        where = " on a GPU" if on_gpus else ""
        raise ConfigError(
            f"{config.convnet.name} was never measured{where}: give --gpu-frames-per-s, "
            "or --core-frames-per-s or --calibrate for cores"
        )
    assert estimate.num_frames is not None
    decode_hours, convnet_hours = (estimate.num_frames / rate.frames_per_s / 3600 for rate in (decoder, convnet))
    num_decoders = float(resources.decoders_per_gpu or convnet.num_decoders or H100_DECODERS)
    return Bill(
        num_frames=estimate.num_frames,
        decoder=decoder,
        convnet=convnet,
        num_decoders=num_decoders if on_gpus else 0.0,
        gpu_hours=max(convnet_hours, decode_hours / num_decoders) if on_gpus else 0.0,
        core_hours=decode_hours + (0.0 if on_gpus else convnet_hours),
        percept_bytes=estimate.num_bytes or 0,
        video_bytes=estimate.num_frames * BYTES_PER_FRAME,
    )


def bill_lines(extraction: Bill, options: CostOptions) -> list[str]:
    """Formats the bill of an extraction as lines of text."""
    hours = f"{options.plan_hours:g} hours at {options.plan_fps:g} frames/s: " if options.plan_hours else ""
    device = "GPU" if extraction.num_decoders else "core"
    lines = [
        f"{hours}{extraction.num_frames:,} frames, about {human_bytes(extraction.video_bytes)} of compressed video",
        f"convnet {extraction.convnet.frames_per_s:,.0f} frames/s a {device} ({extraction.convnet.source}); "
        f"decoder {extraction.decoder.frames_per_s:,.0f} frames/s a core ({extraction.decoder.source})",
        f"extract: {_hours(extraction.gpu_hours)} GPU-hours, {_hours(extraction.core_hours)} core-hours, "
        f"{human_bytes(extraction.percept_bytes)} of percepts",
    ]
    if extraction.num_decoders:
        fed = f"one GPU is fed by {extraction.cores_per_gpu:.1f} cores that decode"
        waits = f"waits for {extraction.waiting_share:.0%} of its hours" if extraction.waiting_share else "never waits"
        lines.append(f"{fed}; with {extraction.num_decoders:g} (--decoders-per-gpu) it {waits}")
    return lines


def _hours(hours: float) -> str:
    """Formats hours; what is not nothing never reads as nothing."""
    return f"{hours:,.1f}" if hours >= 0.05 or not hours else f"{hours:.1g}"


def with_bill(
    steps: list[Step], options: CostOptions, store: Store, videos: Sequence[str]
) -> tuple[list[Step], list[str]]:
    """Returns the plan's steps with the bill's times, and the lines of the bill.

    Without options of cost, or with nothing to make, the steps are unchanged and there are no lines.

    Raises:
        ConfigError, SourceError: see `bill` and `rates`.
    """
    if options == CostOptions() or all(step.have for step in steps):
        return steps, []
    timed, lines, total = [], [], Total()
    for step in steps:
        if step.have:
            timed.append(step)
            continue
        resources, num_bytes = _planned(step, options), step.estimate.num_bytes or 0
        seconds = step.estimate.seconds
        if isinstance(step.node.config, ExtractionConfig) and step.estimate.num_frames:
            pair = rates(step.node.config, options, store, videos, on_gpus=bool(resources.gpus_per_worker))
            extraction = bill(step.node.config, step.estimate, pair, resources)
            lines += bill_lines(extraction, options)
            seconds = extraction.seconds(resources)
            total = total.plus(extraction.gpu_hours, extraction.core_hours, num_bytes)
        elif step.estimate.is_waiting and seconds is not None:
            rule = "of waiting for servers, in which no GPU is reserved"
            lines.append(f"{step.node.name}: {time_in_words(seconds)} {rule}")
            total = total.plus(0.0, 0.0, num_bytes)
        elif seconds is None:
            total = replace(total, unknown=(*total.unknown, step.node.name))
        else:
            if step.estimate.work is not None and resources != step.node.resources:
                seconds = step.estimate.work.seconds(resources)
            gpu_hours = seconds / 3600 * resources.num_workers * resources.gpus_per_worker
            core_hours = seconds / 3600 * resources.num_workers * resources.cpus_per_worker
            if step.estimate.work is not None:
                lines.append(_training_line(step, resources, gpu_hours, core_hours))
            total = total.plus(gpu_hours, core_hours, num_bytes)
        timed.append(replace(step, estimate=replace(step.estimate, seconds=seconds)))
    return timed, [*lines, *total.lines(options)]


def _planned(step: Step, options: CostOptions) -> Resources:
    """Returns the workers that are planned with: one GPU where the options speak of GPUs and the workers have none."""
    resources = step.node.resources
    can_use_gpus = isinstance(step.node.config, ExtractionConfig) or step.estimate.work is not None
    if options.on_gpus and can_use_gpus and not resources.gpus_per_worker:
        return replace(resources, num_workers=1, min_workers=1, gpus_per_worker=1.0)
    return resources


def _training_line(step: Step, resources: Resources, gpu_hours: float, core_hours: float) -> str:
    work = step.estimate.work
    assert work is not None
    if not resources.gpus_per_worker:
        return f"{step.node.name}: {_hours(core_hours)} core-hours on {resources.num_devices:g} cores"
    source = "as the last one of this store"
    if resources != step.node.resources or not step.estimate.is_measured:
        rate = f"{work.per_gpu_s / 1e12:,.0f} TFLOP/s"
        source = f"default: {rate}, an H100 with 2 x 2048 units at batch 512, tests/RESULTS.md; smaller ones are slower"
    gpus = f"{resources.num_devices:g} GPU{'' if resources.num_devices == 1 else 's'}"
    return f"{step.node.name}: {_hours(gpu_hours)} GPU-hours on {gpus} ({source})"


@dataclass(frozen=True, kw_only=True)
class Total:
    """The sum over all stages that are to be made."""

    gpu_hours: float = 0.0
    core_hours: float = 0.0
    num_bytes: int = 0
    unknown: tuple[str, ...] = ()
    """The stages whose time is not known."""

    def plus(self, gpu_hours: float, core_hours: float, num_bytes: int) -> Total:
        """Returns the sum with one more stage."""
        return replace(
            self,
            gpu_hours=self.gpu_hours + gpu_hours,
            core_hours=self.core_hours + core_hours,
            num_bytes=self.num_bytes + num_bytes,
        )

    def price(self, options: CostOptions) -> float | None:
        """Returns the price; None where one that it needs was not given. GPUs may bring their cores with them."""
        needed = options.price_per_gpu_hour if self.gpu_hours else options.price_per_core_hour
        if needed is None:
            return None
        return (
            self.gpu_hours * (options.price_per_gpu_hour or 0.0)
            + self.core_hours * (options.price_per_core_hour or 0.0)
            + self.num_bytes / 1e12 * (options.price_per_tb_month or 0.0)
        )

    def lines(self, options: CostOptions) -> list[str]:
        """Formats the sum, the price if there is one, and what both leave out."""
        lines = [
            f"all stages: {_hours(self.gpu_hours)} GPU-hours, {_hours(self.core_hours)} core-hours, "
            f"{human_bytes(self.num_bytes)}"
        ]
        left_out = [f"the time of {', '.join(self.unknown)}, not known yet"] if self.unknown else []
        if options.has_prices:
            price = self.price(options)
            if price is None:
                device = "gpu" if self.gpu_hours else "core"
                lines.append(f"no price: it needs --price-per-{device}-hour")
            else:
                month = ", the first month of storage included" if options.price_per_tb_month is not None else ""
                amount = f"{price:,.2f}" if price >= 0.005 or not price else "less than 0.01"
                lines.append(f"price: {amount}{month}")
                if options.price_per_core_hour is None:
                    left_out.append("cores (--price-per-core-hour), as if they came with the GPUs")
                if options.price_per_tb_month is None:
                    left_out.append("storage (--price-per-tb-month)")
                left_out.append("transfer")
        left_out.append("machines that start or stand idle")
        return [*lines, f"left out: {'; '.join(left_out)}"]
