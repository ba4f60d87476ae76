"""Options of `--plan`: how much video to plan for, rates and prices."""

from __future__ import annotations

from dataclasses import dataclass, fields

from pipeline.core.errors import ConfigError
from pipeline.core.numbers import check_numbers
from pipeline.core.stage import Estimate


@dataclass(frozen=True, kw_only=True)
class CostOptions:
    """Rates and prices of a plan. None of these changes what is made."""

    plan_hours: float | None = None
    """With --plan: estimates for so many hours of such video, instead of for the videos given."""
    plan_fps: float = 30.0
    """Frames per second of the hours of --plan-hours."""
    gpu_frames_per_s: float | None = None
    """Frames per second of the convnet on one GPU; default: those of the last extraction, else of an H100. If it is
    given, the plan puts the convnet on GPUs."""
    core_frames_per_s: float | None = None
    """Frames per second of the convnet on one core, where it runs on cores; default: those of the last extraction, else
    of a reference core."""
    decode_frames_per_s: float | None = None
    """Frames per second that one core decodes, scales and crops; default: those of a reference core, or more where the
    rate of a GPU shows it."""
    calibrate: bool = False
    """With --plan: measures decoder and convnet here, for some seconds, on the first videos given."""
    price_per_gpu_hour: float | None = None
    """Price of one GPU for an hour, in any currency. The plan then puts extraction and pretraining on GPUs."""
    price_per_core_hour: float | None = None
    """Price of one CPU core for an hour, in the currency of --price-per-gpu-hour."""
    price_per_tb_month: float | None = None
    """Price of storing 10^12 bytes for a month, in the currency of --price-per-gpu-hour."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            is_price = field.name.startswith("price")
            if isinstance(value, float | int) and (value < 0 if is_price else value <= 0) and value is not False:
                raise ConfigError(f"--{field.name.replace('_', '-')} is {value}; give a number above 0")
        check_numbers(self)

    @property
    def on_gpus(self) -> bool:
        """True where a rate or a price of GPUs puts extraction and pretraining on GPUs."""
        return self.gpu_frames_per_s is not None or self.price_per_gpu_hour is not None

    @property
    def has_prices(self) -> bool:
        """True where any price was given."""
        return any(getattr(self, field.name) is not None for field in fields(self) if field.name.startswith("price"))

    @property
    def assumed(self) -> Estimate | None:
        """The index of `plan_hours`, in place of the index of the videos given."""
        if self.plan_hours is None:
            return None
        num_frames = round(self.plan_hours * 3600 * self.plan_fps)
        return Estimate(num_frames=num_frames, num_bytes=num_frames // 3, seconds=None)
