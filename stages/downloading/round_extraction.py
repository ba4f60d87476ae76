"""Percepts of a round of clips, after which their files are deleted: what makes 300 hours fit on any disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from pipeline.core.events import Emit, Event, Progress, Waiting
from pipeline.core.files import join, remove
from pipeline.core.stage import Context
from stages.extraction.config import ExtractionConfig, extractor_of
from stages.extraction.extract_shards import extract_shards
from stages.extraction.shard_plan import make_plan
from stages.percepts.shards import directory, iter_complete
from stages.percepts.takedowns import taken_down
from stages.video.artifacts import INDEX_NAME, Index
from stages.video.ledger import VideoRecord, write_records
from stages.video.record_table import COLUMNS, DigestOrder, RecordTable, digests

ROUND: Final = "round"
"""Directory of the round in work, below the artifact."""


@dataclass(frozen=True)
class _WithoutProgress:
    """Passes events on, but not the frames of a round, whose sum is not the download's."""

    emit: Emit

    def __call__(self, event: Event) -> None:
        is_start = isinstance(event, Waiting) and not event.reason  # of a round, and the download began long before
        if not isinstance(event, Progress) and not is_start:
            self.emit(event)


class RoundExtraction:
    """The extractor of a download whose videos are not kept."""

    def __init__(self, config: ExtractionConfig, shard_frames: int, context: Context) -> None:
        """Reads which videos the store has percepts of. Raises as `extractor_of`."""
        self._config, self._shard_frames = config, shard_frames
        self._context = replace(context, emit=_WithoutProgress(context.emit))
        self._extractor = extractor_of(config)
        folder = directory(self._extractor.fingerprint)
        videos = (
            video
            for shard in iter_complete(context.store_uri, folder)
            for video, result in shard.results.items()
            if result.final
        )
        self._stored = DigestOrder(np.unique(digests(videos)))

    def has(self, sha256: Sequence[str]) -> list[bool]:
        """Returns for each video whether the store had its percepts when the run began."""
        is_stored: list[bool] = (self._stored.find(digests(sha256)) >= 0).tolist()
        return is_stored

    def __call__(self, records: Iterable[VideoRecord]) -> None:
        """Extracts percepts of clips whose files are there. Raises as the stage extract."""
        context = self._context
        uri = join(context.uri, ROUND)
        write_records(join(uri, INDEX_NAME), records, store_uri=context.store_uri)
        index = Index(uri)
        rows = RecordTable.read(index.tables(COLUMNS), taken_down(context.store_uri))
        fingerprint = self._extractor.fingerprint
        plan = make_plan(uri, context.store_uri, fingerprint, rows, shard_frames=self._shard_frames)
        extract_shards(self._config, context, self._extractor, plan.tasks(index.iter_records()))
        remove(uri)
