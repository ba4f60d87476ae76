"""embed: an embedding of every window of every video, or of every video, from its percepts and a pretrained encoder.

    embeddings = embed(EmbedConfig(), context, encoder=encoder, percepts=percepts)
    frame = embeddings.table().to_pandas()

An embedding is what `Pretrained.embed` gives of one video: the encoder's final h, then c, of each layer. Parts are
written one after the other, and a run that was interrupted goes on with those that are missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.files import join, list_files, remove, size_bytes
from pipeline.core.numbers import check_at_least
from pipeline.core.rates import EMBEDDED_FRAMES_PER_S, WORKER_START_S
from pipeline.core.stage import Context, Estimate, stage
from stages.models.artifacts import Encoder
from stages.percepts.artifacts import Percepts
from stages.serving.artifacts import EMBEDDINGS, Embeddings

if TYPE_CHECKING:  # torch takes seconds to import
    from stages.serving.embedding import Embedding, Part

PART_BYTES = 64_000_000
"""The approximate size of a file, unless a single video takes more."""
WINDOWS_A_VIDEO = 8
"""The number of windows that a row a video stands for, about, when files are cut."""
DECIDING = ("convnet", "decode", "opencv")
"""The settings of an extractor that decide the values of a percept; limits decide which videos have some."""


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """The rows of a table of embeddings."""

    per: Literal["window", "video"] = "window"
    """Unit of a row: each window of as many frames as the encoder reads, or each video, the mean over its windows."""
    window_stride: int | None = None
    """Frames from one window to the next; default: as many as a window has, so that windows follow one another."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "window_stride")


def _estimate(config: EmbedConfig, inputs: Mapping[str, Estimate]) -> Estimate:
    """Estimates seconds for windows that follow one another, read by an encoder of 256 units."""
    num_frames = inputs["percepts"].num_frames
    if num_frames is None:
        return Estimate()
    return Estimate(
        num_videos=inputs["percepts"].num_videos, seconds=WORKER_START_S + num_frames / EMBEDDED_FRAMES_PER_S
    )


@stage(version=1, estimate=_estimate)
def embed(config: EmbedConfig, context: Context, *, encoder: Encoder, percepts: Percepts) -> Embeddings:
    """Writes the embeddings. A video that is shorter than a window has none, and is counted.

    Raises:
        ConfigError: the encoder learned from pixels, or from percepts of another extractor.
        SourceError: no video is as long as a window.
    """
    from stages.models.pretrained import Pretrained
    from stages.percepts.windows import Windows
    from stages.serving.embedding import Embedding, make_parts

    pretrained = Pretrained.load(encoder.uri)
    model = pretrained.composite.config
    if pretrained.extractor is None:
        raise ConfigError("this model learned from pixels, not from percepts: give an encoder of percepts")
    learned, given = pretrained.extractor.settings, percepts.extractor().settings
    if differing := [name for name in DECIDING if learned.get(name) != given.get(name)]:
        raise ConfigError(
            f"the encoder learned from other percepts than these, which differ in {' and '.join(differing)}: extract "
            "the videos as the encoder's were"
        )
    length = model.num_frames_in
    windows = Windows(percepts.open(), length=length, stride=config.window_stride or length)
    if not len(windows):
        raise SourceError(f"no video has {length} frames without a gap, which a window of this encoder takes")
    num_values = 2 * model.num_layers * model.num_units
    rows_a_part = max(1, PART_BYTES // (4 * num_values))
    windows_a_part = rows_a_part if config.per == "window" else rows_a_part * WINDOWS_A_VIDEO
    parts = make_parts(join(context.uri, EMBEDDINGS), windows, config.per, windows_a_part)
    work = Embedding(
        encoder=encoder,
        percepts=percepts,
        per=config.per,
        length=length,
        stride=windows.stride,
        device="cuda" if context.resources.gpus_per_worker else "cpu",
    )
    _write_all(work, parts, len(windows), context)
    num_videos = int((windows.num_per_video > 0).sum())
    num_short = len(windows.store.videos) - num_videos
    if num_short:
        context.record(left_out=f"{num_short:,} videos have no {length} frames without a gap, and no embedding")
    context.record(
        num_embeddings=len(windows) if config.per == "window" else num_videos,
        num_values=num_values,
        num_videos=num_videos,
        num_videos_too_short=num_short,
        num_bytes=sum(size_bytes(part.uri) for part in parts),
    )
    return Embeddings(context.uri, context.key)


def _write_all(work: Embedding, parts: Sequence[Part], num_windows: int, context: Context) -> None:
    """Writes the parts that are missing, and removes those of other windows, as after a takedown."""
    directory = join(context.uri, EMBEDDINGS)
    for name in {*list_files(directory)} - {part.uri.rpartition("/")[2] for part in parts}:
        remove(join(directory, name))
    results = context.workers.map(
        work,
        parts,
        num_workers=context.resources.num_workers,
        cpus_per_worker=context.resources.cpus_per_worker,
        gpus_per_worker=context.resources.gpus_per_worker,
        describe=lambda part: f"windows {part.first} to {part.end - 1}",
    )
    num_done = 0
    for position, _ in results:
        num_done += parts[position].end - parts[position].first
        context.progress(num_done, num_windows, "windows")
