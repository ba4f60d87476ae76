"""Embeddings of the windows of percepts, written part by part as Parquet: the work of stage `embed`.

Shapes: N windows of a batch, V videos, R = 2 * layers * units values of an embedding.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core.files import exists
from pipeline.core.parquet import write_groups
from stages.models.artifacts import Encoder
from stages.models.pretrained import WINDOWS_AT_ONCE, Pretrained
from stages.percepts.artifacts import Percepts
from stages.percepts.windows import Ids, Windows

Per = Literal["window", "video"]
Names = dict[str, tuple[str, str | None]]
"""sha256 of a video -> its URI and label, as the ledger first has them."""
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file: the windows first ... end - 1, which are all those of some videos."""

    uri: str
    first: int
    end: int


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
        names: Names = {}
        for record in self.percepts.iter_records():
            names.setdefault(record.sha256, (record.uri, record.label))
        dim = 2 * pretrained.composite.config.num_layers * pretrained.composite.config.num_units
        schema, rows_of = _SCHEMAS[self.per](dim), _rows_of_windows if self.per == "window" else _rows_of_videos

        def embed(part: Part) -> None:
            if not exists(part.uri):
                columns = rows_of(pretrained, windows, names, np.arange(part.first, part.end))
                write_groups(part.uri, schema, (pa.table(each, schema=schema) for each in columns))

        return embed


def make_parts(directory: str, windows: Windows, per: Per, windows_a_part: int) -> list[Part]:
    """Cuts the windows into files of at least `windows_a_part`, except the last; no video is in two files.

    A file's name has a digest of how all windows were cut, so that a file that an earlier run left behind is used for
    the same windows alone.
    """
    num_V = windows.num_per_video
    digest = hashlib.sha256(f"{per} {windows_a_part} {windows.length} {windows.stride}".encode())
    for video, num_windows in zip(windows.store.videos, num_V.tolist(), strict=True):
        digest.update(f" {video} {num_windows}".encode())
    plan, bounds = digest.hexdigest()[:8], [0]
    for end in np.cumsum(num_V).tolist():
        if end - bounds[-1] >= windows_a_part:
            bounds.append(end)
    if bounds[-1] < len(windows):
        bounds.append(len(windows))
    return [
        Part(uri=f"{directory}/part-{number:05d}-{plan}.parquet", first=first, end=end)
        for number, (first, end) in enumerate(itertools.pairwise(bounds))
    ]


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
    videos = [windows.store.videos[number] for number in video_N.tolist()]
    uris, labels = zip(*(names[video] for video in videos), strict=True)
    return [pa.array(column, pa.string()) for column in (videos, uris, labels)]


def _lists(embedding_NR: Floats) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(embedding_NR.ravel()), embedding_NR.shape[1])


def _schema(numbers: dict[str, pa.DataType], dim: int) -> pa.Schema:
    names = dict.fromkeys(("video", "uri", "label"), pa.string())
    return pa.schema({**names, **numbers, "embedding": pa.list_(pa.float32(), dim)})


_SCHEMAS: dict[Per, Callable[[int], pa.Schema]] = {
    "window": lambda dim: _schema(
        {"window": pa.int32(), "first_frame": pa.int32(), "start_us": pa.int64(), "end_us": pa.int64()}, dim
    ),
    "video": lambda dim: _schema({"num_windows": pa.int32()}, dim),
}
