"""One attempt at a link, in an isolated process: from its address to files of the clips, with the facts about each.

Whatever a stranger sends is read here and nowhere else: pages, headers, containers. The process that started this one
answers for the permits, tries again, and keeps what came.
"""

from __future__ import annotations

import posixpath
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.core.error_words import NO_FILE, error_in_words
from pipeline.core.network import NetworkOptions
from pipeline.core.secrets import public, real
from stages.downloading.address_guard import refuse_private
from stages.downloading.clip_rules import ClipRules, Span
from stages.downloading.cutting import cut, duration_s, opened
from stages.downloading.http_files import HttpClient, fetch_file
from stages.downloading.problems import LinkError, Problem
from stages.downloading.range_file import HEAD_BYTES, RangeFile
from stages.downloading.shots import shot_boundaries_s
from stages.downloading.sites import Site, SiteFile
from stages.video.fetch import UnreadableError, fetched
from stages.video.ledger import VideoRecord
from stages.video.limits import Limits
from stages.video.lists.hosts import host_of
from stages.video.lists.rows import ListRow
from stages.video.lists.suffixes import VIDEO_SUFFIXES
from stages.video.probe import probe_source
from stages.video.processes import watchdog
from stages.video.processes.questions import ask
from stages.video.sources import VideoSource

PAGES = (b"<!doctype html", b"<html", b"<head", b"<!--", b"<?xml", b"<body", b"<script", b"<mpd", b"#extm3u")
"""First bytes of what yt-dlp reads: web pages, and the lists of streams in pieces (DASH, HLS)."""


@dataclass(frozen=True, kw_only=True)
class LinkTask:
    """A link to ask for."""

    row: ListRow
    digest: bytes
    rules: ClipRules
    pinned: tuple[Span, ...] | None
    """The clips of an earlier run, which are taken instead of those of the rules."""
    max_height: int
    limits: Limits
    network: NetworkOptions
    max_bytes: int
    """Most bytes of the file that is fetched, and of the clips together."""


@dataclass(frozen=True, kw_only=True)
class FetchedClip:
    """A clip that came."""

    path: Path
    is_own: bool
    """True if the file was made for this link, and may be moved; a file of a folder stays where it is."""
    span: Span
    record: VideoRecord


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """The clips of a link."""

    clips: tuple[FetchedClip, ...]
    num_bytes: int
    """Bytes that came over the network."""


def ask_parent(host: str, is_site: bool) -> str:
    """Requests a permit of the parent process; returns the refusal, or an empty text."""
    refusal: str = ask((host, is_site))
    return refusal


def fetch_link(task: LinkTask, directory: Path) -> Fetched:
    """Makes one attempt at a link.

    Args:
        task: the link.
        directory: where its files go, made with the first of them; what an attempt before left there is used.

    Raises:
        LinkError: it ended without a clip; the reason is in words for the ledger.
    """
    task = replace(task, row=replace(task.row, uri=real(task.row.uri)))
    is_web = task.row.uri.startswith(("http://", "https://"))
    # Buckets have endpoints in private networks.
    refuse_private(is_web and not task.network.allow_private)
    with watchdog.watched(host_of(task.row.uri)[0] or "a file") as heartbeat:
        attempt = _Attempt(task, directory, heartbeat)
        try:
            files = attempt.from_web() if is_web else attempt.from_files()
        except (LinkError, OSError):  # what a server does is the former by now; the disk's errors end the run
            raise
        except Exception as error:  # by place: libraries raise what they like about what strangers send
            raise LinkError(Problem(status="failed", reason=error_in_words(error))) from error
    clips = tuple(_probed(task, *each) for each in files)
    if not clips:
        raise LinkError(Problem(status="too short", reason=_too_short(task)))
    return Fetched(clips=clips, num_bytes=attempt.num_bytes)


def _too_short(task: LinkTask) -> str:
    if task.pinned is not None:
        return "the video has no longer the seconds of the earlier run"
    seconds = task.rules.clip_seconds
    return f"has not {seconds:g} s to give" if seconds else "has none of the seconds that its line names"


Files = list[tuple[Path, bool, Span]]


