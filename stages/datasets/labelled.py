"""Labelled clips of a ledger: which of them a classifier may learn from, and the windows of frames in each.

A sampling is a draw of k labelled clips a class. It is a pure function of (seed, sampling, the clips' sha256): each
clip gets a rank by hash, and the k clips of lowest rank are drawn. So every arm that is compared learns from the same
clips, the draw of 5 contains the draw of 2, and a clip that joins or leaves the ledger moves no other clip's rank.

Shapes: N clips, F frames (of a clip, or of all clips one after the other), T frames of a window, B batch, D percept
dimension.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import ConfigError, SourceError
from stages.datasets.arrow_of_time import ReversedClip, clip_identity
from stages.percepts.reader import PerceptStore
from stages.percepts.transforms import Transform
from stages.video.ledger import VideoRecord

if TYPE_CHECKING:  # torch takes seconds to import
    from torch import Tensor

Rows = npt.NDArray[np.int64]

ALL_CLIPS: Final = 0
"""The number of labelled clips a class that stands for all that there are."""


def count_text(labels_per_class: int) -> str:
    """Writes a label count for the name of a file: `010`, or `all`."""
    return "all" if labels_per_class == ALL_CLIPS else f"{labels_per_class:03d}"


def labelled(records: Iterable[VideoRecord], part: str) -> list[VideoRecord]:
    """Returns the usable clips of `part` that have a label, by sha256; a video that is listed twice counts once.

    Raises:
        SourceError: there are none, or one video has two labels.
    """
    clips: dict[str, VideoRecord] = {}
    for record in records:
        if record.part != part or record.label is None or record.verdict == "rejected":
            continue
        known = clips.setdefault(record.sha256, record)
        if known.label != record.label:
            raise SourceError(
                f"{known.uri} and {record.uri} are the same video, labelled {known.label!r} and {record.label!r}: "
                "correct the manifest"
            )
    if not clips:
        raise SourceError(
            f"the ledger has no usable labelled clip in part {part!r}: name a part of the videos' manifest"
        )
    return [clips[sha256] for sha256 in sorted(clips)]


def refuse_leaks(records: Iterable[VideoRecord], part: str) -> None:
    """Checks that no video of `part`, and no group with a video in it, is in another part of the split as well.

    Raises:
        SourceError: one is; the message names both videos and their group.
    """
    everything = list(records)
    inside = [record for record in everything if record.part == part]
    by_sha256 = {record.sha256: record for record in inside if record.sha256}
    by_group = {record.group: record for record in inside if record.group is not None}
    for record in everything:
        if record.part == part:
            continue
        twin = by_sha256.get(record.sha256) or (by_group.get(record.group) if record.group is not None else None)
        if twin is not None:
            what = "the same video" if twin.sha256 == record.sha256 else f"both of group {record.group!r}"
            raise SourceError(
                f"leak: {record.uri} (part {record.part!r}) and {twin.uri} (part {part!r}) are {what}; "
                "a group must lie on one side of a split: correct the videos' manifest"
            )


def draw(
    clips: Sequence[VideoRecord], *, labels_per_class: int, sampling: int, seed: int, allow_fewer: bool = False
) -> list[VideoRecord]:
    """Draws `labels_per_class` clips of every class: sampling number `sampling` (see the head of this file).

    Classes come in alphabetical order, a class's clips in the order of their ranks. ALL_CLIPS draws every clip;
    `allow_fewer` draws every clip of a class that has fewer.

    Raises:
        ConfigError: a class has fewer clips, and `allow_fewer` is false.
    """
    by_class: defaultdict[str, list[VideoRecord]] = defaultdict(list)
    for clip in clips:
        assert clip.label is not None
        by_class[clip.label].append(clip)
    scarce = Counter({label: len(members) for label, members in by_class.items() if len(members) < labels_per_class})
    if scarce and not allow_fewer:
        label, num_clips = scarce.most_common()[-1]
        raise ConfigError(
            f"labels_per_class is {labels_per_class}, but class {label!r} has {num_clips} labelled clips "
            f"({len(scarce)} of {len(by_class)} classes have too few): ask for at most {num_clips}"
        )
    drawn: list[VideoRecord] = []
    for label in sorted(by_class):
        ranked = sorted(by_class[label], key=lambda clip: _rank(clip.sha256, sampling, seed))
        drawn += ranked if labels_per_class == ALL_CLIPS else ranked[:labels_per_class]
    return drawn


def _rank(sha256: str, sampling: int, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {sampling} {sha256}".encode()).digest()


@dataclass(frozen=True)
class ClipWindows:
    """Clips as views of the store's files, and the first rows of their windows.

    Only the windows of a batch are in memory, so that memory does not grow with the number of clips. Rows are
    numbered through all clips; a window's T frames are rows start ... start + T - 1.
    """

    clips_FD: tuple[npt.NDArray[np.float16], ...]
    """Percepts of each clip: views of mapped files."""
    starts_N: tuple[Rows, ...]
    """For each clip, the first rows of its windows: at least one. None crosses a gap."""
    transform: Transform
    num_frames: int
    """T, the frames of a window."""
    num_padded: int = 0
    """Clips without T frames in a row: they have one window, their longest segment with its last frame repeated."""
    device: str = "cpu"
    """Device that windows are copied to."""

    @cached_property
    def first_rows(self) -> Rows:
        """Number of each clip's first row."""
        return np.cumsum([0, *(len(clip) for clip in self.clips_FD[:-1])], dtype=np.int64)

    def gather(self, starts: Rows) -> Tensor:
        """Gathers the standardised windows that begin at rows `starts` (..., B); returns (..., T, B, D)."""
        flat = starts.ravel()
        owners = np.searchsorted(self.first_rows, flat, side="right") - 1
        inside = flat - self.first_rows[owners]
        dim = self.clips_FD[0].shape[1]
        windows_NTD = np.empty((len(flat), self.num_frames, dim), np.float16)
        for window_TD, owner, first in zip(windows_NTD, owners.tolist(), inside.tolist(), strict=True):
            window_TD[:] = self.clips_FD[owner][first : first + self.num_frames]
        import torch

        x_XTD = self.transform(torch.from_numpy(windows_NTD).to(self.device))
        return x_XTD.view(*starts.shape, self.num_frames, dim).movedim(-2, -3)


