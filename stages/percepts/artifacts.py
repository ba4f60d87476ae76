"""Artifacts about percepts: those of an index, and their statistics."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from pipeline.core.errors import SourceError
from pipeline.core.files import join, read_bytes, write_bytes
from pipeline.core.records import column_types
from pipeline.core.result_metrics import ResultMetrics
from pipeline.core.stage import Artifact
from stages.percepts.node_cache import NodeCache
from stages.percepts.reader import PerceptStore, open_store, read_store_extractor
from stages.percepts.schema import Extractor
from stages.percepts.shards import LEDGER_FILE
from stages.percepts.takedowns import with_takedowns
from stages.video.artifacts import TO_LOOK_AT
from stages.video.ledger import VideoRecord, iter_records, read_tables, same_but_words

STATISTICS_FILE = "statistics.safetensors"
NUM_REJECTED_HERE: Final = "num_videos_rejected_here"
"""The fact that says how many videos were rejected that their index had not rejected; absent where there are none."""


@dataclass(frozen=True)
class Percepts(Artifact):
    """Percepts of the videos of an index: `shards.json` names the files, `ledger.parquet` has a row for every video."""

    holds = "percepts"
    columns = column_types(VideoRecord)

    def records(self) -> list[VideoRecord]:
        """Returns the ledger in the order of the index.

        It has label, part, group, final verdict and frame counts of each video.
        """
        return list(self.iter_records())

    def iter_records(self) -> Iterator[VideoRecord]:
        """Yields the ledger's rows one after the other, so that a ledger of any length takes little memory.

        A video that was taken down since is rejected: it has no percepts any more.
        """
        return with_takedowns(self.store_uri, iter_records(self.path(LEDGER_FILE)))

    def open(self, *, parts: Collection[str] | None = None, cache: NodeCache | None = None) -> PerceptStore:
        """Opens the percepts of all videos, or of those whose `part` is among `parts`, in the order of the index.

        Raises:
            SourceError: no video of these parts has frames; the message names the parts that there are.
            ConfigError, CorruptArtifact, StoreError: see `stages.percepts.reader.open_store`.
        """
        if parts is None:
            return open_store(self.uri, cache=cache)
        chosen: dict[str, None] = {}
        known: set[str] = set()
        for table in read_tables(self.path(LEDGER_FILE), ["sha256", "part"]):
            for video, part in zip(table["sha256"].to_pylist(), table["part"].to_pylist(), strict=True):
                known.add(str(part))
                if part in parts:
                    chosen[video] = None
        selected = open_store(self.uri, cache=cache, videos=chosen).select(chosen)
        if not selected.videos:
            raise SourceError(
                f"no video with frames is of part {' or '.join(sorted(parts))}; parts here: {', '.join(sorted(known))}"
            )
        return selected

    def extractor(self) -> Extractor:
        """Returns the extractor that made the percepts; reads no percepts. Raises as `open`."""
        return read_store_extractor(self.uri)

    def metrics(self, facts: Mapping[str, int | float | str]) -> ResultMetrics:
        """Returns the frames that became percepts, the bytes that they take, and videos by verdict."""
        names = (
            *("num_frames", "num_frames_dropped", "num_frames_missing", "num_bytes"),
            *("num_videos_ok", "num_videos_partial", "num_videos_rejected"),
        )
        values = {f"percepts/{name}": float(facts[name]) for name in names if name in facts}
        return ResultMetrics(values=values)

    def num_to_look_at(self, facts: Mapping[str, int | float | str], *, all_rejected: bool = False) -> int:
        """Returns how many videos of the index could not be read, or how many were rejected here first."""
        return int(facts.get(NUM_REJECTED_HERE if all_rejected else TO_LOOK_AT, 0))

    def has_same_videos(self, other: Self) -> bool:
        """Returns whether both ledgers have the same rows; a rejected video may be rejected in other words."""
        return same_but_words(self.iter_records(), other.iter_records())


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of each percept dimension. D: percept dimension."""

    mean_D: npt.NDArray[np.float32]
    std_D: npt.NDArray[np.float32]
    """Population standard deviation; 0 where a dimension never changes."""
    num_rows: int


@dataclass(frozen=True)
class Statistics(Artifact):
    """`statistics.safetensors`: `mean` (D) and `std` (D) float32, `num_rows` (1) int64."""

    def moments(self) -> Moments:
        """Reads the statistics file."""
        tensors = load(read_bytes(self.path(STATISTICS_FILE)))
        return Moments(tensors["mean"], tensors["std"], int(tensors["num_rows"][0]))


def write_moments(uri: str, moments: Moments) -> None:
    """Writes `statistics.safetensors` into an artifact's directory."""
    tensors: dict[str, npt.NDArray[Any]] = {
        "mean": moments.mean_D,
        "std": moments.std_D,
        "num_rows": np.array([moments.num_rows], np.int64),
    }
    write_bytes(join(uri, STATISTICS_FILE), save(tensors))
