"""The results of a run, read from its artifacts by their classes: what page, terminal and sentences are made from.

A recipe may have any number of artifacts of each class, or none.
"""

from __future__ import annotations

import base64
import mimetypes
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pipeline.core.errors import CorruptArtifact
from pipeline.core.files import read_bytes, size_bytes
from pipeline.core.stage import Artifact
from pipeline.reporting.svg import number
from pipeline.reporting.view import NodeView, RunView
from stages.evaluation.artifacts import (
    DuplicateReport,
    Forecast,
    ForecastErrors,
    NearDuplicates,
    PixelScores,
    PixelScoreTable,
    Scores,
)
from stages.evaluation.score_table import ScoreTable
from stages.figures.gallery import Gallery
from stages.finetuning.artifacts import Classifiers
from stages.finetuning.selection import Selection
from stages.models.artifacts import Encoder, TrainingHistory
from stages.percepts.artifacts import Percepts
from stages.video.artifacts import Index
from stages.video.ledger import VideoRecord, VideoTotals
from stages.video.lists.seen import SeenTexts

MAX_PICTURE_BYTES = 8_000_000
"""Size above which a picture is named by its URI and not put into the page, which is sent by mail."""

A = TypeVar("A", bound=Artifact)
T = TypeVar("T")


@dataclass(frozen=True)
class NodeResult(Generic[T]):
    """The content of an artifact, with the node that made it."""

    node: NodeView
    content: T

    @property
    def name(self) -> str:
        """Name of the node."""
        return self.node.name


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of a gallery; `data_uri` is None if the file is too large for the page."""

    title: str
    caption: str
    kind: str
    uri: str
    data_uri: str | None


@dataclass(kw_only=True)
class Ledger(VideoTotals):
    """The sums of a ledger (`decoded`) or of an index, which only has promises; whole rows of bad videos alone."""

    name: str
    decoded: bool
    frames_promised: int = 0
    """Frames that the videos say they hold, counted or not."""
    duration_us: int = 0
    parts: Counter[str] = field(default_factory=Counter)
    """The number of videos of each part."""
    bad: list[VideoRecord] = field(default_factory=list)
    """The videos that are partial or rejected."""

    def add(self, record: VideoRecord) -> None:
        """Adds a video."""
        super().add(record)
        self.frames_promised += record.frames_expected
        self.duration_us += record.duration_us or 0
        if record.part:
            self.parts[record.part] += 1
        if record.verdict != "ok":
            self.bad.append(record)


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that a report shows, in the order of the plan."""

    view: RunView
    scores: tuple[NodeResult[ScoreTable], ...]
    histories: tuple[NodeResult[TrainingHistory], ...]
    forecasts: tuple[NodeResult[ForecastErrors], ...]
    pixel_scores: tuple[NodeResult[PixelScoreTable], ...]
    galleries: tuple[tuple[Picture, ...], ...]
    ledgers: tuple[Ledger, ...]
    """Every ledger, and those indexes of which some video is in no ledger."""
    videos: Ledger
    """Every video of the run once, as the first ledger (else index) that names it has it."""
    selections: tuple[Selection, ...]
    duplicates: tuple[DuplicateReport, ...]
    extractions: tuple[NodeView, ...]

    @property
    def bad_videos(self) -> tuple[VideoRecord, ...]:
        """Every video that is partial or rejected in some ledger or index, once a verdict and reason."""
        bad = [record for ledger in self.ledgers for record in ledger.bad]
        return tuple({(record.uri, record.verdict, record.reason): record for record in bad}.values())


