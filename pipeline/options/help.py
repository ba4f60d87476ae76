"""Help for a command: its usage, its options in groups, examples; set to the width of the terminal."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import shutil
import textwrap
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING
from functools import cache
from types import ModuleType
from typing import Any, Literal

from pipeline.options.flags import Option
from pipeline.options.values import is_many, number_or_words, optional

MAX_WIDTH = 120
MIN_WIDTH = 72
COLUMN = 28
"""The column at which explanations begin."""
PLACEHOLDERS = {int: "N", float: "X", str: "TEXT"}


def width() -> int:
    """Returns the columns to set help in: those of the terminal, within bounds."""
    return min(MAX_WIDTH, max(MIN_WIDTH, shutil.get_terminal_size((100, 24)).columns))


def usage(program: str, options: Sequence[Option]) -> str:
    """Returns the usage line."""
    positional = [option.positional for option in options if option.positional]
    needed = [_call(option) for option in options if option.default is MISSING and not option.positional]
    return " ".join(["usage:", program, *positional, *needed, "[options]"])


def full_help(program: str, summary: str, options: Sequence[Option], examples: Sequence[str] = ()) -> str:
    """Returns help that explains every option whole, in the groups of the dataclasses that they are nested in."""
    groups: dict[str, list[Option]] = {}
    for option in options:
        groups.setdefault(option.name.rpartition(".")[0] if not option.positional else "", []).append(option)
    lines = [usage(program, options), "", *textwrap.wrap(summary, width())]
    for name, members in groups.items():
        lines += ["", f"{name or 'options'}:"]
        for option in members:
            lines += _entry(option, explanation(option))
    return "\n".join([*lines, *_examples(examples)])


def short_help(
    program: str,
    summary: str,
    options: Sequence[Option],
    groups: Mapping[str, Sequence[str]],
    examples: Sequence[str],
    others: Mapping[str, str],
) -> str:
    """Returns help of one screen: the options of `groups` (title -> names of options), a sentence each.

    others: further flags -> what they do.
    """
    named = {option.name: option for option in options}
    lines = [usage(program, options), "", *textwrap.wrap(summary, width())]
    for title, names in groups.items():
        lines += ["", f"{title}:"]
        for name in names:
            lines += _entry(named[name], first_sentence(explanation(named[name])))
    lines += ["", "and:"]
    for flag, words in others.items():
        lines += _columns(flag, words)
    return "\n".join([*lines, *_examples(examples)])


def explanation(option: Option) -> str:
    """Returns the docstring below the field, as one line of text; with the choices that have no room in the flag."""
    text = " ".join(_docstrings(option.owner).get(option.path.rpartition(".")[2], "").split())
    choices = _choices(option.kind)
    if choices and not _fits(choices):
        text = f"{text} Choices: {', '.join(map(repr, choices))}."
    return text


def without_value(option: Option) -> str:
    """Returns the clause of an option's explanation on what is used where it has no value; empty where none says so."""
    clause = re.search(r"\b([Dd]efault\b|None\b|none uses|without it,).*?(?=[.;]( |$)|$)", explanation(option))
    return clause[0] if clause else ""


def first_sentence(text: str) -> str:
    """Returns the text up to the end of its first sentence or clause."""
    ends = [at for mark in (". ", "; ") if (at := text.find(mark)) > 0]
    return f"{text[: min(ends)]}." if ends else text


def _entry(option: Option, words: str) -> list[str]:
    default = option.default
    if option.kind is bool:
        shown = "on" if default is True else ""
    elif default in (MISSING, None, (), ""):
        shown = ""
    else:
        shown = " ".join(shlex.quote(str(one)) for one in (default if isinstance(default, tuple) else (default,)))
    return _columns(_call(option), f"{words} [{shown}]" if shown else words)


def _columns(head: str, words: str) -> list[str]:
    """Sets a head and its explanation side by side; a long head pushes the first line of the explanation aside."""
    start = f"  {head}".ljust(COLUMN - 2) + "  "
    lines = textwrap.wrap(words, width(), initial_indent=start, subsequent_indent=" " * COLUMN, break_on_hyphens=False)
    return lines or [start.rstrip()]


def _call(option: Option) -> str:
    if option.positional:
        return option.positional
    if option.kind is bool:
        return f"--{option.name}" if option.default is not True else f"--no-{option.name}"
    kind = optional(option.kind)
    many = is_many(kind)
    inner = typing.get_args(kind)[0] if many else kind
    placeholder = _placeholder(inner, option.name)
    return f"--{option.name} {placeholder}{' ...' if many else ''}"


def _placeholder(kind: Any, name: str) -> str:
    choices = _choices(kind)
    if choices:
        return "{" + ",".join(choices) + "}" if _fits(choices) else name.rpartition(".")[2].upper()
    number, words = number_or_words(kind)
    return "|".join([PLACEHOLDERS.get(number, "VALUE"), *words])


def _choices(kind: Any) -> list[str]:
    kind = optional(kind)
    inner = typing.get_args(kind)[0] if is_many(kind) else kind
    return [str(choice) for choice in typing.get_args(inner)] if typing.get_origin(inner) is Literal else []


def _fits(choices: Sequence[str]) -> bool:
    return len(",".join(choices)) < 40


def _examples(examples: Iterable[str]) -> list[str]:
    lines = [f"  {example}" for example in examples]
    return ["", "examples:", *lines] if lines else []


def _docstrings(owner: type[Any] | None) -> dict[str, str]:
    texts: dict[str, str] = {}
    for kind in reversed(owner.__mro__ if owner else ()):
        module = inspect.getmodule(kind)
        if module is not None and module.__name__ != "builtins":
            texts |= _module_docstrings(module).get(kind.__qualname__, {})
    return texts


@cache
def _module_docstrings(module: ModuleType) -> dict[str, dict[str, str]]:
    classes: dict[str, dict[str, str]] = {}
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.ClassDef):
            classes[node.name] = {
                field.target.id: text.value.value
                for field, text in zip(node.body, node.body[1:], strict=False)
                if isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            }
    return classes
