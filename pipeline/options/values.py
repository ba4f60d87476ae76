"""Values of options: from the words of a command line, or from a TOML file, to what a field holds.

One rule holds for every number: `pipeline.core.numbers`.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Sequence
from typing import Any, Final, Literal, Union

from pipeline.core.error_words import did_you_mean
from pipeline.core.errors import ConfigError
from pipeline.core.numbers import check_number

NONE: Final = "none"
SWITCH: Final = {"true": True, "false": False}


def is_many(kind: Any) -> bool:
    """Returns True for a tuple, which takes several words."""
    return typing.get_origin(optional(kind)) is tuple


def optional(kind: Any) -> Any:
    """Returns X of `X | None`, and any other type as it is, `float | Literal["auto"]` too."""
    if type(None) in typing.get_args(kind):
        (inner,) = [member for member in typing.get_args(kind) if member is not type(None)]
        return inner
    return kind


def number_or_words(kind: Any) -> tuple[Any, tuple[str, ...]]:
    """Returns the type of `float | Literal["auto"]`, and the words that stand beside it; none for any other type."""
    if typing.get_origin(kind) not in (Union, types.UnionType):
        return kind, ()
    number, words = typing.get_args(kind)
    return number, typing.get_args(words)


def parse_words(kind: Any, words: Sequence[str], name: str) -> Any:
    """Converts the words given for an option to a value of its type.

    kind: bool, int, float, str, a Literal, `X | None` of these, or a tuple of these.
    name: how the user wrote the option, for messages.

    Raises:
        ConfigError: the words are not of this type, or a number is not finite or too large.
    """
    if optional(kind) is not kind and [word.lower() for word in words] == [NONE]:
        return None
    kind = optional(kind)
    if typing.get_origin(kind) is not tuple:
        if len(words) != 1:
            raise ConfigError(f"{name} takes one value, and {len(words)} were given")
        return _parse_word(kind, words[0], name)
    members = typing.get_args(kind)
    if members[1:] == (Ellipsis,):
        return tuple(_parse_word(members[0], word, name) for word in words)
    if len(words) != len(members):
        raise ConfigError(f"{name} takes {len(members)} values, and {len(words)} were given")
    return tuple(_parse_word(member, word, name) for member, word in zip(members, words, strict=True))


def words_of(value: Any, name: str) -> list[str]:
    """Converts a value of a TOML file, or of a preset, to the words that a command line would have.

    Raises:
        ConfigError: the value is a table or a list of lists.
    """
    values = list(value) if isinstance(value, list | tuple) else [value]
    if any(isinstance(one, list | tuple | dict) for one in values):
        raise ConfigError(f"{name} is {value!r}; give a value, or a list of values")
    return [str(one).lower() if isinstance(one, bool) or one is None else str(one) for one in values]


def _parse_word(kind: Any, word: str, name: str) -> Any:
    if "\0" in word:
        raise ConfigError(f"{name} holds a NUL character; leave it out")
    if kind is str:
        return word
    if kind is bool:
        if word.lower() not in SWITCH:
            raise ConfigError(f"{name} is {word!r}; give true or false")
        return SWITCH[word.lower()]
    kind, words = number_or_words(kind)
    if word in words:
        return word
    if kind in (int, float):
        return _parse_number(kind, word, name, "".join(f", or {other}" for other in words))
    assert typing.get_origin(kind) is Literal, f"{name}: no option has type {kind}"
    choices = {str(choice): choice for choice in typing.get_args(kind)}
    if word not in choices:
        known = ", ".join(map(repr, choices))
        raise ConfigError(f"{name} is {word!r}; {did_you_mean(word, choices)}give one of {known}")
    return choices[word]


def _parse_number(kind: Any, word: str, name: str, or_words: str = "") -> int | float:
    try:
        number: int | float = kind(word)
    except ValueError:
        # A whole number written as 1e6 is as good as 1000000.
        number = _whole(word) if kind is int else math.nan
        if math.isnan(number) and word.strip().lower().lstrip("+-") != "nan":
            what = "a whole number" if kind is int else "a number"
            raise ConfigError(f"{name} is {word!r}; give {what}{or_words}") from None
    check_number(number, name, word)
    return number


def _whole(word: str) -> int | float:
    try:
        number = float(word)
    except ValueError:
        return math.nan
    return int(number) if number.is_integer() else number if not math.isfinite(number) else math.nan
