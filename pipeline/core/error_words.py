"""Errors of file systems and servers in one line, in the words of whatever raised them."""

from __future__ import annotations

from typing import Final

from pipeline.core.secrets import masked

NO_FILE: Final = "there is no such file"

MAX_CHARACTERS: Final = 300
"""The length of a line."""


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
