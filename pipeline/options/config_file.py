"""Options of a run in a TOML file, for version control."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Sequence
from functools import reduce
from typing import Any

from pipeline.core.errors import ConfigError
from pipeline.core.files import absolute, exists, is_local, read_bytes, write_bytes
from pipeline.core.secrets import has_secrets
from pipeline.options.flags import Option
from pipeline.options.help import without_value
from pipeline.options.values import NONE


def read_config(uri: str) -> dict[str, Any]:
    """Returns the tables of a TOML file.

    Raises:
        ConfigError: there is no such file, or it is not TOML.
        SourceError: its place cannot be reached.
    """
    if is_local(uri) and exists(uri) and not os.path.isfile(absolute(uri)):
        raise ConfigError(f"--config {uri} is no file; give a TOML file, such as --write-config FILE writes")
    try:
        return tomllib.loads(read_bytes(uri).decode())
    except FileNotFoundError as error:
        raise ConfigError(f"--config {uri}: there is no such file; --write-config {uri} writes one") from error
    except (OSError, ValueError, RecursionError) as error:  # the last where brackets are nested a thousand times
        raise ConfigError(f"--config {uri} cannot be read as TOML: {error}") from error


def write_config(uri: str, chosen: Any, options: Sequence[Option], command: str) -> bool:
    """Writes the value of every option to a TOML file that `read_config` and flags understand.

    An option that has no value, and has none by default, is a comment, with what is used then. A file that holds a
    password or a signature is readable by its owner alone.

    Returns:
        Whether it holds one.

    Raises:
        ConfigError: the file cannot be written, or would hold a password or a signature and is not on this machine.
    """
    lines, table = [f"# {command}"], ""
    for option in sorted(options, key=lambda option: option.name.rpartition(".")[0]):
        head, _, name = option.name.rpartition(".")
        if head != table:
            lines += ["", f"[{head}]"]
            table = head
        value = reduce(getattr, option.path.split("."), chosen)
        if value is None and option.default is None:
            decided = without_value(option)
            lines.append(f"# {name} =" + (f"  # {decided}" if decided else ""))
        else:
            lines.append(f"{name} = {_toml(NONE if value is None else value)}")
    text = "\n".join(lines) + "\n"
    is_private = has_secrets(text)
    if is_private and not is_local(uri):
        raise ConfigError(
            f"--write-config {uri} would hold a password or a signature, which everybody who reads it there would "
            "have: name a file of this machine, or leave the secrets out and give them to the run"
        )
    try:
        write_bytes(uri, text.encode(), is_private=is_private)
    except OSError as error:
        raise ConfigError(f"--write-config {uri} cannot be written: {error.strerror or error}; name a file") from error
    return is_private


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool | int):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
