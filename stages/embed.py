"""embed: an embedding of every window of every video, or of every video, from its percepts and a pretrained encoder.

    embeddings = embed(EmbedConfig(), context, encoder=encoder, percepts=percepts)
    frame = embeddings.table().to_pandas()

An embedding is what `Pretrained.embed` gives of one video: the encoder's final h, then c, of each layer. Parts are
written one after the other, and a run that was interrupted goes on with those that are missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.numbers import check_at_least
from pipeline.core.rates import EMBEDDED_FRAMES_PER_S, WORKER_START_S
from pipeline.core.stage import Context, Estimate, stage
from stages.extraction.config import check_alike
from stages.models.artifacts import Encoder
from stages.percepts.artifacts import Percepts
from stages.serving.artifacts import Embeddings
from stages.serving.parts import Per, cut_parts, write_parts


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """The rows of a table of embeddings."""

    per: Per = "window"
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


@stage(version=2, estimate=_estimate)
def embed(config: EmbedConfig, context: Context, *, encoder: Encoder, percepts: Percepts) -> Embeddings:
    """Writes the embeddings. A video that is shorter than a window has none, and is counted.

    Raises:
        ConfigError: the encoder learned from pixels, or from percepts of another extractor.
        SourceError: no video is as long as a window, or one was taken down meanwhile.
    """
    from stages.models.pretrained import Pretrained
    from stages.percepts.windows import Windows
    from stages.serving.embedding import Embedding

    pretrained = Pretrained.load(encoder.uri)
    model = pretrained.composite.config
    if pretrained.extractor is None:
        raise ConfigError("this model learned from pixels, not from percepts: give an encoder of percepts")
    check_alike(pretrained.extractor, percepts.extractor(), "encoder")
    length = model.num_frames_in
    windows = Windows(percepts.open(), length=length, stride=config.window_stride or length)
    if not len(windows):
        raise SourceError(f"no video has {length} frames without a gap, which a window of this encoder takes")
    num_values = 2 * model.num_layers * model.num_units
    embeddings = Embeddings(context.uri, context.key)
    parts = cut_parts(
        embeddings.directory, windows.store.videos, windows.num_per_video, per=config.per, row_bytes=4 * num_values
    )
    work = Embedding(
        encoder=encoder,
        percepts=percepts,
        per=config.per,
        length=length,
        stride=windows.stride,
        device="cuda" if context.resources.gpus_per_worker else "cpu",
    )
    num_bytes = write_parts(work, parts, embeddings.directory, context, videos=windows.store.videos)
    num_videos = int((windows.num_per_video > 0).sum())
    num_short = len(windows.store.videos) - num_videos
    if num_short:
        context.record(
            left_out=f"{num_short:,} of the videos, without {length} frames in a row, and so without an embedding"
        )
    context.record(
        num_rows=len(windows) if config.per == "window" else num_videos,
        num_values=num_values,
        num_videos=num_videos,
        num_videos_too_short=num_short,
        num_bytes=num_bytes,
    )
    return embeddings
