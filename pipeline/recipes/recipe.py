"""The definition of a recipe: its options, and the function that builds its plan from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.engine.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe as its module defines it."""

    name: str
    """The name on the command line."""
    summary: str
    """One line for help and for the title of the report."""
    options: type[Any]
    """The dataclass of its options, a subclass of `RunOptions`."""
    build: Callable[[Any], Plan]
    """A function from options to a plan. It raises UsageError where the options do not fit together."""
    shown: Mapping[str, Sequence[str]]
    """The options of `--help`: title of a group -> names of flags, without dashes."""
    examples: Sequence[str]
    """Command lines to begin with."""
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The sizes for a kind of machine: name -> {name of a flag: value}."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """The options that cannot be given: name of a flag, or its beginning with a dot at the end -> the reason."""
    only_with: Mapping[str, str] = field(default_factory=dict)
    """The options that have an effect only beside another one: name or beginning -> name of the other one."""
    not_with: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The options that have no effect beside another one: name or beginning -> names of others."""
