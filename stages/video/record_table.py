"""An index or a ledger as arrays of numbers: a hundred bytes a video, where records take a thousand.

Shapes: R rows of the index, V videos among them, U other videos.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Digests = npt.NDArray[np.bytes_]
"""(R,) of 32 bytes each: sha256 of videos."""
Numbers = npt.NDArray[np.int64]

DIGEST_BYTES = 32
NO_DIGEST = "0" * 64
"""Stands for the content of a video that could not be read."""


def digests(videos: Iterable[str]) -> Digests:
    """Converts digests of videos from 64 hex digits each, or from an empty string."""
    return np.frombuffer(bytes.fromhex("".join(video or NO_DIGEST for video in videos)), f"S{DIGEST_BYTES}")


def hex_digits(digest_R: Digests) -> list[str]:
    """Converts digests to hex digits, the inverse of `digests`."""
    # NumPy itself leaves a digest's trailing zeros out.
    digits = digest_R.tobytes().hex()
    return [digits[start : start + 2 * DIGEST_BYTES] for start in range(0, len(digits), 2 * DIGEST_BYTES)]


def hex_column(digest_R: Digests) -> pa.Array:
    """Converts digests to a column of hex digits without a Python string for each."""
    ends = np.arange(len(digest_R) + 1, dtype=np.int32) * (2 * DIGEST_BYTES)
    digits = digest_R.tobytes().hex().encode()
    return pa.StringArray.from_buffers(len(digest_R), pa.py_buffer(ends), pa.py_buffer(digits))


class DigestOrder:
    """Digests in their order, to find where others stand: a dictionary of 40 bytes a video."""

    def __init__(self, digest_R: Digests) -> None:
        self._row_R = np.argsort(digest_R, kind="stable").astype(np.int32)
        self._digest_R = digest_R[self._row_R]

    def find(self, digest_U: Digests) -> Numbers:
        """Returns (U,) the first row that has each digest; -1 where none has."""
        if not len(self._digest_R):
            return np.full(len(digest_U), -1, np.int64)
        place_U = np.searchsorted(self._digest_R, digest_U)
        place_U[place_U == len(self._digest_R)] = 0
        is_found_U = self._digest_R[place_U] == digest_U
        return np.where(is_found_U, self._row_R[place_U], -1).astype(np.int64)


def first_of_each(digest_R: Digests) -> npt.NDArray[np.bool_]:
    """Returns (R,) whether no earlier row has the same content; a video that could not be read equals no other."""
    is_first_R = DigestOrder(digest_R).find(digest_R) == np.arange(len(digest_R))
    return np.asarray(is_first_R | (digest_R == digests([""])))


COLUMNS: Final = ("sha256", "verdict", "frames_expected")
"""The columns of an index that `RecordTable.read` needs."""


@dataclass(frozen=True)
class RecordTable:
    """A table of the R rows of an index.

    A video is the first of the rows with its content, unless ingest rejected it or it was taken down.
    """

    digest_R: Digests
    frames_R: Numbers
    """Frames that the row promises."""
    is_video_R: npt.NDArray[np.bool_]

    @classmethod
    def read(cls, tables: Iterable[pa.Table], taken_down: Iterable[str] = ()) -> Self:
        """Reads the columns `COLUMNS` of an index, in its order."""
        columns = [_numbers(table) for table in tables]
        digest_R, is_usable_R, frames_R = (
            np.concatenate(column) for column in zip(_numbers(_no_rows()), *columns, strict=True)
        )
        is_usable_R &= (digest_R != digests([""])) & (DigestOrder(digests(taken_down)).find(digest_R) < 0)
        row_R = np.flatnonzero(is_usable_R)
        is_first = DigestOrder(digest_R[row_R]).find(digest_R[row_R]) == np.arange(len(row_R))
        is_video_R = np.zeros(len(digest_R), np.bool_)
        is_video_R[row_R[is_first]] = True
        return cls(digest_R, frames_R, is_video_R)

    def __len__(self) -> int:
        return len(self.digest_R)

    @cached_property
    def videos(self) -> Numbers:
        """(V,) rows that are videos."""
        return np.flatnonzero(self.is_video_R)

    @cached_property
    def _order(self) -> DigestOrder:
        return DigestOrder(self.digest_R[self.videos])

    def find(self, digest_U: Digests) -> Numbers:
        """Returns (U,) the row of the video with each digest; -1 where there is none."""
        number_U = self._order.find(digest_U)
        return np.where(number_U >= 0, np.r_[self.videos, -1][number_U], -1)


def _no_rows() -> pa.Table:
    # Not a constant: making an array imports pandas, half a second of every command.
    return pa.table({"sha256": pa.array([], pa.string()), "verdict": [], "frames_expected": []})


def _numbers(table: pa.Table) -> tuple[Digests, npt.NDArray[np.bool_], Numbers]:
    is_usable = [verdict != "rejected" for verdict in table["verdict"].to_pylist()]
    frames = table["frames_expected"].to_numpy().astype(np.int64)
    return digests(table["sha256"].to_pylist()), np.array(is_usable, np.bool_), frames
