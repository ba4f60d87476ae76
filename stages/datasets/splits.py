"""The official splits of a data set as an artifact: the part of each clip, and the clips that are there.

data = ActionSetConfig(dataset="ucf101", lists="ucfTrainTestlist/")
splits = assign_splits(AssignSplitsConfig(data=data), context, index=index)
for number in splits.numbers():
    records = splits.assign(percepts.records(), number)   # part is "train", "validation" or "test"
    print(splits.coverage(number))                        # UCF-101 split 1: 9537/9537 train, 3783/3783 test
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Final, Literal

from pipeline.core.errors import ConfigError
from pipeline.core.files import write_json
from pipeline.core.records import read_record
from pipeline.core.stage import Artifact
from stages.datasets.official.clips import DataSet, OfficialClip, hold_out_sources, name_of
from stages.video.ledger import VideoRecord

SPLITS_FILE: Final = "splits.json"

Part = Literal["train", "validation", "test"]


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Counts of the clips of an official split; training clips include those held out for validation."""

    name: str
    """Name of the data set, such as UCF-101."""
    number: int
    """Number of the official split."""
    num_train: int
    num_official_train: int
    num_test: int
    num_official_test: int

    @property
    def fraction(self) -> float:
        """Share of the split's clips that are there, 0 to 1."""
        return (self.num_train + self.num_test) / (self.num_official_train + self.num_official_test)

    @property
    def is_whole(self) -> bool:
        """True if no clip is missing."""
        return self.fraction == 1

    @property
    def gap(self) -> str:
        """The reason why nothing can be evaluated in the split; empty where training and test clips are there.

        One of "training clips only", "test clips only" and "no clips".
        """
        if self.num_train and self.num_test:
            return ""
        return "training clips only" if self.num_train else "test clips only" if self.num_test else "no clips"

    def __str__(self) -> str:
        train = f"{self.num_train}/{self.num_official_train} train"
        line = f"{self.name} split {self.number}: {train}, {self.num_test}/{self.num_official_test} test"
        return f"{line}: {self.gap}, nothing can be judged" if self.gap else line


@dataclass(frozen=True, kw_only=True)
class AssignedClip:
    """A clip of the official lists and its part in each split; None: the split does not use it."""

    name: str
    label: str
    group: str
    parts: tuple[Part | None, ...]


@dataclass(frozen=True, kw_only=True)
class SplitCounts:
    """The clips that the official lists have in a split."""

    train: int
    test: int


@dataclass(frozen=True, kw_only=True)
class AssignedSplits:
    """The content of `splits.json`."""

    name: str
    counts: tuple[SplitCounts, ...]
    counts_in_index: tuple[dict[str, int], ...]
    """Part -> clips of the index, of each split; `found` in the file."""
    clips: tuple[AssignedClip, ...]

    def write(self, uri: str) -> None:
        """Writes the file, atomically."""
        content = asdict(self)
        write_json(uri, {"found": content.pop("counts_in_index"), **content})

    @classmethod
    def read(cls, uri: str) -> AssignedSplits:
        """Reads the file that `write` wrote. Raises as `pipeline.core.records.read_record`."""
        return read_record(uri, cls, prepare=lambda read: {"counts_in_index": read["found"], **read})


