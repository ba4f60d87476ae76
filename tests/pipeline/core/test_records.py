"""Dataclasses as JSON files: what is written is read back equal; what does not fit is refused in one line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from pipeline.core.errors import CorruptArtifact
from pipeline.core.files import write_bytes, write_json
from pipeline.core.records import read_record, write_record


@dataclass(frozen=True, kw_only=True)
class Part:
    name: Literal["train", "test"]
    num: int


@dataclass(frozen=True, kw_only=True)
class Whole:
    parts: tuple[Part, ...]
    pair: tuple[str, float]
    losses: dict[str, tuple[float, ...]]
    note: str | None = None
    is_done: bool = False


WHOLE = Whole(parts=(Part(name="train", num=3),), pair=("a", 0.1), losses={"x": (1.0, 2.5)}, note="ok", is_done=True)


def test_a_record_is_read_back_equal(tmp_path: Path) -> None:
    uri = str(tmp_path / "whole.json")
    write_record(uri, WHOLE)
    assert read_record(uri, Whole) == WHOLE


def test_a_file_may_lack_what_has_a_default_and_hold_more(tmp_path: Path) -> None:
    uri = str(tmp_path / "whole.json")
    write_json(uri, {"parts": [], "pair": ["a", 1], "losses": {}, "of a newer version": 1})
    assert read_record(uri, Whole) == Whole(parts=(), pair=("a", 1.0), losses={})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pair": ["a"]}, "ValueError"),
        ({"pair": ["a", "b"]}, "'b' is no int"),
        ({"parts": [{"name": "train"}]}, "KeyError: 'num'"),
        ({"parts": [{"name": "other", "num": 1}]}, "ValueError"),
        ({"parts": [{"name": "test", "num": True}]}, "True is no int"),
        ({"parts": None}, "None is no list"),
        ({"is_done": 1}, "1 is no bool"),
        ({"losses": {"x": [float("nan")]}}, "it holds nan"),
        ({"losses": {"x": [1.0, -float("inf")]}}, "it holds -inf"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    uri = str(tmp_path / "whole.json")
    write_json(uri, {"parts": [], "pair": ["a", 1], "losses": {}, **change})
    with pytest.raises(CorruptArtifact, match=rf"whole\.json is not what its stage writes \(.*{message}.*run again"):
        read_record(uri, Whole)


def test_a_number_too_large_for_a_float_is_refused(tmp_path: Path) -> None:
    uri = str(tmp_path / "whole.json")
    write_bytes(uri, b'{"parts": [], "pair": ["a", 1e999], "losses": {}}')
    with pytest.raises(CorruptArtifact, match="it holds inf"):
        read_record(uri, Whole)


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    uri = str(tmp_path / "whole.json")
    write_bytes(uri, b'{"parts": [')
    with pytest.raises(CorruptArtifact, match="JSONDecodeError"):
        read_record(uri, Whole)
