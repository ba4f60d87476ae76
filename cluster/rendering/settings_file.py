"""TOML files as dataclasses: every key is checked, and an unknown one is refused with the nearest name.

A table becomes a nested dataclass, a table of tables a mapping of names to dataclasses. `layered` merges the tables of
two files, so that a file of one's own holds the differences only.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pipeline.core.error_words import did_you_mean
from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.files import read_bytes

Settings = TypeVar("Settings")
KINDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def read_toml(uri: str) -> dict[str, Any]:
    """Returns the tables of a TOML file.

    Raises:
        SourceError: the file cannot be read.
        ConfigError: it is not TOML; the message names line and column.
    """
    try:
        data = read_bytes(uri)
    except (OSError, SourceError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceError(f"settings file {uri!r} cannot be read: {reason}") from error
    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"settings file {uri!r} is not TOML: {error}") from error


def layered(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tables of `below` with those of `above` merged into them; values that are no tables are replaced."""
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        merged[name] = layered(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def load(kind: type[Settings], table: Mapping[str, Any], where: str = "") -> Settings:
    """Returns a `kind` made of a TOML table. `where` is the dotted name of the table, for messages.

    Raises:
        ConfigError: a key is unknown (the nearest name is suggested) or missing, or a value has another type.
    """
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # a dataclass, by contract
    for name in table:
        if name not in hints:
            hint = f"{did_you_mean(name, names)}the settings here are: {', '.join(names)}"
            raise ConfigError(f"there is no setting {_dotted(where, name)!r}; {hint}")
    values = {name: _value(hints[name], value, _dotted(where, name)) for name, value in table.items()}
    try:
        return kind(**values)
    except ConfigError as error:
        raise ConfigError(f"[{where}] {error}" if where else str(error)) from error
    except TypeError as error:
        missing = [name for name in names if name not in table]
        raise ConfigError(f"settings are missing in [{where or 'the file'}]: {', '.join(missing)} ({error})") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    if is_dataclass(hint) and isinstance(hint, type):
        return load(hint, _table(value, where), where)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is dict:
        return {name: _value(arguments[1], item, _dotted(where, name)) for name, item in _table(value, where).items()}
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where} is {value!r}; it must be a list")
        return tuple(_value(arguments[0], item, where) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{where} is {value!r}; it must be {KINDS[hint]}")
    return value


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} is {value!r}; it must be a table, [{where}]")
    return value


def _dotted(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
