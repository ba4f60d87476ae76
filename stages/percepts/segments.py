"""Runs of frames that follow each other: what windows are cut from.

Shapes: S segments, U videos of one file, K rows at which a segment begins behind another one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Segments:
    """In the order of a store's rows."""

    video_S: npt.NDArray[np.int64]
    """Number of the video in the store's `videos`."""
    first_S: npt.NDArray[np.int64]
    """First row, counted from the video's first."""
    num_rows_S: npt.NDArray[np.int64]

    @classmethod
    def of_file(
        cls,
        video_U: npt.NDArray[np.int64],
        offset_U: npt.NDArray[np.int64],
        num_rows_U: npt.NDArray[np.int64],
        break_K: npt.NDArray[np.int32],
    ) -> Self:
        """Of some videos of one file, which begin at rows `offset_U`; `break_K` are `ShardFile.breaks`."""
        begin_U = np.searchsorted(break_K, offset_U, "right")
        segments_U = np.searchsorted(break_K, offset_U + num_rows_U, "left") - begin_U + 1
        end_U = np.cumsum(segments_U)
        within_S = np.arange(segments_U.sum()) - np.repeat(end_U - segments_U, segments_U)
        # A video's first segment begins with it, each further one at a break.
        break_S = np.r_[break_K, 0][np.repeat(begin_U, segments_U) + within_S - 1]
        first_S = np.where(within_S == 0, 0, break_S - np.repeat(offset_U, segments_U))
        next_S = np.r_[first_S[1:], 0]
        next_S[end_U - 1] = num_rows_U
        return cls(np.repeat(video_U, segments_U), first_S, next_S - first_S)

    @classmethod
    def joined(cls, parts: "Sequence[Segments]") -> Self:
        """All of them, in the order of their videos."""
        nothing = np.empty(0, np.int64)
        video_S = np.concatenate([nothing, *(part.video_S for part in parts)])
        first_S = np.concatenate([nothing, *(part.first_S for part in parts)])
        num_rows_S = np.concatenate([nothing, *(part.num_rows_S for part in parts)])
        order_S = np.argsort(video_S, kind="stable")
        return cls(video_S[order_S], first_S[order_S], num_rows_S[order_S])