def read_results(view: RunView) -> Results:
    """Reads every artifact of the run.

    Raises:
        CorruptArtifact: a file of an artifact does not hold what its class says.
    """

    def read(kind: type[A], content: Callable[[A], T]) -> tuple[NodeResult[T], ...]:
        artifacts = [(node, node.artifact) for node in view.nodes]
        return tuple(NodeResult(node, content(a)) for node, a in artifacts if isinstance(a, kind))

    histories = read(Encoder, Encoder.history)
    selections = read(Classifiers, Classifiers.selection)
    ledgers, videos = _read_ledgers(view)
    return Results(
        view=view,
        scores=read(Scores, Scores.read),
        histories=tuple(NodeResult(r.node, r.content) for r in histories if r.content is not None),
        forecasts=tuple(result for result in read(Forecast, Forecast.read) if result.content.num_windows),
        pixel_scores=read(PixelScores, PixelScores.read),
        galleries=tuple(result.content for result in read(Gallery, _pictures)),
        ledgers=ledgers,
        videos=videos,
        selections=tuple(result.content for result in selections if result.content.choices),
        duplicates=tuple(result.content for result in read(NearDuplicates, NearDuplicates.read)),
        extractions=tuple(node for node in view.nodes if isinstance(node.artifact, Percepts)),
    )


def count_name(labels_per_class: int) -> str:
    """Writes a label count for reading: 0 is all training clips."""
    return "all" if labels_per_class == 0 else str(labels_per_class)


def missing_clips(scores: ScoreTable) -> str:
    """Writes the sentence below every table that counts the clips that are missing; empty if none is."""
    if all(split.is_whole for split in scores.coverage):
        return ""
    splits = (
        f"split {split.number}: {split.num_train:,} of {split.num_official_train:,} training and "
        f"{split.num_test:,} of {split.num_official_test:,} test clips"
        f"{f' ({split.gap}: it judges nothing)' if split.gap else ''}"
        for split in scores.coverage
        if not split.is_whole
    )
    share = number(100 * scores.num_clips / scores.num_official_clips)
    total = f"{scores.num_clips:,} of the {scores.num_official_clips:,} clips of {scores.dataset}"
    return f"{total} were there ({share}%): {'; '.join(splits)}."


def _pictures(gallery: Gallery) -> tuple[Picture, ...]:
    pictures = []
    for entry in gallery.read():
        uri = gallery.path(entry.file)
        data_uri = _data_uri(uri) if size_bytes(uri) <= MAX_PICTURE_BYTES else None
        picture = Picture(title=entry.title, caption=entry.caption, kind=entry.kind, uri=uri, data_uri=data_uri)
        pictures.append(picture)
    return tuple(pictures)


def _data_uri(uri: str) -> str:
    kind = mimetypes.guess_type(uri)[0]
    if kind is None or not kind.startswith("image/"):
        raise CorruptArtifact(f"{uri} is no picture; remove its directory and run again")
    return f"data:{kind};base64,{base64.b64encode(read_bytes(uri)).decode()}"


def _read_ledgers(view: RunView) -> tuple[tuple[Ledger, ...], Ledger]:
    """Reads every ledger and index of a run.

    Returns:
        The ledgers, and those indexes of which some video is in no ledger; and all videos, each once, as the first of
        them names it.

    Raises:
        CorruptArtifact: a file is no ledger.
    """
    nodes = [(node, node.artifact) for node in view.nodes]
    listed = [(node.name, True, artifact.iter_records()) for node, artifact in nodes if isinstance(artifact, Percepts)]
    listed += [(node.name, False, artifact.iter_records()) for node, artifact in nodes if isinstance(artifact, Index)]
    videos = Ledger(name="all", decoded=any(is_decoded for _, is_decoded, _ in listed))
    in_ledgers, in_indexes = SeenTexts(), SeenTexts()
    counted: list[Ledger] = []
    for name, is_decoded, records in listed:
        ledger, is_new = Ledger(name=name, decoded=is_decoded), is_decoded
        for record in records:
            ledger.add(record)
            is_elsewhere = not is_decoded and record.uri in in_ledgers
            is_new = is_new or not is_elsewhere
            if not is_elsewhere and (in_ledgers if is_decoded else in_indexes).add(record.uri):
                videos.add(record)
        if is_new:
            counted.append(ledger)
    return tuple(counted), videos
