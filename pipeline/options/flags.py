"""Options of a command: the fields of a dataclass, nested ones with dots, as flags.

    --pretrain.num-steps 100      a field of a nested dataclass
    --models composite future     a tuple takes words up to the next flag
    --plan, --no-plan             a bool

`Annotated[str, Word("VIDEO")]` makes a word without a flag, `Annotated[bool, Flag("json")]` gives another name, and
`Inline[PretrainConfig]` shows the fields of a nested dataclass without its own name.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from functools import cache
from typing import Annotated, Any, TypeVar

from pipeline.core.errors import ConfigError, UsageError
from pipeline.core.flags import INLINE, InsteadOf
from pipeline.core.numbers import check_numbers
from pipeline.options.values import is_many, parse_words, words_of

Options = TypeVar("Options")
Rule = TypeVar("Rule")

FLAG = re.compile(r"--[A-Za-z]|-h$")
DOT = re.compile(r"\.")


@dataclass(frozen=True)
class Word:
    """A marker of a field that is a word without a flag."""

    name: str
    """The word that stands for it in usage lines."""


@dataclass(frozen=True)
class Flag:
    """A marker of a field whose flag has another name than the field."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Option:
    """A field as it is given on the command line."""

    path: str
    """The names of the nested fields, joined by dots, as in Python."""
    name: str
    """The same as a flag, without the leading dashes."""
    kind: Any
    """The type of its value."""
    default: Any = MISSING
    owner: type[Any] | None = None
    """The dataclass that declares it."""
    positional: str = ""
    """The word that stands for it in usage lines; empty where it is a flag."""
    instead_of: str = ""
    """The path of the option that it takes the place of; empty where there is none."""

    @property
    def shown(self) -> str:
        """The option as messages call it."""
        return self.positional or f"--{self.name}"


def list_options(kind: type[Any]) -> tuple[Option, ...]:
    """Returns the options of a dataclass and of those nested in it, in their order; found once a type."""
    return _options(typing.cast(Any, kind))


@cache
def _options(kind: Any) -> tuple[Option, ...]:
    return tuple(_list(kind, None, "", ""))


def _list(kind: Any, default: Any, prefix: str, flag_prefix: str) -> list[Option]:
    listed: list[Option] = []
    for field, hint, marks in _fields(kind):
        value = getattr(default, field.name) if default is not None else _default(field)
        path = f"{prefix}{field.name}"
        renamed = next((mark.name for mark in marks if isinstance(mark, Flag)), field.name)
        flag = flag_prefix + renamed.replace("_", "-")
        if is_dataclass(hint):
            inner = flag_prefix if INLINE in marks else f"{flag}."
            listed += _list(hint, None if value is MISSING else value, f"{path}.", inner)
        else:
            word = next((mark.name for mark in marks if isinstance(mark, Word)), "")
            rival = next((f"{prefix}{mark.field}" for mark in marks if isinstance(mark, InsteadOf)), "")
            listed.append(
                Option(path=path, name=flag, kind=hint, default=value, owner=kind, positional=word, instead_of=rival)
            )
    return listed


@cache
def _fields(kind: Any) -> list[tuple[Field[Any], Any, tuple[Any, ...]]]:
    """Returns the fields of a dataclass with their types and the marks of `Annotated`."""
    hints = typing.get_type_hints(kind, include_extras=True)
    rows: list[tuple[Field[Any], Any, tuple[Any, ...]]] = []
    for field in fields(kind):
        hint, marks = hints[field.name], ()
        if typing.get_origin(hint) is Annotated:
            hint, marks = typing.get_args(hint)[0], hint.__metadata__
        rows.append((field, hint, marks))
    return rows


