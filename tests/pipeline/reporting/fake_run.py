"""A finished run made of invented numbers, written by the classes of the artifacts that real stages write."""

from __future__ import annotations

import io
import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from scipy import stats

from pipeline.core.stage import Artifact
from pipeline.reporting.results import read_results
from pipeline.reporting.terminal import print_results
from pipeline.reporting.view import NodeView, RunView
from stages.evaluation.artifacts import (
    BASELINES,
    DuplicateReport,
    ErrorRatio,
    Forecast,
    ForecastErrors,
    NearDuplicates,
    PixelScoreRow,
    PixelScores,
    PixelScoreTable,
    Scores,
)
from stages.evaluation.score_table import MeanAccuracy, PairedDifference, SamplingAccuracy, ScoreTable
from stages.figures.gallery import Figure, Gallery, write_gallery
from stages.finetuning.artifacts import Classifiers
from stages.finetuning.selection import SELECTION_FILE, Selection
from stages.models.artifacts import HISTORY_FILE, Encoder, TrainingHistory
from stages.percepts.artifacts import Percepts
from stages.percepts.shards import LEDGER_FILE
from stages.video.artifacts import INDEX_NAME, Corpus, Index
from stages.video.ledger import VideoRecord, write_records

SINGLE, SCRATCH, PRETRAINED = "single frame", "LSTM from scratch", "LSTM pretrained"
CLASSES = ("right", "left", "down", "up", "clockwise", "anticlockwise", "grow", "shrink")
MEANS = {SINGLE: (0.15, 0.18, 0.23, 0.26), SCRATCH: (0.21, 0.29, 0.45, 0.61), PRETRAINED: (0.27, 0.41, 0.56, 0.70)}
LABELS = (1, 2, 5, 10)
NUM_SAMPLINGS = 12
NUM_CLIPS = 240

