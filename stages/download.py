"""download: from lists of links to clips on disk, or to percepts with no clips left, with an account of every link.

    downloads = download(DownloadConfig(links=("sports-1m.txt",), hours=300, rules=ClipRules(clip_seconds=10)), context)

Clips are kept by content below `<store>/downloaded/`, and what became of a link is known to every later run. With an
`extraction`, percepts of the clips are made round by round and the clips deleted, so that the disk has a bound.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from pipeline.core.disk_list import DiskList
from pipeline.core.errors import ConfigError, RunError, SourceError
from pipeline.core.files import join, sha256_file
from pipeline.core.flags import Inline
from pipeline.core.numbers import check_numbers
from pipeline.core.stage import Context, Estimate, stage
from stages.downloading.artifacts import DOWNLOADS_NAME, DownloadRecord, Downloads, read_pinned, write_downloads
from stages.downloading.clip_rules import ClipRules
from stages.downloading.link_results import ASKED_AGAIN
from stages.downloading.link_worker import check_network
from stages.downloading.listing import LinkListing, LinkTable, read_listing
from stages.downloading.round_extraction import RoundExtraction
from stages.downloading.rounds import Rounds
from stages.downloading.selection import ledger_rows
from stages.extraction.config import ExtractionConfig, extractor_of
from stages.video.artifacts import INDEX_NAME, TO_LOOK_AT, write_manifest
from stages.video.ledger import VideoRecord, write_records
from stages.video.limits import Limits
from stages.video.lists.rows import ListRow, ListRules

MAX_REASONS: Final = 1000
"""Different reasons that are counted."""
LEARNED_PART: Final = "train"
"""Part of published lists whose clips are those to learn from: in the corpus they have no part, as one's own videos.
Clips of other parts (validation, test) keep theirs, and nothing is learned from them."""


@dataclass(frozen=True, kw_only=True)
class DownloadConfig:
    """The links, the clips that are wanted of them, and what becomes of their files."""

    links: tuple[str, ...]
    """Lists of links (`stages.video.lists.reader`)."""
    list_rules: ListRules = field(default_factory=ListRules)
    """The addresses that a list may name."""
    rules: Inline[ClipRules] = field(default_factory=ClipRules)
    """The clips of each video."""
    hours: float | None = None
    """Hours of video that are enough: links are requested in the order of the seed until they are reached."""
    pin: str | None = None
    """The `downloads.parquet` of an earlier run, whose clips are taken, and no others."""
    max_height: int = 360
    """Height, pixels, of the largest format that is requested where a site offers several."""
    limits: Limits = field(default_factory=Limits)
    """The bounds beyond which a video is rejected."""
    extraction: ExtractionConfig | None = None
    """Percepts that are made before the files are deleted; None keeps the files."""
    shard_frames: int = 16384
    """Frames in a file of percepts, about."""

    def __post_init__(self) -> None:
        check_numbers(self)
        if not self.links:
            raise ConfigError("links is empty; name at least one list, such as --links videos.csv")
        if self.hours == 0:
            raise ConfigError(f"hours is {self.hours}; give hours of video above 0")
        if self.pin is not None and (self.hours is not None or self.rules != ClipRules()):
            raise ConfigError("--pin takes the clips of an earlier run; leave out --hours, --clips and their like")
        if self.max_height < 1:
            raise ConfigError(f"max_height is {self.max_height}; give pixels above 0, such as 360")


def list_links(config: DownloadConfig) -> LinkListing:
    """Reads the lists. Raises SourceError; with an extraction also as `extractor_of`."""
    pin = sha256_file(config.pin) if config.pin is not None and read_pinned(config.pin) else ""
    extractor = extractor_of(config.extraction).fingerprint if config.extraction is not None else ""
    salt = f"{pin} {extractor}"
    return LinkListing(config.links, config.list_rules, salt=salt, rules=config.rules, hours=config.hours)


def _estimate(config: DownloadConfig, inputs: Mapping[str, Estimate]) -> Estimate:
    # Clips that become percepts at once are deleted: they take room for a while, and are no part of what is kept.
    return inputs["listing"] if config.extraction is None else replace(inputs["listing"], num_bytes=None)


@stage(version=2, snapshot=list_links, estimate=_estimate)
def download(config: DownloadConfig, context: Context) -> Downloads:
    """Requests the links that no earlier run has an answer of, and writes the ledger of all of them.

    Raises:
        SourceError: a list, the pinned ledger or yt-dlp is missing; no link gave a clip.
        RunError: too many links stayed blocked or failed; the same run again requests those.
        ConfigError, DigestError: as `extractor_of`.
        WorkerDied: workers died on the same links again and again.
    """
    table = LinkTable(
        _rows(config, context),
        config.rules,
        max_height=config.max_height,
        pinned=read_pinned(config.pin) if config.pin is not None else None,
        by_seed=config.hours is not None,
    )
    needs_shots = config.rules.mode == "shots" and config.pin is None
    check_network(context.resources.network, needs_yt_dlp=table.num_of_sites > 0, needs_shots=needs_shots)
    extraction = None
    if config.extraction is not None:
        extraction = RoundExtraction(config.extraction, config.shard_frames, context)
    rounds = Rounds(
        table=table,
        context=context,
        rules=config.rules,
        max_height=config.max_height,
        limits=config.limits,
        target_s=None if config.hours is None else config.hours * 3600,
        extraction=extraction,
    )
    rounds.run()
    return _finish(rounds, config, context)


def _rows(config: DownloadConfig, context: Context) -> Iterator[ListRow]:
    if context.listing_uri is not None:
        return read_listing(context.listing_uri, context.log)
    listing = LinkListing(config.links, config.list_rules)
    uri = join(context.uri, "links.parquet")
    listing.write(uri)
    return read_listing(uri, context.log)


def _finish(rounds: Rounds, config: DownloadConfig, context: Context) -> Downloads:
    """Writes the ledger, the corpus and its facts. Raises as `download`."""
    used: DiskList[VideoRecord] = DiskList()
    counts = _LinkCounter(ledger_rows(rounds.table, rounds.result, rounds.target_s, used.append))
    write_downloads(join(context.uri, DOWNLOADS_NAME), counts)
    _record_account(rounds, counts, config, context)
    if not used:
        answers = f"{counts.in_words()}; most often: {counts.usual_reason}"
        raise SourceError(f"no link gave a clip ({answers}); see percepts ledger --store STORE --why")
    write_manifest(context, ("uri", "label", "part", "group"), map(_row, used))
    write_records(join(context.uri, INDEX_NAME), used, store_uri=context.store_uri)
    return Downloads(context.uri, context.key)


def _row(clip: VideoRecord) -> dict[str, str | None]:
    part = None if clip.part == LEARNED_PART else clip.part
    return {"uri": clip.uri, "label": clip.label, "part": part, "group": clip.group}


def _record_account(rounds: Rounds, counts: _LinkCounter, config: DownloadConfig, context: Context) -> None:
    """Adds the account to the facts and the log. Raises RunError where too many links have no answer."""
    hours = rounds.seconds / 3600
    context.record(**counts.facts(), num_links=len(rounds.table), hours_of_video=round(hours, 4))
    context.log(f"{hours:.2f} h of video from {counts.in_words()}")
    unanswered = sum(counts.by_status[status] for status in ASKED_AGAIN)
    share = unanswered / max(1, counts.num_links)
    is_short = config.hours is not None and not rounds.is_full
    if share > context.resources.network.max_unanswered and (is_short or config.hours is None):
        wanted = f" of {config.hours:g} h" if config.hours is not None else ""
        raise RunError(
            f"{unanswered} of {counts.num_links} links are blocked or failed (most often: {counts.usual_reason}), "
            f"{hours:.2f} h{wanted} are there: run the same command again later to ask for those alone, or go on "
            "without them with --max-unanswered 1"
        )
    if unanswered and (is_short or config.hours is None):
        context.record(**{TO_LOOK_AT: unanswered})
        context.log(f"{unanswered} links are blocked or failed: the next run requests them again")
    if is_short:
        context.log(f"the lists gave {hours:.2f} of {config.hours:g} h: all of their links were requested")


class _LinkCounter:
    """Passes the rows of a ledger of links on and counts them."""

    def __init__(self, records: Iterator[DownloadRecord]) -> None:
        self._records = records
        self.by_status: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self.num_links = self.num_attempts = self.num_bytes = self.num_clips = 0

    def __iter__(self) -> Iterator[DownloadRecord]:
        before = None
        for record in self._records:
            self.num_clips += record.is_used
            self.num_bytes += record.bytes_fetched
            if (record.link, record.line) != before or not record.link:
                before = (record.link, record.line)
                self.num_links += 1
                self.num_attempts += record.attempts
                self.by_status[record.status] += 1
                if record.reason and not record.sha256 and len(self._reasons) < MAX_REASONS:
                    self._reasons[record.reason] += 1
            yield record

    @property
    def usual_reason(self) -> str:
        """The reason that most links without a clip have, among the first of them."""
        return max(self._reasons, key=self._reasons.__getitem__, default="none was said")

    def facts(self) -> dict[str, int]:
        """Returns the counts by name."""
        by_status = {f"num_{status.replace(' ', '_')}": n for status, n in sorted(self.by_status.items())}
        return {
            "num_asked": self.num_links,
            "num_clips": self.num_clips,
            "num_attempts": self.num_attempts,
            "num_bytes_fetched": self.num_bytes,
            **by_status,
        }

    def in_words(self) -> str:
        """Returns how many links ended how."""
        parts = [f"{count:,} {status}" for status, count in self.by_status.most_common()]
        return f"{self.num_links:,} links: {', '.join(parts)}"
