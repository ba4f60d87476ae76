"""A check, before anything is decoded, that the videos of an index are as long as the windows to learn from."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from pipeline.core.errors import SourceError
from stages.extract import ExtractConfig
from stages.finetune import FinetuneConfig
from stages.models.config import CompositeConfig
from stages.pretrain import PretrainConfig
from stages.video.artifacts import Index
from stages.video.ledger import VideoRecord


@dataclass(frozen=True, kw_only=True)
class WindowCheck:
    """The windows that a recipe needs of the videos of an index."""

    num_frames: int
    """Frames of a window to learn from."""
    rate_fps: float | None
    """Frames per second that are extracted; None: all."""
    learned: Collection[str] | None = None
    """Parts of the videos that are learned from; None: every part is, the official splits deal them later, say."""
    remedy: str = "give fewer num_frames_in or num_frames_out"
    """The change by which a window becomes shorter."""
    of_short: str = "nothing is learned from them"
    """The fate of videos that are shorter than a window."""
    num_frames_scored: int = 0
    """Frames of a window that is scored."""
    scored: Collection[str] = ()
    """Parts of the videos that are scored."""
    must_score: bool = False
    """True where videos too short to score end the run: the frames ahead are then a setting that does not fit them."""

    @classmethod
    def to_pretrain(
        cls, models: Iterable[CompositeConfig], pretrain: PretrainConfig, extract: ExtractConfig
    ) -> WindowCheck:
        """Returns the check of videos from which models are pretrained; none of them is scored."""
        num_frames = max(model.num_frames for model in models)
        return cls(num_frames=num_frames, rate_fps=extract.decode.rate_fps, learned=pretrain.parts)

    @classmethod
    def to_classify(cls, arms: Iterable[FinetuneConfig], extract: ExtractConfig) -> WindowCheck:
        """Returns the check of labelled clips, which may be shorter than what a classifier reads."""
        return cls(
            num_frames=max(arm.num_frames for arm in arms),
            rate_fps=extract.decode.rate_fps,
            remedy="give fewer num_frames",
            of_short="their last frame is repeated",
        )

    def __call__(self, index: Index) -> Iterator[str]:
        """Yields a sentence for each kind of video that is too short for a window.

        Raises:
            SourceError: no usable video is of the parts that are learned from, or none is as long as a window to learn
            from, or to score where `must_score`.
        """
        usable: list[VideoRecord] = []
        rejected: VideoRecord | None = None
        for record in index.iter_records():
            if record.verdict != "rejected":
                usable.append(record)
            else:
                rejected = rejected or record
        to_learn = [
            self._most_frames(record) for record in usable if self.learned is None or record.part in self.learned
        ]
        rate = f" at {self.rate_fps:g} frames/s" if self.rate_fps else ""
        if not usable:
            first = f"{rejected.uri}: {rejected.reason}" if rejected else "the index is empty"
            raise SourceError(f"no video can be used: {first}; percepts ledger --why names the reason of each")
        parts = ", ".join(sorted({str(record.part) for record in usable}))
        if self.learned is not None and not to_learn:
            raise SourceError(
                f"no usable video is of part {' or '.join(sorted(self.learned))}, which is learned from; parts here: "
                f"{parts}; leave the column part (or split) out of the list, or name the part in --pretrain.parts"
            )
        num_short = sum(frames < self.num_frames for frames in to_learn)
        if num_short == len(to_learn):
            raise SourceError(
                f"a window is {self.num_frames} frames long, and the longest of {len(to_learn)} videos "
                f"has at most {max(to_learn)}{rate}: {self.remedy}, or longer videos"
            )
        if num_short:
            window = f"a window of {self.num_frames} frames{rate}"
            yield f"{num_short} of {len(to_learn)} videos are shorter than {window}; {self.of_short}"
        if self.scored and not any(record.part in self.scored for record in usable):
            scored = " or ".join(sorted(self.scored))
            yield f"no usable video is of part {scored}: nothing will be scored; parts: {parts}"
            return
        to_score = [self._most_frames(record) for record in usable if record.part in self.scored]
        if self.scored and all(frames < self.num_frames_scored for frames in to_score):
            window = f"a window of {self.num_frames_scored} frames{rate}"
            part = " or ".join(sorted(self.scored))
            if self.must_score:
                raise SourceError(
                    f"no video of part {part} is as long as {window}: give fewer forecast.num_frames_ahead"
                )
            yield f"no video of part {part} is as long as {window}: nothing will be scored"

    def _most_frames(self, record: VideoRecord) -> int:
        """Returns an upper bound of the frames that are extracted of a video."""
        if self.rate_fps is None or record.duration_us is None:
            return record.frames_expected
        return min(record.frames_expected, math.floor(record.duration_us / 1e6 * self.rate_fps) + 1)