Facts = dict[str, int | float | str]


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and 95% t interval, by SciPy."""
    mean = float(values.mean())
    low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=stats.sem(values))
    return mean, float(low), float(high)


def scores(means: dict[str, tuple[float, ...]] = MEANS, class_names: tuple[str, ...] = CLASSES) -> ScoreTable:
    """Makes a table whose intervals follow from its samplings."""
    rng = np.random.default_rng(7)
    accuracy = {
        (model, n): np.round((mean + rng.normal(0, 0.03, NUM_SAMPLINGS)) * NUM_CLIPS) / NUM_CLIPS
        for model, row in means.items()
        for n, mean in zip(LABELS, row, strict=True)
    }
    samplings = [
        SamplingAccuracy(model=model, labels_per_class=n, sampling=i, accuracy=float(value))
        for (model, n), values in accuracy.items()
        for i, value in enumerate(values)
    ]
    summary, paired = [], []
    for (model, n), values in accuracy.items():
        mean, low, high = interval(values)
        summary.append(
            MeanAccuracy(model=model, labels_per_class=n, mean=mean, low=low, high=high, num_samplings=NUM_SAMPLINGS)
        )
    for worse, better in itertools.pairwise(means):
        for n in LABELS:
            difference, low, high = interval(accuracy[better, n] - accuracy[worse, n])
            paired.append(
                PairedDifference(
                    worse=worse, better=better, labels_per_class=n, difference=difference, low=low, high=high,
                    num_samplings=NUM_SAMPLINGS,
                )
            )  # fmt: skip
    return ScoreTable(
        class_names=class_names,
        num_test_clips=NUM_CLIPS,
        chance=1 / len(class_names),
        cells=tuple(accuracy),
        samplings=tuple(samplings),
        summary=tuple(summary),
        paired=tuple(paired),
        confusion={model: _confusion(row[-1], rng) for model, row in means.items()},
    )


def without_intervals(table: ScoreTable) -> ScoreTable:
    """Makes a table of one sampling, which bounds nothing."""
    single = {"low": -math.inf, "high": math.inf, "num_samplings": 1}
    return replace(
        table,
        summary=tuple(replace(row, **single) for row in table.summary),
        paired=tuple(replace(row, **single) for row in table.paired),
    )


def _confusion(accuracy: float, rng: np.random.Generator) -> tuple[tuple[int, ...], ...]:
    """Half of the errors go to the class that is this one reversed."""
    matrix = np.full((8, 8), (1 - accuracy) / 2 / 6)
    for i in range(8):
        matrix[i, i] = accuracy
        matrix[i, i ^ 1] = (1 - accuracy) / 2
    return tuple(
        tuple(int(n) for n in rng.multinomial(NUM_CLIPS // 8 * NUM_SAMPLINGS, row / row.sum())) for row in matrix
    )


def history() -> TrainingHistory:
    """Makes losses of 400 steps."""
    rng = np.random.default_rng(3)

    def point(step: int, noise: float) -> dict[str, float | None]:
        reconstruct = 260 + 700 * np.exp(-step / 90) + rng.normal(0, noise)
        predict = 330 + 620 * np.exp(-step / 110) + rng.normal(0, noise)
        losses = {"reconstruct_loss": float(reconstruct), "predict_loss": float(predict)}
        return {"step": step, "loss": float(reconstruct + predict), **losses}

    extra = {"learning_rate": 1e-3, "gradient_norm": 2.0}
    return TrainingHistory(
        train=tuple({**point(step, 22), **extra} for step in range(1, 401)),
        validation=tuple(point(step, 3) for step in range(40, 401, 40)),
        num_steps=400,
        kept_step=400,
    )


def forecast(error: float = 210.0) -> ForecastErrors:
    """Makes a forecast whose composite begins at `error` and gets worse."""
    ahead = range(1, 9)
    predictors = {
        "composite LSTM": tuple(error + 12.0 * k for k in ahead),
        "copy last frame": tuple(190 + 38.0 * k for k in ahead),
        "mean frame": tuple(402.0 for _ in ahead),
    }
    means = {name: float(np.mean(errors)) for name, errors in predictors.items()}
    ratios = {name: means["composite LSTM"] / means[name] for name in BASELINES}
    return ForecastErrors(
        unit="squared error per frame, standardised percepts",
        num_windows=1280,
        num_dims=640,
        frames_ahead=tuple(ahead),
        predictors=predictors,
        means=means,
        reconstruction={"composite LSTM": 171.5, "mean frame": 401.2},
        num_videos=64,
        num_groups=64,
        ratios=tuple(
            ErrorRatio(model="composite LSTM", baseline=name, ratio=ratio, low=0.98 * ratio, high=1.02 * ratio)
            for name, ratio in ratios.items()
        ),
    )


def pixel_scores(protocol: str = "open loop", unit: str = "nats/frame") -> PixelScoreTable:
    """Makes a table with one model that was not measured."""
    composite = PixelScoreRow(
        model="composite", cross_entropy=331.4, mse=121.7, ssim=0.671, seconds=540.0, num_sequences_seen=512_000
    )
    composite = replace(composite, cross_entropy_low=330.0, cross_entropy_high=332.8)
    copied = PixelScoreRow(model="copy last frame", cross_entropy=1203.5, mse=240.1, ssim=0.61)
    copied = replace(copied, cross_entropy_low=1197.0, cross_entropy_high=1210.0)
    return PixelScoreTable(
        protocol=protocol, unit=unit, rows=(composite, PixelScoreRow(model="future predictor")), baselines=(copied,)
    )


def records(num_ok: int = 60) -> list[VideoRecord]:
    """Makes a ledger with whole, partial and rejected videos."""
    whole = [_video(f"/videos/clip_{i:03d}.mp4", 32, 32) for i in range(num_ok)]
    return [
        *whole,
        _video(
            "/videos/half.mp4", 300, 121, verdict="partial", reason="damaged after 4.84 s: 179 frames do not decode"
        ),
        _video("/videos/song.mp4", 0, 0, verdict="rejected", reason="holds no video stream"),
    ]


def _video(uri: str, expected: int, decoded: int, verdict: Any = "ok", reason: str = "") -> VideoRecord:
    return VideoRecord(
        uri=uri, sha256="ab" * 32, size_bytes=9000, codec="h264", width=112, height=112, fps=25.0,
        frames_expected=expected, frames_decoded=decoded, frames_dropped=0, frames_missing=expected - decoded,
        verdict=verdict, reason=reason,
    )  # fmt: skip


def picture(width: int = 660, height: int = 112, kind: str = "png") -> bytes:
    """Stripes of noise."""
    pixels = np.random.default_rng(1).integers(0, 255, (height // 8, width // 8), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(buffer, format=kind)
    return buffer.getvalue()


Content = (
    ScoreTable
    | TrainingHistory
    | ForecastErrors
    | PixelScoreTable
    | DuplicateReport
    | Selection
    | list[Figure]
    | list[VideoRecord]
    | None
)


def write(content: Content, uri: str, kind: type[Artifact] | None) -> Artifact:
    """Writes what a stage would have written, by the artifact's class: that of the content unless `kind` says."""
    if isinstance(content, ScoreTable):
        scores = Scores(uri)
        scores.write(content)
        return scores
    if isinstance(content, ForecastErrors):
        forecast = Forecast(uri)
        forecast.write(content)
        return forecast
    if isinstance(content, PixelScoreTable):
        pixels = PixelScores(uri)
        pixels.write(content)
        return pixels
    if isinstance(content, DuplicateReport):
        duplicates = NearDuplicates(uri)
        duplicates.write(content)
        return duplicates
    if isinstance(content, TrainingHistory):
        content.write(Encoder(uri).path(HISTORY_FILE))
        return Encoder(uri)
    if isinstance(content, Selection):
        content.write(Classifiers(uri).path(SELECTION_FILE))
        return Classifiers(uri)
    if content and isinstance(content[0], Figure):
        write_gallery(uri, content)
        return Gallery(uri)
    if content is not None:
        name = INDEX_NAME if kind is Index else LEDGER_FILE
        write_records(f"{uri}/{name}", content)
        return Index(uri) if kind is Index else Percepts(uri)
    return (kind or Artifact)(uri)