def _default(field: Any) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def read_arguments(
    arguments: Sequence[str], options: Sequence[Option], refused: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Returns the values that a command line gives, by path.

    refused: name of an option that cannot be given, or its beginning with a dot at the end -> the reason.

    Raises:
        ConfigError: an option is unknown, refused, or has a value of another type.
    """
    words, positional = list(arguments), list[str]()
    values: dict[str, Any] = {}
    named = {option.name: option for option in options if not option.positional}
    while words:
        word = words.pop(0)
        if not FLAG.match(word):
            positional.append(word)
            continue
        flag, has_value, value = word.removeprefix("--").partition("=")
        option = find_option(flag, named, refused or {})
        if option is None:
            raise ConfigError(f"there is no option --{flag}{_nearest(flag, named, '--')}")
        if option.kind is bool and not has_value:
            parsed: Any = flag.replace("_", "-") in named
        else:
            given = [value] if has_value else _take(words, option.kind)
            if not given and not is_many(option.kind):
                raise ConfigError(f"--{option.name} needs a value")
            parsed = _parse(option, given, f"--{option.name}")
        if option.path in values and not (option.kind is bool and values[option.path] is parsed):
            how = "give its values after one of them" if is_many(option.kind) else "leave one of them out"
            raise ConfigError(f"--{option.name} is given twice; {how}")
        values[option.path] = parsed
    for option in (option for option in options if option.positional):
        if positional:
            num_taken = len(positional) if is_many(option.kind) else 1
            taken, positional = positional[:num_taken], positional[num_taken:]
            values[option.path] = _parse(option, taken, option.positional)
    if positional:
        raise ConfigError(f"{positional[0]!r} belongs to no option")
    return values


def _parse(option: Option, words: Sequence[str], name: str) -> Any:
    """Converts the words given for an option. An empty one is mostly a variable that is not set: it is refused."""
    if any(not word.strip() for word in words):
        raise ConfigError(f"{name} is empty; give a value, or leave it out")
    return parse_words(option.kind, words, name)


def find_option(flag: str, named: Mapping[str, Option], refused: Mapping[str, str]) -> Option | None:
    """Returns the option of a name, written with dashes or underscores, or None where there is none.

    Raises:
        ConfigError: the option cannot be given; the message has the reason.
    """
    flag = flag.replace("_", "-")
    for reason in rules_of(flag, refused):
        raise ConfigError(f"--{flag} cannot be given: {reason}")
    return named.get(flag) or _switched_off(flag, named)


def rules_of(name: str, rules: Mapping[str, Rule]) -> list[Rule]:
    """Returns the rules of an option's name: its own, and those of beginnings with a dot at the end."""
    starts = (name[: dot.end()] for dot in DOT.finditer(name))
    return [rules[start] for start in (name, *starts) if start in rules]


def _switched_off(flag: str, named: Mapping[str, Option]) -> Option | None:
    """Returns the switch that `--no-NAME` turns off, or None where the flag is none of these."""
    head, dot, last = flag.rpartition(".")
    option = named.get(f"{head}{dot}{last.removeprefix('no-')}")
    return option if last.startswith("no-") and option is not None and option.kind is bool else None


def _nearest(name: str, known: Mapping[str, Option], dashes: str) -> str:
    name = name.replace("_", "-")
    # The last name alone comes first, as with --num-steps for --pretrain.num-steps.
    close = [flag for flag in known if flag.rpartition(".")[2] == name][:1] or difflib.get_close_matches(name, known, 1)
    return f"; did you mean {dashes}{close[0]}?" if close else ""


def _take(words: list[str], kind: Any) -> list[str]:
    taken: list[str] = []
    while words and not FLAG.match(words[0]) and (is_many(kind) or not taken):
        taken.append(words.pop(0))
    return taken


def read_table(
    table: Mapping[str, Any], options: Sequence[Option], source: str, refused: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Returns the values that nested tables give (of TOML, or of a preset), by path. Names may have dots.

    Raises:
        ConfigError: as `read_arguments`; messages begin with `source`.
    """
    named = {option.name: option for option in options if not option.positional}
    values: dict[str, Any] = {}
    for name, value in _flat(table):
        try:
            option = find_option(name, named, refused or {})
            if option is None or option.name != name.replace("_", "-"):
                raise ConfigError(f"there is no option {name}{_nearest(name, named, '')}")
            if value != "" or option.default != "":  # `write_config` writes the empty values of options that have them
                values[option.path] = _parse(option, words_of(value, name), name)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None
    return values


def _flat(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in table.items():
        rows += _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(f"{prefix}{name}", value)]
    return rows


def merge(levels: Sequence[Mapping[str, Any]], options: Sequence[Option]) -> dict[str, Any]:
    """Returns the values of all levels by path, later ones on top. An option takes the place of its rival below it."""
    rivals = {option.path: option.instead_of for option in options if option.instead_of}
    merged: dict[str, Any] = {}
    for level in levels:
        for path, rival in rivals.items():
            if level.get(path) is not None and level.get(rival) is None:
                merged[rival] = None
        merged |= level
    return merged


def assemble(kind: type[Options], values: Mapping[str, Any], options: Sequence[Option]) -> Options:
    """Builds the dataclass from values by path; what is not given keeps its default.

    Raises:
        UsageError: an option that is needed is missing, or a value breaks a rule of its dataclass.
    """
    missing = [option.shown for option in options if option.default is MISSING and option.path not in values]
    if missing:
        raise ConfigError(f"{' and '.join(missing)} must be given")
    return typing.cast(Options, _replaced(kind, None, values, ""))


def _replaced(kind: Any, default: Any, values: Mapping[str, Any], prefix: str, flag_prefix: str = "") -> Any:
    changes: dict[str, Any] = {}
    for field, hint, marks in _fields(kind):
        path = f"{prefix}{field.name}"
        if path in values:
            changes[field.name] = values[path]
        elif is_dataclass(hint) and any(name.startswith(f"{path}.") for name in values):
            inner = getattr(default, field.name) if default is not None else _default(field)
            flag = flag_prefix if INLINE in marks else f"{flag_prefix}{field.name.replace('_', '-')}."
            changes[field.name] = _replaced(hint, None if inner is MISSING else inner, values, f"{path}.", flag)
    try:
        built = kind(**changes) if default is None else replace(default, **changes)
        check_numbers(built)
    except UsageError as error:
        if not flag_prefix or str(error).startswith("--"):
            raise
        raise type(error)(f"--{flag_prefix.rstrip('.')}: {error}") from error
    return built
