"""A worker that requests links: several at a time, each in an isolated process, with permits, pauses and retries.

What became of a link is written to the store as soon as it is known, so that a killed run requests no link twice but
those that were in flight.
"""

from __future__ import annotations

import os
import queue
import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol, cast

from pipeline.core.errors import SourceError
from pipeline.core.files import CHUNK_BYTES, TEMPORARY_MARK, absolute, exists, is_local, open_atomic
from pipeline.core.network import NetworkLimiter, NetworkOptions
from pipeline.core.secrets import masked
from stages.downloading.fetch_link import Fetched, FetchedClip, LinkTask, fetch_link, suffix_of
from stages.downloading.link_results import (
    ASKED_AGAIN,
    DOWNLOADED,
    BatchLog,
    ClipResult,
    LinkResult,
    clip_uri,
    is_kept_clip,
)
from stages.downloading.problems import LinkError, Problem
from stages.video.limits import Limits
from stages.video.lists.hosts import host_of
from stages.video.processes.isolated_process import IsolatedProcess, ProcessDied

UNFINISHED: Final = f"{DOWNLOADED}/{TEMPORARY_MARK}unfinished"
"""Directory of files in flight, below the store's root where that is on this machine."""
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
STRIKES: Final = 12
"""Links in a row at which a host fails or refuses, after which the run requests it no more."""


class Fetcher(Protocol):
    """Makes one attempt at a link."""

    def __call__(self, task: LinkTask, directory: Path) -> Fetched:
        """Returns what came. Files go into `directory`, which need not exist. Raises LinkError, ProcessDied."""
        ...


Answer = Callable[[tuple[str, bool]], str]
"""A function (host, whether it is a site) -> refusal, which waits for the host's next time slot."""


class IsolatedFetcher:
    """A Fetcher whose attempts run in isolated processes, one for each thread that calls it; a context manager."""

    def __init__(self, limits: Limits, answer: Answer) -> None:
        self._limits, self._answer = limits, answer
        self._idle: queue.SimpleQueue[IsolatedProcess] = queue.SimpleQueue()
        self._processes = ExitStack()

    def __call__(self, task: LinkTask, directory: Path) -> Fetched:
        try:
            process = self._idle.get_nowait()
        except queue.Empty:
            process = self._processes.enter_context(IsolatedProcess(self._limits, answer=self._answer))
        try:
            return process.call(fetch_link, task, directory)
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """Ends the processes."""
        self._processes.close()


MakeFetcher = Callable[[Limits, Answer], Any]
"""Makes a Fetcher that has `close`."""


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """All that a worker needs besides its links. It pickles."""

    run: str
    """Name of the run, for the limiter."""
    store_uri: str
    limiter: NetworkLimiter
    network: NetworkOptions
    limits: Limits
    share_bytes: int
    """Disk that is reserved for a link in flight."""
    bound_bytes: int | None
    """Bound on all downloaded video of the run on disk; None: there is none."""
    make_fetcher: MakeFetcher = IsolatedFetcher


@dataclass(frozen=True)
class LinkBatch:
    """Links that a worker is handed at a time."""

    name: str
    """Name of its log, unlike that of any other batch."""
    tasks: tuple[LinkTask, ...]

    def __str__(self) -> str:
        return f"{len(self.tasks)} links from {self.tasks[0].row.uri} on"


def link_worker(settings: WorkerSettings) -> Callable[[LinkBatch], list[LinkResult | None]]:
    """Returns a worker's function of a batch: the result of each link, None for one that had no room on the disk."""
    return LinkWorker(settings)


