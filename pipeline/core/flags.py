"""Command-line names of nested configs, as types; `pipeline.options.flags` reads them."""

from __future__ import annotations

from typing import Annotated, Final, TypeVar

T = TypeVar("T")

INLINE: Final = "inline"
Inline = Annotated[T, INLINE]
"""A nested config whose own name does not appear in flags: `pretrain.model.num_units` is `--pretrain.num-units`."""
