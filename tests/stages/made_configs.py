"""Configs with a few settings changed, each named alone, in whichever nested config it lies, as flags do."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

C = TypeVar("C")


def changed(config: C, /, **settings: Any) -> C:
    """Returns `config` with `settings`: each in `config` itself, else in the one nested config that has it."""
    named = {field.name: getattr(config, field.name) for field in fields(config)}  # type: ignore[arg-type]
    own = {name: value for name, value in settings.items() if name in named}
    others = settings.keys() - own.keys()
    for name, nested in named.items():
        if is_dataclass(nested) and (inside := others & _names(nested)):
            own[name] = changed(nested, **{setting: settings[setting] for setting in inside})
            others -= inside
    assert not others, f"{type(config).__name__} has no {', '.join(sorted(others))}"
    return replace(config, **own)  # type: ignore[type-var]


def _names(config: Any) -> set[str]:
    names = {field.name for field in fields(config)}
    nested = (getattr(config, name) for name in ("optimizer",) if name in names)
    return names.union(*(_names(part) for part in nested))
