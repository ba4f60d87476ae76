"""The artifact that holds embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from pipeline.core.files import join, list_files, read_bytes
from pipeline.core.parquet import read_table
from pipeline.core.result_metrics import ResultMetrics
from pipeline.core.stage import Artifact

EMBEDDINGS: Final = "embeddings"


@dataclass(frozen=True)
class Embeddings(Artifact):
    """`embeddings/part-*.parquet`, a row a window or a row a video, which any reader of Parquet reads as one table.

    Columns: `video` (sha256), `uri`, `label` (null where the list of videos has none); of a window `window` (its number
    in the video), `first_frame`, `start_us` and `end_us` (the times of its first and its last frame), of a video
    `num_windows`; and `embedding`, a fixed-size list of float32.
    """

    def files(self) -> list[str]:
        """Returns the URIs of the Parquet files, in the order of their rows."""
        directory = self.path(EMBEDDINGS)
        return [join(directory, name) for name in sorted(list_files(directory))]

    def table(self) -> pa.Table:
        """Reads all rows, in the order of the index. Raises pa.ArrowInvalid where a file is damaged."""
        return pa.concat_tables(read_table(read_bytes(uri)) for uri in self.files())

    def metrics(self, facts: Mapping[str, int | float | str]) -> ResultMetrics:
        """Returns the number of embeddings, of the videos that have one, and of those that are too short."""
        names = ("num_embeddings", "num_videos", "num_videos_too_short", "num_bytes")
        return ResultMetrics(values={f"embeddings/{name}": float(facts[name]) for name in names if name in facts})
