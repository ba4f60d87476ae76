"""Tables that workers write part by part, a Parquet file of some videos each: of embeddings, of actions.

A part is written whole or not at all, so that a run that was interrupted goes on with those that are missing.

Shapes: V videos.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core.errors import SourceError
from pipeline.core.files import exists, join, list_files, remove, size_bytes
from pipeline.core.parquet import write_groups
from pipeline.core.stage import Context
from stages.percepts.artifacts import Percepts
from stages.percepts.takedowns import taken_down

Per = Literal["window", "video"]
"""The unit that a row of a table stands for."""
Names = dict[str, tuple[str, str | None]]
"""sha256 of a video -> its URI and label, as the ledger first has them."""
PART_BYTES = 64_000_000
"""The approximate largest size of a file, unless a single video takes more."""
PART_WINDOWS = 32_768
"""The approximate largest number of windows of a file: a minute of work on a core, so that many workers share it."""
GROUP_ROWS: Final = 256
"""The least number of rows of a row group, but for the last of a file."""
WINDOWS_A_VIDEO = 8
"""The number of windows that a row a video stands for, about, when files are cut."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file: the videos first ... end - 1 of a store, and the number of their windows."""

    uri: str
    first: int
    end: int
    num_windows: int
    num_videos: int
    """All videos of the store; a takedown leaves fewer, and the numbers then stand for others."""

    def check(self, videos: Sequence[str]) -> None:
        """Raises SourceError where `videos`, those that a worker finds, are not those that parts were cut of."""
        if len(videos) != self.num_videos:
            raise _taken_down_meanwhile(self.num_videos - len(videos), self.num_videos)


def cut_parts(
    directory: str, videos: Sequence[str], num_windows_V: npt.NDArray[np.int64], *, per: Per, row_bytes: int
) -> list[Part]:
    """Cuts videos into files of about PART_BYTES or PART_WINDOWS; those without a window are in none without others.

    A file's name has a digest of all videos and of what a row is, so that a file that an earlier run left behind is
    used for the same table alone.
    """
    windows_a_part = min(PART_WINDOWS, max(1, PART_BYTES // row_bytes) * (WINDOWS_A_VIDEO if per == "video" else 1))
    digest = hashlib.sha256(f"{per} {windows_a_part}".encode())
    bounds, total, start = [0], 0, 0
    for number, (video, num_windows) in enumerate(zip(videos, num_windows_V.tolist(), strict=True), 1):
        digest.update(f" {video} {num_windows}".encode())
        total += num_windows
        if total - start >= windows_a_part:
            bounds.append(number)
            start = total
    if start < total:
        bounds.append(len(videos))
    table = digest.hexdigest()[:8]
    return [
        Part(
            uri=join(directory, f"part-{number:05d}-{table}.parquet"),
            first=first,
            end=end,
            num_windows=int(num_windows_V[first:end].sum()),
            num_videos=len(videos),
        )
        for number, (first, end) in enumerate(itertools.pairwise(bounds))
    ]


def write_parts(
    factory: Callable[[], Callable[[Part], None]],
    parts: Sequence[Part],
    directory: str,
    context: Context,
    *,
    videos: Sequence[str],
) -> int:
    """Lets the workers write the parts that are missing, and removes those of another table, as after a takedown.

    Args:
        videos: those that parts were cut of.

    Returns:
        The bytes of all parts.

    Raises:
        SourceError: a video was taken down meanwhile; no part is left then, as it may be in one.
    """
    for name in {*list_files(directory)} - {part.uri.rpartition("/")[2] for part in parts}:
        remove(join(directory, name))
    results = context.workers.map(
        factory,
        parts,
        num_workers=context.resources.num_workers,
        cpus_per_worker=context.resources.cpus_per_worker,
        gpus_per_worker=context.resources.gpus_per_worker,
        describe=lambda part: f"videos {part.first} to {part.end - 1}",
    )
    num_done, num_windows = 0, sum(part.num_windows for part in parts)
    for position, _ in results:
        num_done += parts[position].num_windows
        context.progress(num_done, num_windows, "windows")
    if missing := taken_down(context.store_uri).intersection(videos):
        remove(directory)
        raise _taken_down_meanwhile(len(missing), len(videos))
    return sum(size_bytes(part.uri) for part in parts)


def _taken_down_meanwhile(number: int, num_videos: int) -> SourceError:
    return SourceError(f"{number} of {num_videos} videos were taken down meanwhile: run the same command again")


def write_part(part: Part, schema: pa.Schema, batches: Iterable[Sequence[pa.Array]]) -> None:
    """Writes batches of columns as one file, unless it is there."""
    if not exists(part.uri):
        write_groups(part.uri, schema, _groups(pa.table(list(columns), schema=schema) for columns in batches))


def _groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yields tables joined to `GROUP_ROWS` rows or a little more: a row group takes a kilobyte, however few it has."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= GROUP_ROWS:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def read_names(percepts: Percepts) -> Names:
    """Reads URI and label of every video of a ledger."""
    names: Names = {}
    for record in percepts.iter_records():
        names.setdefault(record.sha256, (record.uri, record.label))
    return names


def columns_of_names(videos: Sequence[str], names: Names) -> list[pa.Array]:
    """Returns the columns video, uri and label of rows."""
    uris, labels = zip(*(names[video] for video in videos), strict=True)
    return [pa.array(column, pa.string()) for column in (videos, uris, labels)]


def table_schema(per: Per, columns: dict[str, pa.DataType]) -> pa.Schema:
    """Returns the schema of a table: which video, what of it, and `columns`."""
    names = dict.fromkeys(("video", "uri", "label"), pa.string())
    place = {"window": pa.int32(), "first_frame": pa.int32(), "start_us": pa.int64(), "end_us": pa.int64()}
    return pa.schema({**names, **(place if per == "window" else {"num_windows": pa.int32()}), **columns})
