"""Lines of text files of any encoding and any line end, in bounded memory."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MAX_LINE_CHARS: Final = 1 << 20
"""A longer line names no video; its characters are passed over."""

TOO_LONG: Final = "\0too long"
"""The text that stands for a line of more than `MAX_LINE_CHARS`; no line that may be used holds a NUL."""

_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks and the encodings that they mean. UTF-32's begins as UTF-16's does."""


def encoding_of(path: Path) -> str:
    """Returns the encoding of a text file: by its mark, UTF-16 without one by its zeros, else UTF-8."""
    with open(path, "rb") as file:
        start = file.read(64)
    for mark, encoding in _MARKS:
        if start.startswith(mark):
            return encoding
    if len(start) >= 8 and not any(start[1:8:2]) and all(start[0:8:2]):
        return "utf-16-le"
    if len(start) >= 8 and not any(start[0:8:2]) and all(start[1:8:2]):
        return "utf-16-be"
    return "utf-8"


def iter_lines(path: Path) -> Iterator[str]:
    """Yields the lines of a text file with their ends; one that is too long is `TOO_LONG`.

    Lines end at a line feed, or at carriage returns where the file begins with a line that ends so. Bytes that are not
    UTF-8 become lone surrogates, as in names of files.
    """
    encoding = encoding_of(path)
    errors = "surrogateescape" if encoding.startswith("utf-8") else "replace"
    with open(path, encoding=encoding, errors=errors, newline="") as probe:
        start = probe.read(MAX_LINE_CHARS)
    newline = "\r" if "\r" in start and "\n" not in start else "\n"
    with open(path, encoding=encoding, errors=errors, newline=newline) as file:
        while line := file.readline(MAX_LINE_CHARS):
            if line.endswith(newline) or len(line) < MAX_LINE_CHARS:
                yield line
            else:
                _skip_line(file, newline)
                yield TOO_LONG + newline


def _skip_line(file: io.TextIOWrapper, newline: str) -> None:
    while rest := file.readline(MAX_LINE_CHARS):
        if rest.endswith(newline):
            return
