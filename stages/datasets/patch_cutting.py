"""Cuts patches out of one video while it is decoded: no more than the patches themselves is ever kept.

Where patches lie is a pure function of (seed, sha256 of the video); the decoder's chunks, other videos and the number
of workers change nothing.

Shapes: K patches, T frames, P = 32 pixels, C = 3 channels; N frames of a chunk of H x W pixels.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from pipeline.core.arrays import map_array, write_array
from pipeline.core.errors import CorruptArtifact
from pipeline.core.files import exists, join
from stages.datasets.patches import NUM_CHANNELS, PATCH_PX, PIECES, CuttingConfig, Patch
from stages.video.chunks import FrameChunk
from stages.video.decode import DecodeConfig, VideoDecoder
from stages.video.fetch import unreadable_reason
from stages.video.ledger import VideoRecord
from stages.video.processes import watchdog
from stages.video.processes.isolated_process import IsolatedProcess, ProcessDied
from stages.video.sources import local_video


@dataclass(frozen=True)
class Places:
    """Places of the patches of a video, in time and space."""

    start_K: npt.NDArray[np.int64]
    """Number of the first frame."""
    corner_K2: npt.NDArray[np.float64]
    """Upper left corner, as a share (0..1) of the room that there is."""


def places(config: CuttingConfig, record: VideoRecord) -> Places:
    """Draws K places uniformly; none where the video promises fewer frames than a patch has."""
    room = record.frames_expected - config.num_frames + 1
    if room < 1:
        return Places(np.empty(0, np.int64), np.empty((0, 2)))
    philox = np.random.Philox(key=[config.seed, int(record.sha256[:16], 16)])
    draw_K3 = np.random.Generator(philox).random((config.patches_per_video, 3))
    return Places((draw_K3[:, 0] * room).astype(np.int64), draw_K3[:, 1:])


@dataclass(frozen=True)
class Task:
    """A video to cut."""

    record: VideoRecord
    isolated: bool = False
    """Decode in an isolated process: a worker died on it."""

    def __str__(self) -> str:
        return self.record.uri


@dataclass(frozen=True)
class Piece:
    """The result of cutting one video."""

    num_patches: int
    reason: str = ""
    """The reason for having no patches, where the video cannot be read or kills the process that decodes it."""


def cutter(config: CuttingConfig, uri: str, may_end: bool = False) -> Callable[[Task], Piece]:
    """Returns a worker's function, which writes the patches of a video to a file.

    uri: directory of the artifact. may_end: the worker is a process that may be ended where a video hangs in it, and is
    replaced then.
    """
    if may_end:
        watchdog.arm(config.limits.max_stall_s, config.limits.max_memory_bytes)
    return partial(_cut, config, uri)


def _cut(config: CuttingConfig, uri: str, task: Task) -> Piece:
    target, reason = piece_uri(uri, task.record), ""
    if exists(target):
        with suppress(CorruptArtifact):  # left half-written by a killed run: cut it again
            return Piece(len(map_array(target)))
    try:
        if task.isolated:
            with IsolatedProcess(config.limits) as process:
                patches = process.call(_cut_file, config, task.record)
        else:
            patches = _cut_file(config, task.record)
    except (ProcessDied, OSError) as error:
        reason = unreadable_reason(error, task.record.uri) if isinstance(error, OSError) else str(error)
        patches = np.empty((0, config.num_frames, PATCH_PX, PATCH_PX, NUM_CHANNELS), np.uint8)
    write_array(target, patches)
    return Piece(len(patches), reason)


def _cut_file(config: CuttingConfig, record: VideoRecord) -> Patch:
    with local_video(record.uri, max_bytes=config.limits.max_bytes) as path:
        decode = DecodeConfig(short_side_px=config.short_side_px, crop_px=None)
        return cut_video(VideoDecoder(path, decode, limits=config.limits), config, record)


def piece_uri(uri: str, record: VideoRecord) -> str:
    """Returns the URI of a video's patches before all patches are put together."""
    return join(uri, PIECES, f"{record.sha256}.npy")


def cut_video(decoder: VideoDecoder, config: CuttingConfig, record: VideoRecord) -> Patch:
    """Cuts the patches of a video, (K', T, 32, 32, 3) uint8, K' <= K.

    Left out are patches that would cross a gap or the video's end, and all patches of a video that the decoder rejects
    or that is smaller than a patch.
    """
    where = places(config, record)
    patches = np.zeros((len(where.start_K), config.num_frames, PATCH_PX, PATCH_PX, NUM_CHANNELS), np.uint8)
    num_seen = np.zeros(len(patches), np.int64)
    first_segment = np.full(len(patches), -1, np.int64)
    for chunk in decoder:
        if min(chunk.frames_NHWC.shape[1:3]) >= PATCH_PX:
            _cut_chunk(chunk, where, patches, num_seen, first_segment)
    if decoder.report.verdict == "rejected":
        return patches[:0]
    return np.asarray(patches[num_seen == config.num_frames])


def _cut_chunk(
    chunk: FrameChunk,
    where: Places,
    patches: Patch,
    num_seen: npt.NDArray[np.int64],
    first_segment: npt.NDArray[np.int64],
) -> None:
    """Copies what the chunk holds of each patch, and counts its frames; those of a second segment do not count."""
    num_frames = patches.shape[1]
    height, width = chunk.frames_NHWC.shape[1:3]
    corner_K2 = (where.corner_K2 * [height - PATCH_PX + 1, width - PATCH_PX + 1]).astype(np.int64)
    for k, start in enumerate(where.start_K):
        t_N = chunk.index_N - start
        inside = np.flatnonzero((t_N >= 0) & (t_N < num_frames))
        if not len(inside):
            continue
        if first_segment[k] < 0:
            first_segment[k] = chunk.segment_N[inside[0]]
        inside = inside[chunk.segment_N[inside] == first_segment[k]]
        top, left = corner_K2[k]
        patches[k, t_N[inside]] = chunk.frames_NHWC[inside, top : top + PATCH_PX, left : left + PATCH_PX]
        num_seen[k] += len(inside)
