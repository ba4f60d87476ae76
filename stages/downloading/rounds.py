"""A download in rounds: so many links as are still wanted, then the percepts of what came, then the next ones.

The links that are requested, and the clips that are used, are a pure function of the lists, the seed and of what was
alive: a round requests no more links than the hours still need, in the order of the seed, and the ones after it take
the place of the dead.

Downloads wait nearly always, so that theirs are workers which reserve no cores: percepts of a round are made on all of
them while the next one is requested. Clips take room on the disk until theirs are made, and a link that finds no room
waits for that.

Shapes: N links.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np

from pipeline.core.disk_list import DiskList
from pipeline.core.files import join, list_states, remove
from pipeline.core.stage import Context
from stages.downloading.background_call import BackgroundCall
from stages.downloading.clip_rules import ClipRules
from stages.downloading.fetch_link import LinkTask
from stages.downloading.forecast import forecast_download
from stages.downloading.link_results import (
    ASKED_AGAIN,
    CLIPS,
    LinkResult,
    is_kept_clip,
    read_results,
    write_round,
)
from stages.downloading.link_worker import (
    UNFINISHED,
    IsolatedFetcher,
    LinkBatch,
    MakeFetcher,
    WorkerSettings,
    link_worker,
)
from stages.downloading.listing import LinkTable
from stages.downloading.round_extraction import RoundExtraction
from stages.downloading.selection import ClipSelection, seconds_of
from stages.percepts.takedowns import taken_down
from stages.video.ledger import VideoRecord
from stages.video.limits import Limits
from stages.video.lists.hosts import host_of

ROUND_LINKS: Final = 2048
"""Most links of a round."""
BATCHES_A_THREAD: Final = 8
"""Links that a worker is handed for each that it requests at a time."""
MAX_WORKERS: Final = 8
"""Most workers that request links. Hosts decide the rate, and each link in flight has its share of the disk."""
GUESSED_S: Final = 60.0
"""Seconds that a link is taken to give before any has given some."""


@dataclass(kw_only=True)
class Rounds:
    """The rounds of a download, and what became of each link so far."""

    table: LinkTable
    context: Context
    rules: ClipRules
    max_height: int
    limits: Limits
    target_s: float | None
    extraction: RoundExtraction | None
    """Makes percepts of a round's clips, which are then deleted; None keeps the files."""
    make_fetcher: MakeFetcher = IsolatedFetcher

    def __post_init__(self) -> None:
        self._run = f"{self.context.key}-{uuid.uuid4().hex[:8]}"
        self._limiter = self.context.workers.limiter()
        self._results: DiskList[LinkResult] = DiskList()
        self._result_N = np.full(len(self.table), -1, np.int32)
        self._selection = ClipSelection(self.target_s)
        self._cursor = 0
        """Links, in order, whose clips the selection has seen."""
        self._refusals: dict[str, str] = {}
        self._num_alive, self._alive_s = 0, 0.0
        self._extracting: BackgroundCall | None = None

    @property
    def is_full(self) -> bool:
        """True if the hours are reached."""
        return self._selection.is_full

    @property
    def seconds(self) -> float:
        """Seconds of video that are used."""
        return self._selection.seconds

    def run(self) -> None:
        """Requests links until all are answered, or the hours are reached.

        Raises:
            WorkerDied: workers died on the same links.
            OSError: the disk is full.
        """
        self._recall()
        self._announce()
        try:
            while numbers := self._next_round():
                records = self._ask(numbers)
                self._end_extraction()
                self._begin_extraction(records)
                self._report()
        except Exception:
            self._end_extraction()
            raise
        self._end_extraction()
        remove(join(self.context.store_uri, UNFINISHED))

    def _begin_extraction(self, records: list[VideoRecord]) -> None:
        """Makes percepts of a round's clips, deletes them and gives back their room; where processes may, meanwhile."""
        call = partial(self._extract, records, is_reserved=True)
        if self.context.workers.replaces_workers:
            self._extracting = BackgroundCall(call)
        else:
            call()

    def _end_extraction(self) -> None:
        """Waits for the extraction of the round before. Raises what it raised."""
        extracting, self._extracting = self._extracting, None
        if extracting is not None:
            extracting.wait()

    def _recall(self) -> None:
        """Takes over what the store knows of the links, and makes percepts of clips that wait for them."""
        store_uri, removed = self.context.store_uri, taken_down(self.context.store_uri)
        on_disk = {
            join(store_uri, CLIPS, name): state.num_bytes for name, state in list_states(join(store_uri, CLIPS)).items()
        }
        waiting: list[VideoRecord] = []
        num_known = 0
        for number, result in self.table.recalled(read_results(store_uri)):
            if result.status in ASKED_AGAIN or (self.context.looks_at_rejected and not result.clips):
                continue
            videos = [clip.record.sha256 for clip in result.clips]
            if removed.intersection(videos):
                result = replace(result, status="unusable", reason="it was taken down", clips=())
            elif videos:
                has_percepts = self.extraction.has(videos) if self.extraction else [False] * len(videos)
                lacking = [c.record for c, has in zip(result.clips, has_percepts, strict=True) if not has]
                if any(is_kept_clip(store_uri, r.uri) and on_disk.get(r.uri) != r.size_bytes for r in lacking):
                    continue  # lost, or deleted after percepts of another extractor were made: it is fetched again
                waiting += lacking
            self._add(number, result)
            num_known += 1
        if num_known:
            self.context.log(f"{num_known} links are known from earlier runs and are not requested again")
        for first in range(0, len(waiting), ROUND_LINKS):
            self._extract(waiting[first : first + ROUND_LINKS])

    def _announce(self) -> None:
        """Logs how much is still to be requested, and how long that takes."""
        num_left = int(np.count_nonzero(self._result_N < 0))
        hours = None if self.target_s is None else (self.target_s - self._alive_s) / 3600
        if num_left and (hours is None or hours > 0):
            of_sites = round(self.table.num_of_sites * num_left / len(self.table))
            network = self.context.resources.network
            self.context.log(f"to request: {forecast_download(self.rules, hours, num_left, of_sites, network).note}")

    def _add(self, number: int, result: LinkResult) -> None:
        self._result_N[number] = len(self._results)
        self._results.append(result)
        if result.clips:
            self._num_alive += 1
            self._alive_s += sum(map(seconds_of, result.clips))

    def result(self, number: int) -> LinkResult | None:
        """Returns what became of a link; None where it was not requested."""
        place = int(self._result_N[number])
        return self._results[place] if place >= 0 else None

    def _advance(self) -> None:
        """Shows the selection the clips of the links that are answered, up to the first that is not."""
        order = self.table.order_N
        while self._cursor < len(order) and not self._selection.is_full:
            result = self.result(int(order[self._cursor]))
            if result is None:
                return
            for clip in result.clips:
                self._selection.take(clip)
            self._cursor += 1

    def _next_round(self) -> list[int]:
        """Returns the numbers of the links to ask for next; none once all are answered or the hours are reached."""
        while True:
            self._advance()
            if self._selection.is_full or self._cursor == len(self.table):
                return []
            if numbers := self._wanted():
                return numbers

    def _wanted(self) -> list[int]:
        """Returns the next links without an answer, as many as the hours need if all of them are alive."""
        numbers: list[int] = []
        expected_s = self._selection.seconds
        each_s = self.rules.expected_s or (self._alive_s / self._num_alive if self._num_alive else GUESSED_S)
        for place in range(self._cursor, len(self.table)):
            if len(numbers) == ROUND_LINKS or (self.target_s is not None and expected_s >= self.target_s - 1e-6):
                break
            number = int(self.table.order_N[place])
            result = self.result(number)
            if result is None and (reason := self._refusals.get(host_of(self.table[number].uri)[0])):
                result = LinkResult(status="blocked", reason=reason)
                self._add(number, result)
            if result is None:
                numbers.append(number)
                expected_s += each_s
            else:
                expected_s += sum(map(seconds_of, result.clips))
        return numbers

    def _ask(self, numbers: list[int]) -> list[VideoRecord]:
        """Requests links over the workers; returns the facts about the clips that came."""
        resources, network = self.context.resources, self.context.resources.network
        num_workers, at_a_time = min(resources.num_workers, MAX_WORKERS), network.downloads_at_a_time
        in_flight = num_workers * at_a_time
        bound = network.max_disk_bytes if self.extraction is not None else None
        share = self.limits.max_bytes if bound is None else max(1, bound // (2 * in_flight))
        max_bytes = min(self.limits.max_bytes, share if bound is None else share // 2)
        settings = WorkerSettings(
            run=self._run,
            store_uri=self.context.store_uri,
            limiter=self._limiter,
            network=network,
            limits=self.limits,
            share_bytes=share,
            bound_bytes=bound,
            make_fetcher=self.make_fetcher,
        )
        # Small enough that every worker has some.
        per_batch = max(1, min(BATCHES_A_THREAD * at_a_time, math.ceil(len(numbers) / num_workers)))
        parts = [numbers[first : first + per_batch] for first in range(0, len(numbers), per_batch)]
        batches = [
            LinkBatch(uuid.uuid4().hex[:16], tuple(self._task(number, max_bytes) for number in part)) for part in parts
        ]
        answered = self.context.workers.map(
            partial(link_worker, settings),
            batches,
            num_workers=num_workers,
            cpus_per_worker=0.0,
        )
        to_keep, records = list[tuple[bytes, LinkResult]](), list[VideoRecord]()
        for position, results in answered:
            for number, task, result in zip(parts[position], batches[position].tasks, results, strict=True):
                if result is None:
                    continue  # there was no room for it
                self._add(number, result)
                to_keep.append((task.digest, result))
                records += [clip.record for clip in result.clips]
                if result.refused_host:
                    reason = self._limiter.refusal(self._run, result.refused_host)
                    self._refusals[result.refused_host] = reason
                    self.context.log(reason)
            self._report(requested=len(to_keep))
        write_round(self.context.store_uri, to_keep, (batch.name for batch in batches))
        assert to_keep or self._extracting, "no link of the round found room on the disk"
        return records

    def _task(self, number: int, max_bytes: int) -> LinkTask:
        row = self.table[number]
        return LinkTask(
            row=row,
            digest=self.table.digest(number),
            rules=self.rules,
            pinned=self.table.pinned_spans(row),
            max_height=self.max_height,
            limits=self.limits,
            network=self.context.resources.network,
            max_bytes=max_bytes,
        )

    def _extract(self, records: Sequence[VideoRecord], *, is_reserved: bool = False) -> None:
        """Makes percepts of clips, deletes their files, and gives back the room that was reserved for them."""
        clips = {record.uri: record for record in records}
        if self.extraction is None or not clips:
            return
        self.extraction(clips.values())
        store_uri = self.context.store_uri
        for uri in clips:
            if is_kept_clip(store_uri, uri):
                remove(uri)
        if is_reserved:
            self._limiter.release(self._run, sum(r.size_bytes for r in records if is_kept_clip(store_uri, r.uri)))

    def _report(self, requested: int = 0) -> None:
        hours = self._alive_s / 3600
        num_known = int(np.count_nonzero(self._result_N >= 0))
        note = f"{hours:.2f} h of video so far"
        self.context.progress(num_known, len(self.table) if self.target_s is None else 0, "links", note)
