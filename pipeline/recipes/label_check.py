"""A check, before anything is decoded, that the labelled videos of an index can teach and test a classifier."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.core.errors import SourceError
from pipeline.core.printable import count_of
from pipeline.recipes.window_check import WindowCheck
from stages.datasets.labelled import ALL_CLIPS, labelled, refuse_leaks
from stages.video.artifacts import Index

NUM_NAMED = 5
"""The number of labels that a sentence names."""


@dataclass(frozen=True, kw_only=True)
class LabelCheck:
    """The labelled videos that a recipe needs, and the windows that it needs of them."""

    windows: WindowCheck
    labels_per_class: Sequence[int]
    learned: Sequence[str] = ("train",)
    """Parts whose labels are learned from."""

    def __call__(self, index: Index) -> Iterator[str]:
        """Yields sentences on labels that are not tested, not used, or too rare.

        Raises:
            SourceError: fewer than two labels have a video to learn from, a label is tested that none is learned from,
                nothing is tested, a video has two labels, or one or its group is on two sides; or as `WindowCheck`.
        """
        records = [record for record in index.iter_records() if record.label is not None]
        parts = sorted({str(record.part) for record in records if record.verdict != "rejected"})
        numbers = {part: Counter(str(clip.label) for clip in labelled(records, part)) for part in parts}
        test = numbers.pop("test", Counter[str]())
        train = sum((numbers.pop(part, Counter[str]()) for part in self.learned), Counter[str]())
        unused = ", ".join(f"{sum(labels.values())} of part {part}" for part, labels in numbers.items())
        if len(train) < 2:
            raise SourceError(
                f"a classifier needs videos of two labels to learn from, and these have {len(train)}"
                + (f" (videos with a label: {unused}): name train or no part" if unused else "")
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
            yield f"{count_of(len(untested), 'label')} not tested, as each has too few videos: {_named(untested)}"
        usable = set().union(train, test, *numbers.values())
        if unusable := sorted({str(record.label) for record in records} - usable):
            yield f"{count_of(len(unusable), 'label')} without a usable video: {_named(unusable)}"
        if unused:
            yield f"labels of these videos are not used: {unused}"
        most = max((count for count in self.labels_per_class if count != ALL_CLIPS), default=0)
        if scarce := sorted(label for label, num in train.items() if num < most):
            number = count_of(len(scarce), "label")
            yield f"{number} with fewer than {most} videos to learn from, which give all: {_named(scarce)}"
        yield from self.windows(index)


def _named(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - NUM_NAMED} more" if len(labels) > NUM_NAMED else ""
    return ", ".join(f"{label!r:.80}" for label in labels[:NUM_NAMED]) + more
