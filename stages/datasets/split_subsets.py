"""The subsets of a split: clips that a classifier may learn from, and clips that its settings may be selected on.

Without official splits, the parts of the videos' manifest are the one split there is, number 0. A split that divides a
group of videos is refused. What is learned from is the training part, and the validation part with it: settings are
chosen on validation clips by classifiers that have not seen them, and the classifiers that are judged then learn from
all training videos (section 4.2). No test clip is ever among these.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from pipeline.core.errors import ConfigError
from stages.datasets.labelled import labelled, refuse_leaks
from stages.datasets.official.clips import OfficialClip, hold_out_sources
from stages.datasets.splits import Splits
from stages.percepts.artifacts import Percepts
from stages.video.ledger import VideoRecord

MANIFEST_SPLIT: Final = 0
"""Number of the split that the videos' own manifest makes."""
VALIDATION: Final = "validation"
"""Part of the clips that settings are selected on."""


@dataclass(frozen=True)
class SplitSubsets:
    """The training and validation clips of one split; every list is sorted by sha256."""

    number: int
    fit: list[VideoRecord]
    """Training clips that are not held out."""
    validation: list[VideoRecord]
    """Held-out training clips, of groups of their own; empty where settings are not chosen here."""
    class_names: tuple[str, ...]
    """Classes to tell apart, sorted: of official splits all that the data set has."""

    @property
    def learn(self) -> list[VideoRecord]:
        """All training videos."""
        return sorted([*self.fit, *self.validation], key=lambda clip: clip.sha256)


def split_numbers(splits: Splits | None, numbers: Sequence[int]) -> tuple[int, ...]:
    """Returns the splits of `numbers`; for an empty `numbers` every official split, or the manifest's.

    Raises:
        ConfigError: numbers without official splits, or one that these do not have.
    """
    if splits is None:
        if numbers:
            raise ConfigError(f"splits is {tuple(numbers)}, but no official splits are connected; leave splits out")
        return (MANIFEST_SPLIT,)
    unknown = sorted(set(numbers) - set(splits.numbers()))
    if unknown:
        raise ConfigError(f"splits holds {unknown[0]}; the official splits are {', '.join(map(str, splits.numbers()))}")
    return tuple(dict.fromkeys(numbers)) or splits.numbers()


def clips_of(percepts: Percepts, splits: Splits | None) -> list[VideoRecord]:
    """Returns the records that a split may hold: those with a label, or those that the official lists name.

    The others, such as the videos that a pretraining learns from, are read and not kept.
    """
    if splits is not None:
        return splits.named(percepts.iter_records())
    return [record for record in percepts.iter_records() if record.label is not None]


def records_of(records: Sequence[VideoRecord], splits: Splits | None, number: int) -> list[VideoRecord]:
    """Returns the records of a ledger with the parts that a split gives them."""
    return list(records) if splits is None else splits.assign(records, number)


def split_subsets_of(
    records: Sequence[VideoRecord],
    splits: Splits | None,
    number: int,
    *,
    part: str,
    with_validation: bool,
    validation_fraction: float = 0.0,
    allow_none: bool = False,
) -> SplitSubsets:
    """Returns the clips of a split that a classifier may learn from.

    validation_fraction: share of each class's training clips to hold out, where no clip is of part VALIDATION and
        `with_validation` is true.

    Raises:
        SourceError: no labelled clips, or a group of videos in more than one part.
        ConfigError: `with_validation`, nothing is held out, and that is not allowed.
    """
    has_label = [record for record in records_of(records, splits, number) if record.label is not None]
    if with_validation and validation_fraction and all(record.part != VALIDATION for record in has_label):
        has_label = _hold_out(has_label, part, validation_fraction)
    learns_all = with_validation or splits is not None
    for subset in (part, VALIDATION) if learns_all else (part,):
        refuse_leaks(has_label, subset)
    has = {record.part for record in has_label if record.verdict != "rejected"}
    if with_validation and VALIDATION not in has and not allow_none:
        raise ConfigError(
            f"there are no clips of part {VALIDATION!r} to choose settings by (split {number}): hold some of the "
            "training videos out, or choose no settings here (leave selection out)"
        )
    # Of a part of a data set, all that is there to learn from may be among what was to be held out.
    only_held_out = allow_none and part not in has and VALIDATION in has
    fit = labelled(has_label, VALIDATION if only_held_out else part)
    validation = labelled(has_label, VALIDATION) if learns_all and VALIDATION in has and not only_held_out else []
    names = {str(clip.label) for clip in (*fit, *validation)} if splits is None else splits.class_names()
    return SplitSubsets(number, fit, validation, class_names=tuple(sorted(names)))


def _hold_out(records: Sequence[VideoRecord], part: str, fraction: float) -> list[VideoRecord]:
    """Returns the records, a share of each class of `part` moved to VALIDATION in whole groups."""
    clips = [
        OfficialClip(
            name=r.sha256, label=str(r.label), source=r.group or r.sha256, group=r.group or r.sha256, subsets=()
        )
        for r in labelled(records, part)
    ]
    out = hold_out_sources(clips, fraction=fraction, seed=0)
    return [replace(r, part=VALIDATION) if r.part == part and r.sha256 in out else r for r in records]
