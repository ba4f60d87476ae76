"""UCF-101: 13,320 clips, 101 classes, 25 groups of footage a class, three official splits.

    clips = read_clips("ucfTrainTestlist/")

`trainlist0N.txt` has lines such as `Archery/v_Archery_g08_c01.avi 3`, `testlist0N.txt` the same without the number. The
lists end their lines in CRLF, and the clips in `HandstandPushups/` are called `v_HandStandPushups_*`: the class is the
folder's name. Clips of one class and one g-number were cut from the same footage.

Soomro, Zamir and Shah: UCF101, CRCV-TR-12-01, 2012.
"""

from __future__ import annotations

import posixpath
import re
from functools import lru_cache
from typing import Final

from pipeline.core.errors import SourceError
from stages.datasets.official.clips import DataSet, OfficialClip, Subset, check_official, list_files, numbered

INSTRUCTIONS: Final = """\
UCF-101 is distributed at https://www.crcv.ucf.edu/data/UCF101.php:
    UCF101.rar                                    6,932,971,618 bytes   13,320 clips, UCF-101/CLASS/v_CLASS_gNN_cNN.avi
    UCF101TrainTestSplits-RecognitionTask.zip     about 0.1 MB          trainlist01.txt ... testlist03.txt
Give both as they are, or unpacked (--videos UCF-101/ --lists ucfTrainTestlist/), on disk or in a bucket:
    percepts run ucf101 --videos UCF101.rar --lists UCF101TrainTestSplits-RecognitionTask.zip
With a part of the clips, add --allow-missing: every table then says how many of the 13,320 it stands on."""

UCF101: Final = DataSet(
    key="ucf101",
    name="UCF-101",
    num_clips=13320,
    counts=((9537, 3783), (9586, 3734), (9624, 3696)),
    instructions=INSTRUCTIONS,
)
NUM_CLASSES: Final = 101

LIST = re.compile(r"(train|test)list0([123])\.txt")
LINE = re.compile(r"(?P<label>[^/\s]+)/(?P<file>v_\w+_(?P<group>g\d\d)_c\d\d\.avi)(?: \d+)?")


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
    expected = {(subset, str(number)) for subset in ("train", "test") for number in UCF101.numbers}
    if missing := sorted(f"{subset}list0{number}.txt" for subset, number in expected - lists.keys()):
        raise SourceError(f"{uri!r} lacks {', '.join(missing)}; give the official lists of UCF-101")
    subsets: dict[str, list[Subset | None]] = {}
    for (subset, number), lines in lists.items():
        for line in lines:
            match = LINE.fullmatch(line)
            if match is None:
                raise SourceError(f"{subset}list0{number}.txt: {line!r} is no line of UCF-101's lists")
            in_split = subsets.setdefault(f"{match['label']}/{match['file']}", [None] * len(UCF101.counts))
            if in_split[int(number) - 1] is not None:
                raise SourceError(f"split {number} of the lists names {match['file']} twice; give the official lists")
            in_split[int(number) - 1] = "train" if subset == "train" else "test"
    clips = tuple(_clip(path, tuple(in_split)) for path, in_split in sorted(subsets.items()))
    check_official(UCF101, clips)
    return clips


def _clip(path: str, subsets: tuple[Subset | None, ...]) -> OfficialClip:
    match = LINE.fullmatch(path)
    assert match is not None
    name = posixpath.splitext(match["file"])[0]
    group = f"{match['label']}/{match['group']}"
    return OfficialClip(name=name, label=match["label"], source=group, group=group, subsets=subsets)