@dataclass(frozen=True)
class Splits(Artifact):
    """`splits.json`: every clip of the official lists with its part in each split, and counts of the index."""

    holds = "names"

    @cached_property
    def content(self) -> AssignedSplits:
        """The content of `splits.json`, read once: it holds 13,320 clips. Raises CorruptArtifact."""
        return AssignedSplits.read(self.path(SPLITS_FILE))

    def __getstate__(self) -> dict[str, Any]:
        """Returns what travels to workers: the content does not."""
        return {"uri": self.uri, "key": self.key}

    @property
    def name(self) -> str:
        """Name of the data set: "UCF-101" or "HMDB-51"."""
        return self.content.name

    def numbers(self) -> tuple[int, ...]:
        """Returns the numbers of the official splits: (1, 2, 3)."""
        return tuple(range(1, len(self.content.counts) + 1))

    def class_names(self) -> tuple[str, ...]:
        """Returns every class of the data set, also those of which no clip is there; sorted."""
        return tuple(sorted({clip.label for clip in self.content.clips}))

    def assign(self, records: Sequence[VideoRecord], number: int) -> list[VideoRecord]:
        """Returns the clips of split `number` among `records` (of the index, or of a ledger), in the lists' order.

        Their `label` is the class, their `group` what the split never divides, and their `part` "train", "validation"
        or "test". Left out are clips that the split does not use, and rejected ones. Content under several names counts
        once: as the test clip, if it is one; if its names are of several classes, not at all.

        Raises:
            ConfigError: there is no such split.
        """
        return _assign(self._with_split(number).clips, records, number)

    def named(self, records: Iterable[VideoRecord]) -> list[VideoRecord]:
        """Returns the records that the lists name, which are all that `assign`, `coverage` and `count` look at."""
        names = {clip.name.casefold() for clip in self.content.clips}
        return [record for record in records if name_of(record.uri) in names]

    def training_only(self, records: Sequence[VideoRecord], numbers: Sequence[int]) -> list[VideoRecord]:
        """Returns the clips that a split of `numbers` trains on and none of them tests, in the order of `records`.

        A clip counts as tested by its name and by its content. The `part` of every clip is "train".
        """
        assigned = [record for number in numbers for record in self.assign(records, number)]
        tested = {record.sha256 for record in assigned if record.part == "test"}
        trained = {record.uri: record for record in assigned if record.sha256 not in tested}
        return [replace(trained[record.uri], part="train") for record in records if record.uri in trained]

    def coverage(self, number: int, records: Sequence[VideoRecord] | None = None) -> Coverage:
        """Counts the clips of split `number`: those that the index had, or those among `records`.

        Raises:
            ConfigError: there is no such split.
        """
        content = self._with_split(number)
        if records is None:
            counts = Counter(content.counts_in_index[number - 1])
        else:
            counts = Counter(str(record.part) for record in _assign(content.clips, records, number))
        official = content.counts[number - 1]
        return Coverage(
            name=content.name,
            number=number,
            num_train=counts["train"] + counts["validation"],
            num_official_train=official.train,
            num_test=counts["test"],
            num_official_test=official.test,
        )

    def count(self, records: Sequence[VideoRecord]) -> tuple[int, int]:
        """Returns (usable clips of the data set among `records`, clips that the data set has)."""
        there = {name_of(record.uri) for record in records if record.verdict != "rejected"}
        clips = self.content.clips
        return sum(clip.name.casefold() in there for clip in clips), len(clips)

    def _with_split(self, number: int) -> AssignedSplits:
        content = self.content
        known = range(1, len(content.counts) + 1)
        if number not in known:
            named = ", ".join(map(str, known))
            raise ConfigError(f"there is no split {number} of {content.name}; its official splits are {named}")
        return content


def _assign(clips: Sequence[AssignedClip], records: Sequence[VideoRecord], number: int) -> list[VideoRecord]:
    by_name = {name_of(record.uri): record for record in records if record.verdict != "rejected"}
    assigned: list[VideoRecord] = []
    for clip in clips:
        record, part = by_name.get(clip.name.casefold()), clip.parts[number - 1]
        if record is not None and part is not None:
            assigned.append(replace(record, label=clip.label, group=clip.group, part=part))
    return _once(assigned)


def _once(records: Sequence[VideoRecord]) -> list[VideoRecord]:
    """Keeps one of records with the same bytes: the test clip, or else the first; none where their labels differ."""
    same: defaultdict[str, list[VideoRecord]] = defaultdict(list)
    for record in records:
        same[record.sha256].append(record)
    kept = {
        sha256: min(group, key=lambda record: record.part != "test").uri
        for sha256, group in same.items()
        if len({record.label for record in group}) == 1
    }
    return [record for record in records if kept.get(record.sha256) == record.uri]


def write_splits(
    uri: str,
    data: DataSet,
    clips: Sequence[OfficialClip],
    records: Sequence[VideoRecord],
    *,
    validation_fraction: float,
    seed: int,
) -> None:
    """Holds out validation clips of the training subsets, and writes `splits.json`; `records`: of the index."""
    held_out = [
        hold_out_sources(
            [clip for clip in clips if clip.subsets[number - 1] == "train"], fraction=validation_fraction, seed=seed
        )
        for number in data.numbers
    ]
    assigned = tuple(
        AssignedClip(name=clip.name, label=clip.label, group=clip.group, parts=_parts(clip, held_out)) for clip in clips
    )
    content = AssignedSplits(
        name=data.name,
        counts=tuple(SplitCounts(train=train, test=test) for train, test in data.counts),
        counts_in_index=tuple(_count_parts(_assign(assigned, records, number)) for number in data.numbers),
        clips=assigned,
    )
    content.write(f"{uri}/{SPLITS_FILE}")


def _count_parts(records: Sequence[VideoRecord]) -> dict[str, int]:
    return dict(Counter(str(record.part) for record in records))


def _parts(clip: OfficialClip, held_out: Sequence[frozenset[str]]) -> tuple[Part | None, ...]:
    pairs = zip(clip.subsets, held_out, strict=True)
    return tuple("validation" if clip.name in names else subset for subset, names in pairs)