class LinkWorker:
    """A worker of its own process."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._strikes: Counter[str] = Counter()
        self._root = Path(absolute(settings.store_uri)) if is_local(settings.store_uri) else None
        """The store, where it is on this machine."""

    def __call__(self, batch: LinkBatch) -> list[LinkResult | None]:
        fetcher = self._settings.make_fetcher(self._settings.limits, self.answer)
        log = BatchLog(self._settings.store_uri, batch.name)
        known = log.known()
        try:
            with ThreadPoolExecutor(self._settings.network.downloads_at_a_time) as threads:
                return list(
                    threads.map(lambda task: known.get(task.digest) or self._one(task, fetcher, log), batch.tasks)
                )
        finally:
            fetcher.close()
            log.close()

    def answer(self, question: tuple[str, bool]) -> str:
        """Waits for a host's next time slot; returns the refusal, or an empty text."""
        (host, is_site), settings = question, self._settings
        interval_s = settings.network.site_interval_s if is_site else settings.network.host_interval_s
        permit = settings.limiter.permit(settings.run, host, interval_s, interval_s if is_site else 0.0)
        if permit.refusal or permit.wait_s <= 0:
            return permit.refusal
        time.sleep(permit.wait_s)
        # It may have refused somebody else meanwhile.
        return settings.limiter.refusal(settings.run, host)

    def _one(self, task: LinkTask, fetcher: Fetcher, log: BatchLog) -> LinkResult | None:
        settings, kept = self._settings, 0
        bound = settings.bound_bytes
        if bound is not None and not settings.limiter.reserve(settings.run, settings.share_bytes, bound):
            return None
        try:
            with self._directory(task) as directory:
                result = self._tried(task, fetcher, directory)
            kept = sum(c.record.size_bytes for c in result.clips if is_kept_clip(settings.store_uri, c.record.uri))
            log.add(task.digest, result)
            return result
        finally:
            if bound is not None:
                settings.limiter.release(settings.run, settings.share_bytes - kept)

    def _tried(self, task: LinkTask, fetcher: Fetcher, directory: Path) -> LinkResult:
        """Makes attempts at a link until one ends it."""
        asked_at = datetime.now(UTC).isoformat(timespec="seconds")
        problem, number = Problem(status="failed", reason="it was not requested"), 0
        for number in range(1, self._settings.network.tries + 1):
            try:
                fetched = fetcher(task, directory)
            except LinkError as error:
                problem = self._checked_pause(error.problem)
            except ProcessDied as death:
                problem = self._problem_of_death(task, death)
            else:
                self._note_strike(task, is_strike=False)
                clips = tuple(ClipResult(span=c.span, record=self._keep(task, c).record) for c in fetched.clips)
                return LinkResult(
                    status="downloaded",
                    asked_at=asked_at,
                    num_requests=number,
                    num_bytes=fetched.num_bytes,
                    clips=clips,
                )
            if not problem.may_pass or number == self._settings.network.tries:
                break
            self._pause(problem, number)
        tried = f" ({number} attempts)" if number > 1 else ""
        reason = masked(problem.reason)
        return LinkResult(
            status=problem.status,
            reason=reason + tried,
            asked_at=asked_at,
            num_requests=number,
            refused_host=self._refused(task, replace(problem, reason=reason)),
        )

    def _checked_pause(self, problem: Problem) -> Problem:
        """Returns a problem whose host wants a longer pause than is allowed as one that ends all requests to it."""
        if (problem.retry_after_s or 0.0) <= self._settings.network.max_retry_after_s:
            return problem
        reason = f"{problem.reason}, and asks for a pause of {problem.retry_after_s:,.0f} s (--max-retry-after-s)"
        return replace(problem, reason=reason, may_pass=False, says_no=True)

    def _problem_of_death(self, task: LinkTask, death: ProcessDied) -> Problem:
        if not death.is_stall:
            return Problem(status="unusable", reason=str(death))
        host = host_of(task.row.uri)[0]
        reason = f"{host or 'its file'} sent nothing of use for {self._settings.limits.max_stall_s:g} s"
        return Problem(status="failed", reason=f"{reason} (--limits.max-stall-s)", host=host)

    def _pause(self, problem: Problem, number: int) -> None:
        """Waits before the next attempt, or has all requests to the host wait."""
        if problem.retry_after_s is not None and problem.host:
            self._settings.limiter.pause(problem.host, problem.retry_after_s)
            return
        time.sleep(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (number - 1)) * random.uniform(0.5, 1.0))

    def _refused(self, task: LinkTask, problem: Problem) -> str:
        """Returns the host that the run requests no more from now on; empty where there is none, or others said so."""
        is_about_host = bool(problem.host) and (problem.may_pass or problem.status in ASKED_AGAIN)
        is_over = self._note_strike(task, is_strike=is_about_host)
        if not (problem.says_no or is_over) or not problem.host:
            return ""
        reason = f"{problem.host} gets no further request of this run: {problem.reason}"
        is_first = self._settings.limiter.refuse(self._settings.run, problem.host, reason)
        return problem.host if is_first else ""

    def _note_strike(self, task: LinkTask, *, is_strike: bool) -> bool:
        """Counts links in a row at which a host failed; returns whether they are too many."""
        host = host_of(task.row.uri)[0]
        with self._lock:
            self._strikes[host] = self._strikes[host] + 1 if is_strike else 0
            return self._strikes[host] >= STRIKES

    @contextmanager
    def _directory(self, task: LinkTask) -> Iterator[Path]:
        """Yields the link's directory for files in flight. Where a process is killed, the next run goes on with it.

        It is made with its first file: a dead link has none.
        """
        home = Path(tempfile.gettempdir()) / "percepts-unfinished" if self._root is None else self._root / UNFINISHED
        directory = home / task.digest.hex()
        yield directory
        if directory.exists():
            shutil.rmtree(directory, ignore_errors=True)

    def _keep(self, task: LinkTask, clip: FetchedClip) -> FetchedClip:
        """Moves a clip into the store, under the name of its content."""
        if not clip.is_own:
            return clip
        target = clip_uri(self._settings.store_uri, clip.record.sha256, suffix_of(clip, task.row.uri))
        if self._root is not None:
            path = Path(absolute(target))
            path.parent.mkdir(parents=True, exist_ok=True)
            if self._settings.bound_bytes is None:  # one that is deleted soon may be lost with the power: it is missed
                with open(clip.path, "rb") as written:
                    os.fsync(written.fileno())
            os.replace(clip.path, path)
        elif not exists(target):
            with open(clip.path, "rb") as source, open_atomic(target) as file:
                shutil.copyfileobj(source, cast(Any, file), CHUNK_BYTES)
        return replace(clip, record=replace(clip.record, uri=target))


def check_network(network: NetworkOptions, *, needs_yt_dlp: bool, needs_shots: bool) -> None:
    """Raises SourceError where links need what is not installed, or options that are not there."""
    from importlib.util import find_spec

    from stages.downloading import shots, sites

    if needs_yt_dlp and find_spec("yt_dlp") is None:
        raise SourceError(sites.MISSING)
    if needs_shots and find_spec("scenedetect") is None:
        raise SourceError(shots.MISSING)
    if network.yt_dlp_options is not None and not os.path.isfile(network.yt_dlp_options):
        raise SourceError(f"there is no file {network.yt_dlp_options!r} with yt-dlp's options (--yt-dlp-options)")
