"""Embeddings of the windows of percepts, written part by part as Parquet: the work of stage `embed`.

Shapes: N windows of a batch, V videos, R = 2 * layers * units values of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stages.models.artifacts import Encoder
from stages.models.pretrained import WINDOWS_AT_ONCE, Pretrained
from stages.percepts.artifacts import Percepts
from stages.percepts.windows import Ids, Windows
from stages.serving.parts import Names, Part, Per, columns_of_names, read_names, table_schema, write_part

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Builds, in a worker, the function that writes a part, unless it is there."""

    encoder: Encoder
    percepts: Percepts
    per: Per
    length: int
    """Frames of a window."""
    stride: int
    """Frames from one window to the next."""
    device: str

    def __call__(self) -> Callable[[Part], None]:
        pretrained = Pretrained.load(self.encoder.uri, device=self.device)
        windows = Windows(self.percepts.open(), length=self.length, stride=self.stride)
        names = read_names(self.percepts)
        end_V, config = np.cumsum(windows.num_per_video), pretrained.composite.config
        schema = table_schema(self.per, {"embedding": pa.list_(pa.float32(), 2 * config.num_layers * config.num_units)})
        rows_of = _rows_of_windows if self.per == "window" else _rows_of_videos

        def embed(part: Part) -> None:
            part.check(windows.store.videos)
            end = int(end_V[part.end - 1])
            write_part(part, schema, rows_of(pretrained, windows, names, np.arange(end - part.num_windows, end)))

        return embed


def _rows_of_windows(pretrained: Pretrained, windows: Windows, names: Names, ids_N: Ids) -> Iterator[list[pa.Array]]:
    """Yields the columns of a batch of windows, a row each."""
    store, first_window_V = windows.store, np.cumsum(windows.num_per_video) - windows.num_per_video
    for video_N, row_N, embedding_NR in _batches(pretrained, windows, ids_N):
        first_frame_N, times_us_N2 = np.empty(len(row_N), np.int32), np.empty((len(row_N), 2), np.int64)
        for video in np.unique(video_N).tolist():
            is_its_N = video_N == video
            rows, row_W = store.rows(store.videos[video]), row_N[is_its_N]
            first_frame_N[is_its_N] = rows.frame_N[row_W]
            times_us_N2[is_its_N] = rows.pts_us_N[row_W[:, None] + [0, windows.length - 1]]
        window_N = (ids_N[: len(row_N)] - first_window_V[video_N]).astype(np.int32)
        ids_N = ids_N[len(row_N) :]
        numbers = (window_N, first_frame_N, times_us_N2[:, 0], times_us_N2[:, 1])
        yield [*_names_of(windows, names, video_N), *map(pa.array, numbers), _lists(embedding_NR)]


def _rows_of_videos(pretrained: Pretrained, windows: Windows, names: Names, ids_N: Ids) -> Iterator[list[pa.Array]]:
    """Yields the columns of the videos that these windows are of, a row each: the mean over a video's windows."""
    videos_V, num_V = np.unique(windows.locate(ids_N)[0], return_counts=True)
    sum_VR: npt.NDArray[np.float64] | None = None
    for video_N, _, embedding_NR in _batches(pretrained, windows, ids_N):
        if sum_VR is None:
            sum_VR = np.zeros((len(videos_V), embedding_NR.shape[1]))
        np.add.at(sum_VR, np.searchsorted(videos_V, video_N), embedding_NR)
    assert sum_VR is not None, "a part has windows"
    mean_VR = (sum_VR / num_V[:, None]).astype(np.float32)
    yield [*_names_of(windows, names, videos_V), pa.array(num_V.astype(np.int32)), _lists(mean_VR)]


def _batches(pretrained: Pretrained, windows: Windows, ids_N: Ids) -> Iterator[tuple[Ids, Ids, Floats]]:
    """Yields, batch by batch, the number of each window's video, its first row there, and its embedding (N, R)."""
    for first in range(0, len(ids_N), WINDOWS_AT_ONCE):
        batch_N = ids_N[first : first + WINDOWS_AT_ONCE]
        percepts_NTD = windows.gather_half(batch_N).numpy().astype(np.float32)
        yield *windows.locate(batch_N), pretrained.represent(percepts_NTD)


def _names_of(windows: Windows, names: Names, video_N: Ids) -> list[pa.Array]:
    return columns_of_names([windows.store.videos[number] for number in video_N.tolist()], names)


def _lists(embedding_NR: Floats) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(embedding_NR.ravel()), embedding_NR.shape[1])
