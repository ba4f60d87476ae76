"""Dataclasses as JSON files: an artifact's class says once what its files hold, and every reader gets it typed.

    write_record(uri, ForecastErrors(...))
    errors = read_record(uri, ForecastErrors)

Fields are dataclasses, tuples, dictionaries, numbers, strings, booleans, literals, or None. A field that a file lacks
takes its default; what a file has besides is left out, so that a file of a newer version can be read.
"""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union

from pipeline.core.errors import CorruptArtifact
from pipeline.core.files import read_bytes, write_json

T = TypeVar("T")


def write_record(uri: str, record: Any) -> None:
    """Writes a dataclass as a JSON file, atomically; equal values give equal bytes."""
    write_json(uri, asdict(record))


def read_record(uri: str, kind: type[T], *, prepare: Callable[[Any], Any] = lambda value: value) -> T:
    """Reads a JSON file as a value of the type `kind`.

    Args:
        uri: the file.
        kind: a dataclass, or a type such as `tuple[Entry, ...]`.
        prepare: turns the file's JSON into the one that the fields describe, where they differ.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptArtifact: it is no JSON, lacks something, or holds another type, NaN or infinity.
    """
    try:
        value = json.loads(read_bytes(uri), parse_float=_finite, parse_constant=_finite)
        record: T = typed(kind, prepare(value))
        return record
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"{uri} is not what its stage writes ({type(error).__name__}: {error})"
        raise CorruptArtifact(f"{problem}; remove its directory and run again") from error


def typed(kind: Any, value: Any) -> Any:
    """Builds a value of the type `kind` from plain JSON values. Raises KeyError, TypeError, ValueError."""
    return _builder(kind)(value)


def _finite(text: str) -> float:
    """Parses a number. Raises ValueError at NaN or infinity, which can be neither drawn nor ranked."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"it holds {number}")
    return number


@cache
def _builder(kind: Any) -> Callable[[Any], Any]:
    """Returns the function that builds a value of a type; found once a type, as files may hold many."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and is_dataclass(kind):
        return _RecordBuilder.of(kind)
    if origin in (Union, types.UnionType):
        (member,) = (_builder(argument) for argument in arguments if argument is not type(None))
        return lambda value: None if value is None else member(value)
    if origin is tuple and arguments[1:] == (Ellipsis,):
        element = _builder(arguments[0])
        return lambda value: tuple([element(part) for part in _expect(value, list, tuple)])
    if origin is tuple:
        elements = [_builder(argument) for argument in arguments]
        return lambda value: tuple(b(part) for b, part in zip(elements, _expect(value, list, tuple), strict=True))
    if origin is dict:
        of_value = _builder(arguments[1])
        return lambda value: {name: of_value(part) for name, part in _expect(value, dict).items()}
    if origin is Literal:
        return lambda value: arguments[arguments.index(value)]
    if kind is float:
        return lambda value: float(_expect(value, int, float))
    if kind is Any:
        return lambda value: value
    return lambda value: _expect(value, kind)


def _expect(value: Any, *kinds: type[Any]) -> Any:
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise TypeError(f"{value!r:.80} is no {kinds[0].__name__}")
    return value


@dataclass(frozen=True)
class _RecordBuilder:
    """A dataclass and the builders of its fields."""

    kind: type[Any]
    builders: dict[str, Callable[[Any], Any]]
    required: frozenset[str]

    @classmethod
    def of(cls, kind: type[Any]) -> _RecordBuilder:
        hints = typing.get_type_hints(kind)
        required = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
        return cls(kind, {f.name: _builder(hints[f.name]) for f in fields(kind)}, frozenset(required))

    def __call__(self, value: Any) -> Any:
        if missing := sorted(self.required - _expect(value, dict).keys()):
            raise KeyError(missing[0])
        return self.kind(**{name: build(value[name]) for name, build in self.builders.items() if name in value})


def column_types(kind: type[Any]) -> dict[str, str]:
    """Returns the fields of a flat dataclass as MLflow's names of column types."""
    names = {bool: "boolean", int: "long", float: "double"}
    hints = typing.get_type_hints(kind)
    return {
        field.name: next((text for base, text in names.items() if base in _bases(hints[field.name])), "string")
        for field in fields(kind)
    }


def _bases(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) or (hint,)