@dataclass(frozen=True)
class ClipFinder:
    """Percepts of clips and first rows of their windows, looked up once a clip for all classifiers that use it."""

    store: PerceptStore
    _cache: dict[tuple[str, int, int], tuple[npt.NDArray[np.float16], Rows, bool]] = field(default_factory=dict)

    def find(self, clip: VideoRecord, *, num_frames: int, stride: int) -> tuple[npt.NDArray[np.float16], Rows, bool]:
        """Returns (F, D) percepts of the clip, first rows of its windows, and True if it was padded to have one.

        Raises:
            SourceError: the clip has no percepts.
        """
        from stages.percepts.windows import clip_rows

        key = (clip_identity(clip), num_frames, stride)
        if key not in self._cache:
            try:
                segment_F, percepts_FD = self.store.segment_of_rows(clip.sha256), self.store.percepts(clip.sha256)
            except KeyError:
                raise SourceError(f"{clip.uri} is in the ledger and has no percepts: extract again") from None
            if isinstance(clip, ReversedClip):
                segment_F, percepts_FD = segment_F[::-1], percepts_FD[::-1]
            rows_WT = clip_rows(segment_F, num_frames, stride)
            starts, is_padded = rows_WT[:, 0].copy(), bool(rows_WT[0, -1] < rows_WT[0, 0] + num_frames - 1)
            if is_padded:
                percepts_FD, starts = percepts_FD[rows_WT[0]], np.zeros(1, np.int64)
            self._cache[key] = (percepts_FD, starts, is_padded)
        return self._cache[key]


def load_windows(
    finder: ClipFinder,
    clips: Sequence[VideoRecord],
    transform: Transform,
    *,
    num_frames: int,
    stride: int,
    device: str = "cpu",
) -> ClipWindows:
    """Loads the clips' windows, which begin every `stride` frames of a segment.

    Raises:
        SourceError: a clip has no percepts.
    """
    pieces: list[npt.NDArray[np.float16]] = []
    starts: list[Rows] = []
    num_rows = num_padded = 0
    for clip in clips:
        percepts_FD, clip_starts, is_padded = finder.find(clip, num_frames=num_frames, stride=stride)
        num_padded += is_padded
        pieces.append(percepts_FD)
        starts.append(clip_starts + num_rows)
        num_rows += len(percepts_FD)
    return ClipWindows(tuple(pieces), tuple(starts), transform, num_frames, num_padded, device)
