"""Command-line names of nested configs."""

from __future__ import annotations

from typing import Annotated, TypeVar

import tyro

T = TypeVar("T")

Inline = Annotated[T, tyro.conf.arg(name="")]
"""A nested config whose own name does not appear in flags: `pretrain.model.num_units` is `--pretrain.num-units`."""
