"""Words of messages: what a file system or server raised, in one line, and the name that was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

from pipeline.core.secrets import masked

NO_FILE: Final = "there is no such file"

MAX_CHARACTERS: Final = 300
"""The length of a line."""


def one_line(error: BaseException, max_characters: int | None = MAX_CHARACTERS) -> str:
    """Returns the message of an error on one line, cut to so many characters; None keeps all of it."""
    return " ".join(str(error).split())[:max_characters] or type(error).__name__


def error_in_words(error: BaseException) -> str:
    """Returns one line, without secrets, that says what is wrong in the words of whatever raised it; never none."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and cause is not None and getattr(cause, "status", None):
        error = cause
    status = getattr(error, "status", None)
    if isinstance(status, int) and status:
        message = str(getattr(error, "message", "")).partition("\n")[0]  # bytes that came may follow
        return masked(f"the server answers {status} {message}").strip(": ")[:MAX_CHARACTERS]
    if isinstance(error, FileNotFoundError):
        return NO_FILE
    words = masked(" ".join((getattr(error, "strerror", None) or str(error)).split()))
    name = type(error).__name__
    is_plain = name in ("OSError", "UnreadableError", "ImportError") and words
    return (words if is_plain else f"{name}: {words}".rstrip(": "))[:MAX_CHARACTERS]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns `did you mean 'demo'? ` with the nearest of the known names; empty where none is near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}? " if close else ""
