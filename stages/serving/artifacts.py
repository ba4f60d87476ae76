"""Artifacts that hold a table about videos: embeddings, or actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from pipeline.core.files import join, list_files, read_bytes
from pipeline.core.parquet import read_table
from pipeline.core.result_metrics import ResultMetrics
from pipeline.core.stage import Artifact


@dataclass(frozen=True)
class VideoTable(Artifact):
    """`<folder>/part-*.parquet`, a row a window or a row a video, which any reader of Parquet reads as one table.

    Columns: `video` (sha256), `uri`, `label` (null where the list of videos has none); of a window `window` (its number
    in the video), `first_frame`, `start_us` and `end_us` (the times of its first and its last frame), of a video
    `num_windows`; and those of the subclass.
    """

    folder: ClassVar[str]

    @property
    def directory(self) -> str:
        """URI of the folder of Parquet files."""
        return self.path(self.folder)

    def files(self) -> list[str]:
        """Returns the URIs of the Parquet files, in the order of their rows."""
        return [join(self.directory, name) for name in sorted(list_files(self.directory))]

    def table(self) -> pa.Table:
        """Reads all rows, in the order of the index. Raises pa.ArrowInvalid where a file is damaged."""
        return pa.concat_tables(read_table(read_bytes(uri)) for uri in self.files())

    def metrics(self, facts: Mapping[str, int | float | str]) -> ResultMetrics:
        """Returns the numbers of rows, of videos and, where labels are known, how many of them are right."""
        names = (
            *("num_rows", "num_videos", "num_videos_too_short", "num_bytes"),
            *("num_videos_labelled", "num_videos_right"),
        )
        return ResultMetrics(values={f"{self.folder}/{name}": float(facts[name]) for name in names if name in facts})


@dataclass(frozen=True)
class Embeddings(VideoTable):
    """`embeddings/part-*.parquet`: a `VideoTable` with the column `embedding`, a fixed-size list of float32."""

    folder = "embeddings"


@dataclass(frozen=True)
class Actions(VideoTable):
    """`actions/part-*.parquet`: a `VideoTable` with `action`, its `probability`, and `probabilities`, those of all.

    `probabilities` is a fixed-size list of float32 in the order of the class names, which are in the schema's metadata
    under `classes`, as JSON, and in the manifest's facts.
    """

    folder = "actions"