class _Attempt:
    """One attempt, with its connections."""

    def __init__(self, task: LinkTask, directory: Path, heartbeat: watchdog.Heartbeat) -> None:
        self._task, self._directory, self._heartbeat = task, directory, heartbeat
        self._clients: list[HttpClient] = []
        self._more_bytes = 0

    @property
    def num_bytes(self) -> int:
        return self._more_bytes + sum(client.num_bytes for client in self._clients)

    def from_files(self) -> Files:
        """Takes clips of a local file or of a bucket's."""
        try:
            with fetched(self._task.row.uri, max_bytes=self._task.max_bytes) as path:
                is_local = "://" not in self._task.row.uri
                if is_local:
                    return self._cut(path) if self._is_cut() else [(path, False, None)]
                self._more_bytes += path.stat().st_size
                self._directory.mkdir(parents=True, exist_ok=True)
                kept = self._directory / "file"
                shutil.move(path, kept)
                return self._cut(kept) if self._is_cut() else [(kept, True, None)]
        except FileNotFoundError as error:
            raise LinkError(Problem(status="gone", reason=NO_FILE)) from error
        except UnreadableError as error:
            raise LinkError(
                Problem(status="failed", reason=error.strerror or str(error), may_pass=error.may_pass)
            ) from error
        except OSError as error:
            raise LinkError(Problem(status="failed", reason=error.strerror or str(error))) from error

    def from_web(self) -> Files:
        """Takes clips of a web server's file, or of the video of a site or page."""
        uri = self._task.row.uri
        host, is_site = host_of(uri)
        if not is_site:
            try:
                return self._from_server(self._client(is_site=False), uri)
            except _IsPage:
                pass
        site = Site(
            max_height=self._task.max_height,
            options_file=self._task.network.yt_dlp_options,
            stall_s=self._task.network.stall_s,
            # A page is asked for as a site's, whatever its host; the pieces of a stream are files.
            permit=lambda host, is_page: self._permit(host, is_site=is_site or is_page),
            beat=self._heartbeat.beat,
        )
        file = site.find(uri)
        if not file.is_direct:
            return self._from_pieces(site, uri, file)
        try:
            return self._from_server(self._client(is_site=is_site, headers=file.headers), file.url)
        except _IsPage as error:
            raise LinkError(
                Problem(status="unusable", reason="the site gives a page for a video", host=host)
            ) from error

    def _from_pieces(self, site: Site, uri: str, file: SiteFile) -> Files:
        path = self._directory / "file"
        path.parent.mkdir(parents=True, exist_ok=True)
        site.fetch(uri, file, path, self._task.max_bytes)
        self._more_bytes += path.stat().st_size
        return self._cut(path) if self._is_cut() else [(path, True, None)]

    def _from_server(self, client: HttpClient, url: str) -> Files:
        path = self._directory / "file"
        # Shots are found in all frames: nothing would be saved.
        if self._is_cut() and self._task.rules.mode != "shots" and not path.exists():
            with RangeFile(client, url) as file:
                _refuse_page(file.head)
                try:
                    if file.is_ranged:
                        return self._cut(file)
                except LinkError:
                    if not file.has_other_bytes:
                        raise
        fetch_file(client, url, path, self._task.max_bytes)
        with open(path, "rb") as start:
            _refuse_page(start.read(HEAD_BYTES))
        return self._cut(path) if self._is_cut() else [(path, True, None)]

    def _is_cut(self) -> bool:
        if self._task.pinned is not None:
            return self._task.pinned != (None,)
        row = self._task.row
        return self._task.rules.mode != "whole" or row.start_s is not None or row.end_s is not None

    def _cut(self, source: Path | RangeFile) -> Files:
        task, beat = self._task, self._heartbeat.beat
        with opened(source, task.limits) as (container, stream):
            spans: Sequence[Span] | None = task.pinned
            if spans is None:
                row, duration, boundaries_s = task.row, duration_s(container, stream), list[float]()
                if task.rules.mode == "shots":
                    boundaries_s = shot_boundaries_s(
                        container, stream, first_s=row.start_s or 0.0, last_s=row.end_s, beat=beat
                    )
                spans = task.rules.choose(public(row.uri), row.start_s, row.end_s, duration, boundaries_s)
            wanted = [span for span in spans if span is not None]
            clips = cut(container, stream, wanted, self._directory, max_bytes=task.max_bytes, beat=beat)
        return [(clip.path, True, clip.span) for clip in clips]

    def _client(self, *, is_site: bool, headers: dict[str, str] | None = None) -> HttpClient:
        permit = partial(self._permit, is_site=is_site)
        stall_s = self._task.network.stall_s
        self._clients.append(
            HttpClient(permit=permit, beat=self._heartbeat.beat, stall_s=stall_s, headers=headers or {})
        )
        return self._clients[-1]

    def _permit(self, host: str, *, is_site: bool) -> None:
        with self._heartbeat.paused():
            refusal = ask_parent(host, is_site and host == host_of(self._task.row.uri)[0])
        if refusal:
            raise LinkError(Problem(status="blocked", reason=refusal, host=host))


class _IsPage(Exception):
    """The file is a web page, on which there may be a video, or the list of a stream's pieces."""


def _refuse_page(head: bytes) -> None:
    """Raises _IsPage for bytes that begin as a page or the list of a stream does. Their type means nothing."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(PAGES):
        raise _IsPage


def _probed(task: LinkTask, path: Path, is_own: bool, span: Span) -> FetchedClip:
    """Returns a clip with its facts. Raises LinkError where no frame of it can be used."""
    record = probe_source(VideoSource(uri=str(path), size_bytes=path.stat().st_size), task.limits)
    if record.verdict == "rejected":
        raise LinkError(Problem(status="unusable", reason=record.reason))
    row = task.row
    record = replace(record, label=row.label, part=row.part, group=row.group)
    return FetchedClip(path=path, is_own=is_own, span=span, record=record)


def suffix_of(clip: FetchedClip, uri: str) -> str:
    """Returns the suffix of a clip's file: that of its container, or of the file that it is."""
    if clip.span is not None:
        return ".mp4" if "mp4" in (clip.record.container or "") else ".mkv"
    suffix = posixpath.splitext(urlsplit(uri).path)[1].lower()
    return suffix if suffix in VIDEO_SUFFIXES else ".mp4"