class FakeRun:
    """Add nodes, then take the `view`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.nodes: list[NodeView] = []

    def add(
        self, name: str, content: Content = None, *, kind: type[Artifact] | None = None, parents: tuple[str, ...] = (),
        stage: str = "", made: bool = True, seconds: float = 12.5, facts: Facts | None = None,
        config: dict[str, Any] | None = None,
    ) -> Path:  # fmt: skip
        """Adds a node whose artifact holds `content`, written as its class writes it. A list of records is a ledger,
        with kind=Index an index."""
        directory = self.root / name
        directory.mkdir(parents=True)
        artifact = write(content, str(directory), kind)
        sizes = [path.stat().st_size for path in directory.iterdir()]
        self.nodes.append(
            NodeView(
                name=name, stage=stage or name, key=f"{name}-0123456789abcdef", state="made" if made else "have",
                reason="never made" if made else "complete", artifact=artifact, seconds=seconds,
                num_bytes=sum(sizes), num_files=len(sizes), facts=facts or {}, mlflow_run_id=f"run-of-{name}",
                config=config or {}, parents=parents,
            )
        )  # fmt: skip
        return directory

    @property
    def view(self) -> RunView:
        return RunView(
            recipe="demo", title="From video files to a comparison table", command="python pipeline/run.py demo",
            started_at="2026-03-01T10:00:00+00:00", seconds=245.0, commit="0123456789abcdef", dirty=False,
            store_uri="/data/store", tracking_uri="sqlite:////data/store/mlflow.db", nodes=tuple(self.nodes),
        )  # fmt: skip


def demo(root: Path) -> FakeRun:
    """A run of the main recipe with every kind of result."""
    run = FakeRun(root)
    facts: Facts = {
        "num_frames": 2041,
        "num_frames_extracted": 2041,
        "dim": 640,
        "num_bytes": 2_612_480,
        "bytes_per_frame": 1280.0,
        "frames_per_s": 92.4,
        "num_workers": 2,
    }
    run.add("synthesize", kind=Corpus, made=False, seconds=31.0, config={"num_unlabelled": 480, "codec": "libx264"})
    run.add("ingest", records(), kind=Index, parents=("synthesize",), made=False, seconds=4.2)
    run.add("extract", records(), parents=("ingest",), made=False, seconds=97.0, facts=facts)
    run.add("standardize", parents=("extract",), seconds=1.1)
    run.add("pretrain", history(), parents=("extract", "standardize"), seconds=61.0)
    finetuned = ("finetune-frame", "finetune-scratch", "finetune-pretrained")
    for name in finetuned:
        encoder = ("pretrain",) if name == "finetune-pretrained" else ()
        nothing_chosen = Selection(arm=name, choices=())
        run.add(name, nothing_chosen, stage="finetune", parents=("extract", "standardize", *encoder), seconds=14.0)
    run.add("evaluate", scores(), parents=(*finetuned, "extract", "standardize"), seconds=6.0)
    run.add("forecast", forecast(), parents=("pretrain", "extract", "standardize"), seconds=5.0)
    strip = Figure("strip.png", "Input, reconstruction, prediction", "Rows: truth, output.", picture())
    clip = Figure("clip.gif", "A clip", "Moves right.", picture(160, 160, "gif"))
    run.add("visualize", [strip, clip], parents=("pretrain", "extract", "standardize"), seconds=3.0)
    return run


def terminal(view: RunView, width: int = 100) -> str:
    """What a run's end prints."""
    stream = io.StringIO()
    print_results(read_results(view), Console(file=stream, width=width, color_system=None))
    return stream.getvalue()
