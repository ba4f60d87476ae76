"""The one rule for the numbers of options and configs: finite, no larger than what they count can be, not negative."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from typing import Any, Final

from pipeline.core.errors import ConfigError

MAX_WHOLE: Final = 2**31 - 1
"""The largest whole number, where no rule of `LARGEST` has its name."""
MAX_REAL: Final = 1e9
"""The same of a number with a fraction."""
LARGEST: Final = (
    (re.compile(r"\b(bytes|seed)\b"), 2**63 - 1),
    (re.compile(r"\b(threads|workers|cpus|gpus|decoders)\b"), 100_000),
    (re.compile(r"\bpx\b"), 65_536),
)
"""The largest number by words of a name."""
SIGNED: Final = ("bias",)
"""Words of the names whose numbers may be negative."""


def largest(name: str, kind: type) -> int | float:
    """Returns the largest number of a name: `--train-threads`, `train_threads`; kind: int or float."""
    words = re.sub(r"[-_.]", " ", name)
    return next((most for pattern, most in LARGEST if pattern.search(words)), MAX_REAL if kind is float else MAX_WHOLE)


def check_number(number: int | float, name: str, given: str | None = None) -> None:
    """Raises ConfigError for a number that is not finite, or too large for what its name counts.

    given: the number as the user wrote it, for the message.
    """
    shown = given or str(number)
    if isinstance(number, float) and not math.isfinite(number):
        raise ConfigError(f"{name} is {shown}; give a finite number")
    most = largest(name, type(number))
    if abs(number) > most:
        raise ConfigError(f"{name} is {shown}; give a number of at most {most:,.0f}")


def check_at_least(config: Any, least: int, *names: str) -> None:
    """Checks that these fields of a config are None or at least so large. Raises ConfigError."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < least:
            raise ConfigError(f"{name} is {value}; it must be at least {least}")


def check_numbers(config: Any) -> None:
    """Checks every number among the fields of a config, also in tuples; nested configs check themselves.

    Raises:
        ConfigError: one is not finite, too large for what it counts, or negative.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            check_number(number, field.name)
            if number < 0 and not field.name.endswith(SIGNED):
                raise ConfigError(f"{field.name} is {number}; it cannot be negative")
