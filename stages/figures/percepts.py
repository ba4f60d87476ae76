"""Figures of a model of percepts: its reconstructions and predictions as pictures.

The outputs of such a model are percepts. A ridge regression from the true percepts of other videos to small pictures of
their frames (`readout`) turns them into pictures; its pictures of the true percepts are the best that is possible.

Shapes: T frames, B sequences (here 1), D percept dimension, N frames to fit on, P values of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch

from pipeline.core.disk_list import DiskList
from pipeline.core.errors import SourceError
from stages.downloading.link_results import is_deleted_clip
from stages.figures.canvas import Row, Scene, animation, gif, png, strip
from stages.figures.gallery import Figure
from stages.figures.readout import Readout, fit_readout
from stages.figures.thumbnails import Pictures, one_a_label, spread, thumbnails, to_pictures, to_unit
from stages.models.composite import Composite
from stages.percepts.artifacts import Percepts
from stages.percepts.reader import PerceptStore
from stages.percepts.transforms import Transform
from stages.percepts.windows import Windows
from stages.video.ledger import VideoRecord

Floats = npt.NDArray[np.float32]

HELD_OUT = 0.2
"""The share of the read-out's videos that choose its penalty and are not fitted on."""


class ChosenVideos(Sequence[VideoRecord]):
    """Some of many videos, by their numbers: each is read from the disk when it is used."""

    def __init__(self, records: DiskList[VideoRecord], number_N: npt.NDArray[np.int64]) -> None:
        self._records = records
        self.number_N = number_N

    def only(self, is_chosen_N: npt.NDArray[np.bool_]) -> ChosenVideos:
        """Returns those of these videos that are chosen."""
        return ChosenVideos(self._records, self.number_N[is_chosen_N])

    def __len__(self) -> int:
        return len(self.number_N)

    @overload
    def __getitem__(self, number: int) -> VideoRecord: ...
    @overload
    def __getitem__(self, number: slice) -> ChosenVideos: ...
    def __getitem__(self, number: int | slice) -> Any:
        if isinstance(number, slice):
            return ChosenVideos(self._records, self.number_N[number])
        return self._records[int(self.number_N[number])]


@dataclass(frozen=True)
class PerceptView:
    """Percepts to look at: the store and the records of its videos, the model's transform, the side of pictures."""

    store: PerceptStore
    records: DiskList[VideoRecord]
    """The records of the store's videos, in their order; they are read from the disk."""
    transform: Transform
    side_px: int
    unseen: list[str] = field(default_factory=list)
    """Reasons of the videos that no picture could be taken of."""
    deleted: list[str] = field(default_factory=list)
    """The clips of downloads that were deleted, of which none can be taken, either."""

    @classmethod
    def of(cls, percepts: Percepts, transform: Transform, side_px: int) -> PerceptView:
        """Opens all videos of the artifact that have percepts."""
        store, usable = percepts.open(), (one for one in percepts.iter_records() if one.verdict != "rejected")
        waiting = set(store.videos)
        records = DiskList[VideoRecord]()
        for record in usable:
            if record.sha256 in waiting:
                waiting.remove(record.sha256)
                records.append(record)
        return cls(store, records, transform, side_px)

    def pictures(self, record: VideoRecord, frames: Sequence[int]) -> Pictures | None:
        """Returns small pictures of frames of a video; None where it can no longer be read.

        Such a one is in `unseen` or `deleted` then.
        """
        try:
            return thumbnails(record, self.store.extractor, frames, self.side_px)
        except SourceError as error:
            if is_deleted_clip(record.uri):
                self.deleted.append(record.uri)
            else:
                self.unseen.append(str(error))
            return None

    def videos(self, part: str | None) -> ChosenVideos:
        """Returns the videos of a part (None: all), in the order of the index. Raises SourceError if there are none."""
        parts = [record.part for record in self.records]
        chosen = [n for n, each in enumerate(parts) if part is None or each == part]
        if not chosen:
            raise SourceError(
                f"no video with percepts is of part {part!r}; parts here: {', '.join(sorted(map(str, {*parts})))}"
            )
        return ChosenVideos(self.records, np.array(chosen))

    def standard(self, percepts: npt.NDArray[np.float16]) -> Floats:
        """Transforms percepts (..., D) into what the model reads, float32."""
        result: Floats = self.transform(torch.from_numpy(np.array(percepts))).numpy()
        return result


