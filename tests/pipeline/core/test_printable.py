"""Names of files as they may be shown: nothing in them acts on a terminal, and everything that can be read is kept."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pipeline.core.printable import is_printable, printable, printable_json, printable_lines

SHOWN = {
    "\x1b[31mred\x1b[2J.mp4": r"\x1b[31mred\x1b[2J.mp4",
    "line\nbreak\r.mp4": r"line\nbreak\r.mp4",
    "rtl\u202emoc.mp4": r"rtl\u202emoc.mp4",
    "\x9b31m.mp4": r"\x9b31m.mp4",
    "\udcff.mp4": r"\udcff.mp4",
    "a\u2028b\u200b\ufeff": r"a\u2028b\u200b\ufeff",
}
PLAIN = ("été 🎬.mp4", "日本\u3000語.mp4", "می\u200cخواهم", "👩\u200d👧.mp4", "a:smile:[bold]b[/].mp4", "back\\slash")


@pytest.mark.parametrize("name", SHOWN)
def test_control_characters_are_escaped(name: str) -> None:
    assert printable(name) == SHOWN[name]


@pytest.mark.parametrize("name", PLAIN)
def test_other_names_are_shown_as_they_are(name: str) -> None:
    assert printable(name) == name


@given(st.text())
def test_what_is_printable_can_be_written_and_stays_so(text: str) -> None:
    shown = printable(text)
    assert all(map(is_printable, shown))
    assert len(shown.encode().splitlines()) <= 1
    assert printable(shown) == shown
    assert printable_lines(text).split("\n") == [printable(line) for line in text.split("\n")]


@given(st.recursive(st.text() | st.none() | st.integers(), lambda inner: st.dictionaries(st.text(), inner, max_size=3)))
def test_json_has_the_same_value_and_is_printable(value: object) -> None:
    for indent in (None, 1):
        text = printable_json(value, indent)
        assert json.loads(text) == value
        assert all(is_printable(c) for c in text.replace("\n", " "))
        assert "\n" not in text or indent


def test_the_sequence_of_a_terminal_loses_its_beginning() -> None:
    console = Console(force_terminal=True, color_system=None, width=200)
    with console.capture() as capture:
        console.print(printable("\x1b]0;title\x07\x1b[2J.mp4"), markup=False)
    assert capture.get() == "\\x1b]0;title\\x07\\x1b[2J.mp4\n"
