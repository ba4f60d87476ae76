"""Checks, before anything is decoded, that the videos of an index can be learned from.

`WindowCheck` compares their lengths with the windows of a training, `LabelCheck` those of labelled videos, too, and
says which labels can be taught and tested.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from unicodedata import normalize

from pipeline.core.errors import SourceError
from pipeline.core.printable import count_of, labels_in_words
from stages.datasets.labelled import ALL_CLIPS, labelled, refuse_leaks
from stages.extract import ExtractConfig
from stages.finetune import FinetuneConfig
from stages.models.config import CompositeConfig
from stages.percepts.takedowns import with_takedowns
from stages.pretrain import PretrainConfig
from stages.video.artifacts import Index
from stages.video.ledger import VideoRecord, rejections_in_words

NUM_NAMED = 5
"""The number of labels that a sentence names."""


def _records(index: Index) -> Iterator[VideoRecord]:
    return with_takedowns(index.store_uri, index.iter_records())


def usable_videos(index: Index) -> list[VideoRecord]:
    """Returns the videos of an index that are not rejected. Raises SourceError where all are, with the reasons."""
    usable = [record for record in _records(index) if record.verdict != "rejected"]
    if not usable:
        why = rejections_in_words(_records(index)) or "the index is empty"
        ledger = shlex.join(["percepts", "ledger", "--why", "--store", index.store_uri])
        raise SourceError(f"no video can be used: {why}; `{ledger}` names the reason of each")
    return usable


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
    videos: str = "videos"
    """The word for the videos."""
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
            videos="videos with a label",
        )

    def __call__(self, index: Index) -> Iterator[str]:
        """Yields a sentence for each kind of video that is too short for a window.

        Raises:
            SourceError: no video is usable or, of those of the parts that are learned from, as long as a window to
            learn from, or to score where `must_score`; or one to score, or its group, is learned from as well.
        """
        yield from self.of_videos(usable_videos(index))

    def of_videos(self, usable: Sequence[VideoRecord]) -> Iterator[str]:
        """Yields the sentences on these videos. Raises SourceError as a call does."""
        to_learn = [
            self._most_frames(record) for record in usable if self.learned is None or record.part in self.learned
        ]
        rate = f" at {self.rate_fps:g} frames/s" if self.rate_fps else ""
        parts = ", ".join(sorted({str(record.part) for record in usable}))
        if self.learned is not None and not to_learn:
            raise SourceError(
                f"no usable video is of part {' or '.join(sorted(self.learned))}, which is learned from; parts here: "
                f"{parts}; leave the column part (or split) out of the list, or name the part in --pretrain.parts"
            )
        used = [r for r in usable if self.learned is None or r.part in (*self.learned, *self.scored)]
        for part in self.scored:
            refuse_leaks(used, part)
        num_short = sum(frames < self.num_frames for frames in to_learn)
        if num_short == len(to_learn):
            raise SourceError(
                f"a window is {self.num_frames} frames long, and the longest of {len(to_learn)} {self.videos} "
                f"has at most {max(to_learn)}{rate}: {self.remedy}, or longer videos"
            )
        if num_short:
            window = f"a window of {self.num_frames} frames{rate}"
            yield f"warning: {num_short} of {len(to_learn)} {self.videos} are shorter than {window}; {self.of_short}"
        if self.scored and not any(record.part in self.scored for record in usable):
            scored = " or ".join(sorted(self.scored))
            yield f"warning: no usable video is of part {scored}: nothing will be scored; parts: {parts}"
            return
        to_score = [self._most_frames(record) for record in usable if record.part in self.scored]
        if self.scored and all(frames < self.num_frames_scored for frames in to_score):
            window = f"a window of {self.num_frames_scored} frames{rate}"
            part = " or ".join(sorted(self.scored))
            if self.must_score:
                raise SourceError(
                    f"no video of part {part} is as long as {window}: give fewer forecast.num_frames_ahead"
                )
            yield f"warning: no video of part {part} is as long as {window}: nothing will be scored"

    def _most_frames(self, record: VideoRecord) -> int:
        """Returns an upper bound of the frames that are extracted of a video."""
        if self.rate_fps is None or record.duration_us is None:
            return record.frames_expected
        return min(record.frames_expected, math.floor(record.duration_us / 1e6 * self.rate_fps) + 1)


@dataclass(frozen=True, kw_only=True)
class LabelCheck:
    """The labelled videos that a recipe needs, and the windows that it needs of them."""

    clips: WindowCheck
    """The windows of the labelled videos that are learned from."""
    windows: WindowCheck | None
    """The windows of all videos, from which an encoder is pretrained; None: it is there."""
    labels_per_class: Sequence[int]
    learned: Sequence[str] = ("train",)
    """Parts whose labels are learned from."""

    def __call__(self, index: Index) -> Iterator[str]:
        """Yields the labels with their numbers of videos, and sentences on those not tested, not used, or too rare.

        Raises:
            SourceError: fewer than two labels have a video to learn from, a label is tested that none is learned from,
                nothing is tested, a video has two labels, or one or its group is on two sides; or as `WindowCheck`.
        """
        usable = usable_videos(index)
        parts = sorted({str(record.part) for record in usable if record.label is not None})
        records = [record for record in _records(index) if record.label is not None]
        numbers = {part: Counter(str(clip.label) for clip in labelled(records, part)) for part in parts}
        unlabelled = {record.sha256 for record in usable} - {record.sha256 for record in records}
        yield labels_in_words(sum(numbers.values(), Counter[str]()), len(unlabelled))
        test = numbers.pop("test", Counter[str]())
        train = sum((numbers.pop(part, Counter[str]()) for part in self.learned), Counter[str]())
        unused = ", ".join(f"{sum(labels.values())} of part {part}" for part, labels in numbers.items())
        if len(train) < 2:
            rejected = rejections_in_words(records)
            raise SourceError(
                f"a classifier needs videos of two labels to learn from, and these have {len(train)}"
                + (f" (videos with a label: {unused}): name train or no part" if unused else "")
                + (f" (of those with a label, {rejected})" if rejected else "")
                + ": give a list with the columns uri,label, or --folder-labels where each label has a folder"
            )
        for part in (*self.learned, "test"):
            refuse_leaks(records, part)
        if not test:
            raise SourceError(
                "no labelled video is left to test on: give two or more of a label, or videos of part test, or a "
                "larger --held-out"
            )
        if unknown := sorted(set(test) - set(train)):
            raise SourceError(
                f"videos of part test have labels that no video of part train has: {_named(unknown)}; give some to "
                "learn from, or leave them out"
            )
        if untested := sorted(set(train) - set(test)):
            number = count_of(len(untested), "label")
            yield f"warning: {number} not tested, as each has too few videos: {_named(untested)}"
        alike: dict[str, list[str]] = {}
        for label in sorted(train):
            alike.setdefault(normalize("NFKC", label).casefold(), []).append(label)
        if several := [label for labels in alike.values() if len(labels) > 1 for label in labels]:
            named = f"{len(several)}: {_named(several)}"
            yield f"warning: labels that differ in case or Unicode form alone are taken for {named}"
        with_videos = set().union(train, test, *numbers.values())
        if unusable := sorted({str(record.label) for record in records} - with_videos):
            yield f"warning: {count_of(len(unusable), 'label')} without a usable video: {_named(unusable)}"
        if unused:
            yield f"warning: labels of these videos are not used: {unused}"
        most = max((count for count in self.labels_per_class if count != ALL_CLIPS), default=0)
        if scarce := sorted(label for label, num in train.items() if num < most):
            number = count_of(len(scarce), "label")
            yield f"warning: {number} with fewer than {most} videos to learn from, which give all: {_named(scarce)}"
        yield from self.clips.of_videos(
            [clip for clip in usable if clip.label is not None and clip.part in self.learned]
        )
        if self.windows is not None:
            yield from self.windows.of_videos(usable)


def _named(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - NUM_NAMED} more" if len(labels) > NUM_NAMED else ""
    return ", ".join(f"{label!r:.80}" for label in labels[:NUM_NAMED]) + more