def fit_view(view: PerceptView, videos: Sequence[VideoRecord], *, num_videos: int, frames_per_video: int) -> Readout:
    """Fits a read-out on some frames of some of `videos`, evenly spread; a fifth of these only choose the penalty.

    Videos that can no longer be read are left out.

    Raises:
        SourceError: there are fewer than 2 videos.
    """
    chosen = [videos[n] for n in spread(len(videos), num_videos)]
    if len(chosen) < 2:
        raise SourceError(f"reading pictures out of percepts needs at least 2 videos to fit on; got {len(chosen)}")
    percepts, pictures = [], []
    for record in chosen:
        numbers = view.store.rows(record.sha256).frame_N
        rows = spread(len(numbers), frames_per_video)
        seen = view.pictures(record, numbers[rows].tolist())
        if seen is not None:
            percepts.append(view.standard(view.store.percepts(record.sha256)[rows]))
            pictures.append(to_unit(seen))
    if len(pictures) < 2:
        raise SourceError(f"only {len(pictures)} of {len(chosen)} videos to fit on can still be read")
    num_held_out = sum(map(len, pictures[-max(1, round(HELD_OUT * len(pictures))) :]))
    return fit_readout(np.concatenate(percepts), np.concatenate(pictures), num_held_out=num_held_out)


def percept_scene(view: PerceptView, model: Composite, readout: Readout, record: VideoRecord) -> Scene | None:
    """Returns rows of the true frames, of the true percepts and of the model's.

    None where the video is too short, or can no longer be read.
    """
    num_in = model.config.num_frames_in
    num_out = model.config.num_frames_out if model.config.predicts else 0
    windows = Windows(view.store.select([record.sha256]), length=num_in + num_out)
    if not len(windows):
        return None
    first = int(windows.locate(np.zeros(1, np.int64))[1][0])
    frames = view.store.rows(record.sha256).frame_N[first : first + num_in + num_out]
    truth = view.pictures(record, frames.tolist())
    if truth is None:
        return None
    x_TBD = view.standard(windows.gather_half(np.zeros(1, np.int64)).transpose(0, 1).numpy())
    model_row = readout(remembered_and_expected(model, x_TBD[:num_in], num_out))
    rows = (
        Row("truth", truth),
        Row("read out of true percepts", to_pictures(readout(x_TBD[:, 0]), view.side_px)),
        Row("model", to_pictures(model_row[:, 0], view.side_px), 0 if model.config.reconstructs else num_in),
    )
    return Scene(record.label or record.uri.rpartition("/")[2], rows)


def remembered_and_expected(model: Composite, x_TBD: Floats, num_out: int) -> Floats:
    """Returns the reconstruction in forward order and the predicted frames, or the one that the model makes."""
    with torch.no_grad():
        reconstruction, prediction = model.open_loop_means(torch.from_numpy(x_TBD), num_out)
    parts = [reconstruction.flip(0)] if reconstruction is not None else []
    result: Floats = torch.cat([*parts, prediction] if prediction is not None else parts).numpy()
    return result


def percept_figures(
    view: PerceptView, model: Composite, readout: Readout, shown: Sequence[VideoRecord], num_examples: int
) -> list[Figure]:
    """Draws a strip of sequences and their animation.

    Raises:
        SourceError: no video is long enough.
    """
    scenes: list[Scene] = []
    for record in one_a_label(shown):
        scene = percept_scene(view, model, readout, record)
        if scene is not None:
            scenes.append(scene)
        if len(scenes) == num_examples:
            break
    if not scenes:
        num_frames = model.config.num_frames_in + model.config.num_frames_out
        raise SourceError(f"no video to show has {num_frames} frames without a gap: give longer videos")
    num_seen = model.config.num_frames_in
    caption = (
        f"The model has seen the {num_seen} frames on the left and nothing else. There it shows what it remembers; "
        "under the orange numbers, what it expects. It works on percepts: a linear read-out, fitted on other videos, "
        f"turns them into pictures (it explains {100 * (1 - readout.error):.0f}% of the variance of pixels in videos "
        "that it was not fitted on). The middle row, read out of the true percepts, is the best that it could show."
    )
    moving = animation(scenes, num_seen=num_seen, seen_word="remembered", expected_word="predicted")
    return [
        Figure("strip.png", "Input, reconstruction and prediction", caption, png(strip(scenes, num_seen=num_seen))),
        Figure(
            "motion.gif",
            "The same in motion",
            "Orange frames: the model is on its own and predicts.",
            gif(moving),
        ),
    ]
