"""HMDB-51: 6,766 clips, 51 classes, three official splits of 70 training and 30 test clips a class.

    clips = read_clips("testTrainMulti_7030_splits/")

`CLASS_test_splitN.txt` has a line such as `BIG_FISH_climb_stairs_f_nm_np1_fr_med_1.avi 1 ` for each clip of the class,
with a space at its end: 0 the split leaves the clip out, 1 training, 2 test. What comes before the class in a name is
the film or video that the clip was cut from; names hold `! # & ( ) + ; @ [ ] ~`. The official splits never divide the
clips of one source *and class*; about 140 of 1,400 sources have clips of one class in training and of another in test.

Kuehne, Jhuang, Garrote, Poggio and Serre: HMDB, ICCV 2011.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from pipeline.core.errors import SourceError
from stages.datasets.official.clips import DataSet, OfficialClip, Subset, check_official, list_files, numbered

INSTRUCTIONS: Final = """\
HMDB-51 is distributed at https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/:
    hmdb51_org.rar            about 2.1 GB    51 rars, one a class, of 6,766 clips: CLASS/NAME.avi
    test_train_splits.rar     about 0.2 MB    CLASS_test_split1.txt ... CLASS_test_split3.txt
Give both as they are, or unpacked with the rars inside (--videos hmdb51_org/ --lists testTrainMulti_7030_splits/), on
disk or in a bucket:
    percepts run hmdb51 --videos hmdb51_org.rar --lists test_train_splits.rar
With a part of the clips, add --allow-missing: every table then says how many of the 6,766 it stands on."""

HMDB51: Final = DataSet(
    key="hmdb51",
    name="HMDB-51",
    num_clips=6766,
    counts=((3570, 1530),) * 3,
    instructions=INSTRUCTIONS,
)
NUM_CLASSES: Final = 51
NUM_TRAIN_A_CLASS: Final = 70
NUM_TEST_A_CLASS: Final = 30

LIST = re.compile(r"(\w+)_test_split([123])\.txt")
LINE = re.compile(r"(?P<name>\S+)\.avi\s+(?P<flag>[012])")
NAME = r"(?P<source>.+)_{label}_(?:[fhltu]+)_(?:cm|nm)_np\d+_(?:ba|fr|le|ri)_(?:bad|goo|med)_\d+"
"""Source, class, visible body part, camera motion, people, viewpoint, quality, number (the data set's description)."""

SUBSETS: Final[dict[str, Subset | None]] = {"0": None, "1": "train", "2": "test"}
"""Flag of a line in a list file -> subset of the split."""


def read_clips(uri: str) -> tuple[OfficialClip, ...]:
    """Reads the clips of the official lists in a folder or archive, sorted by name.

    Raises:
        SourceError: the lists cannot be read or are not the official ones.
    """
    return _clips(uri, tuple(list_files(uri, LIST).items()))


@lru_cache(maxsize=1)
def _clips(uri: str, texts: tuple[tuple[str, str], ...]) -> tuple[OfficialClip, ...]:
    """Returns the clips of lists with these texts: a process reads them several times, and parses them once."""
    lists = numbered(dict(texts), LIST)
    labels = sorted({label for label, _ in lists})
    if len(labels) != NUM_CLASSES:
        raise SourceError(f"{uri!r} has lists of {len(labels)} classes, HMDB-51 has {NUM_CLASSES}; give all its lists")
    clips: list[OfficialClip] = []
    for label in labels:
        subsets: dict[str, list[Subset | None]] = {}
        for number in HMDB51.numbers:
            for name, subset in _entries(uri, label, number, lists.get((label, str(number)), [])):
                subsets.setdefault(name, [None] * len(HMDB51.counts))[number - 1] = subset
        clips += [_clip(name, label, tuple(in_split)) for name, in_split in subsets.items()]
    check_official(HMDB51, clips)
    return tuple(sorted(clips, key=lambda clip: clip.name))


def _entries(uri: str, label: str, number: int, lines: list[str]) -> list[tuple[str, Subset | None]]:
    """Reads the names and subsets of one list file. Raises SourceError."""
    file = f"{label}_test_split{number}.txt"
    if not lines:
        raise SourceError(f"{uri!r} lacks {file}, or it is empty; give the official lists of HMDB-51")
    entries = []
    for line in lines:
        match = LINE.fullmatch(line)
        if match is None:
            raise SourceError(f"{file}: {line!r} is no line of HMDB-51's lists")
        entries.append((match["name"], SUBSETS[match["flag"]]))
    counts = tuple(sum(subset == wanted for _, subset in entries) for wanted in ("train", "test"))
    if counts != (NUM_TRAIN_A_CLASS, NUM_TEST_A_CLASS) or len({name for name, _ in entries}) < len(entries):
        raise SourceError(
            f"{file} has {counts[0]} training and {counts[1]} test clips or a name twice, that of HMDB-51 has "
            f"{NUM_TRAIN_A_CLASS} and {NUM_TEST_A_CLASS}; give the official lists"
        )
    return entries


def _clip(name: str, label: str, subsets: tuple[Subset | None, ...]) -> OfficialClip:
    match = re.fullmatch(NAME.format(label=re.escape(label)), name)
    if match is None:
        raise SourceError(f"{name!r} is no clip's name of class {label!r} in HMDB-51; give the official lists")
    source = match["source"]
    return OfficialClip(name=name, label=label, source=source, group=f"{label}/{source}", subsets=subsets)
