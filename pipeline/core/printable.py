"""Numbers and times as people write them, and text from outside as a terminal, a log line or a page may show it.

A name may hold a line break, the sequence that colours or clears a terminal, or a mark that reverses the direction of
what follows. All of these are shown escaped, and everything else as it is.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from typing import Any, Final

DAYS_FROM_S: Final = 172_800.0
"""The duration from which on days say more than hours and minutes."""
NUM_LABELS: Final = 12
"""The number of labels that a sentence lists."""
JOINERS: Final = "\u200c\u200d"
"""Zero-width characters that words of Persian and Indic scripts, and emoji, are spelt with."""
_ESCAPED: Final = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Categories of Unicode: control and format characters, bytes that are no UTF-8, and separators of lines."""
_NOT_PLAIN: Final = re.compile(r"[^ -~]")


def number_in_words(number: float) -> str:
    """Formats a number; what is not nothing never reads as nothing."""
    return f"{number:,.1f}" if number >= 1 else f"{number:.2g}"


def count_of(count: int, noun: str) -> str:
    """Writes a count with its noun: '1 video', '1,360 videos'."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def labels_in_words(labels: Counter[str], num_others: int) -> str:
    """Writes how many videos each label has, the most frequent labels by name, and how many others have none."""
    ordered = sorted(labels.items(), key=lambda item: (-item[1], item[0]))
    words = f"{count_of(len(labels), 'label')} of {count_of(labels.total(), 'video')}"
    if labels:
        words += ": " + ", ".join(f"{label!r:.80} {number:,}" for label, number in ordered[:NUM_LABELS])
    if more := [number for _, number in ordered[NUM_LABELS:]]:
        words += f" and {len(more):,} more of {more[-1]:,} to {more[0]:,} videos each"
    return words + (f"; {count_of(num_others, 'video')} without a label" if num_others else "")


def time_in_words(seconds: float) -> str:
    """Formats a time in the largest unit that it fills: 95000 -> '1.1 days'."""
    units = ((86_400.0, "days"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))
    unit_s, name = next((unit for unit in units if seconds > unit[0]), units[-1])
    return f"{number_in_words(seconds / unit_s)} {name}"


def is_printable(character: str) -> bool:
    """Returns whether a character is shown as it is."""
    return character in JOINERS or unicodedata.category(character) not in _ESCAPED


def printable(text: str) -> str:
    """Returns a text on one line, with control characters escaped as in Python: a line break becomes `\\n`."""
    return _NOT_PLAIN.sub(lambda m: m[0] if is_printable(m[0]) else m[0].encode("unicode_escape").decode(), text)


def printable_lines(text: str) -> str:
    """Returns a text in which the lines stay, and each of them is printable."""
    return "\n".join(map(printable, text.split("\n")))


def printable_json(value: Any, indent: int | None = None) -> str:
    """Returns JSON that a terminal can show: the same value, with control characters escaped as JSON escapes them."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return _NOT_PLAIN.sub(lambda m: m[0] if m[0] == "\n" or is_printable(m[0]) else json.dumps(m[0])[1:-1], text)


def human_bytes(num_bytes: float) -> str:
    """Formats a number of bytes in powers of 1000: 1536 -> '1.5 kB'."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def human_seconds(seconds: float) -> str:
    """Formats a duration: 75 -> '1 min 15 s'; from two days on in days."""
    if seconds >= DAYS_FROM_S:
        return time_in_words(seconds)
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
