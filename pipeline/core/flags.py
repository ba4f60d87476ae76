"""Command-line names and pairs of fields of configs, as types; `pipeline.options.flags` reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

T = TypeVar("T")

INLINE: Final = "inline"
Inline = Annotated[T, INLINE]
"""A nested config whose own name does not appear in flags: `pretrain.model.num_units` is `--pretrain.num-units`."""


@dataclass(frozen=True)
class InsteadOf:
    """A marker of a field that is given instead of another one of its dataclass: giving it sets that one to None."""

    field: str
