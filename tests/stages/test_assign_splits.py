"""Official splits against the official counts, the test material's own account, and planted mistakes."""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.files import read_json
from pipeline.core.stage import Context
from stages.datasets.official import hmdb51, ucf101
from stages.datasets.official.action_sets import ActionSetConfig, DataSetKey
from stages.datasets.official.clips import OfficialClip
from stages.datasets.splits import Splits
from stages.ingest import IngestConfig, ingest
from stages.official_splits import AssignSplitsConfig, assign_splits
from stages.video.artifacts import INDEX_NAME, Index
from stages.video.ledger import VideoRecord, write_records
from tests.stages.video.made_archives import make_rar

READ = {"ucf101": ucf101.read_clips, "hmdb51": hmdb51.read_clips}
DATA = {"ucf101": ucf101.UCF101, "hmdb51": hmdb51.HMDB51}
KEYS: tuple[DataSetKey, ...] = ("ucf101", "hmdb51")


def records_of(clips: Sequence[OfficialClip], suffix: str = ".avi") -> list[VideoRecord]:
    return [
        VideoRecord(uri=f"/data/{clip.label}/{clip.name}{suffix}", sha256=f"{i:064x}", size_bytes=1, verdict="ok")
        for i, clip in enumerate(clips)
    ]


def index_of(path: Path, records: Sequence[VideoRecord]) -> Index:
    write_records(f"{path}/index/{INDEX_NAME}", records)
    return Index(f"{path}/index")


@pytest.mark.parametrize("key", KEYS)
def test_whole_data_set(shared_data: Path, tmp_path: Path, key: DataSetKey) -> None:
    """Every count is the official one; validation is cut out of training in whole sources, a tenth of each class."""
    lists = str(shared_data / "splits" / key)
    clips = READ[key](lists)
    records = records_of(clips)
    splits = assign_splits(
        AssignSplitsConfig(data=ActionSetConfig(dataset=key, lists=lists)),
        Context.for_test(tmp_path),
        index=index_of(tmp_path, records),
    )
    assert (splits.name, splits.numbers(), len(splits.class_names())) == (
        DATA[key].name,
        (1, 2, 3),
        101 if key == "ucf101" else 51,
    )
    source = {clip.name: clip.source for clip in clips}
    for number, official in zip(splits.numbers(), DATA[key].counts, strict=True):
        assigned = splits.assign(records, number)
        parts = Counter(record.part for record in assigned)
        assert (parts["train"] + parts["validation"], parts["test"]) == official
        assert splits.coverage(number).is_whole
        by_class = Counter((record.label, record.part) for record in assigned)
        shares = [
            by_class[label, "validation"] / (by_class[label, "train"] + by_class[label, "validation"])
            for label in splits.class_names()
        ]
        assert min(shares) > 0
        assert max(shares) <= 0.25
        assert 0.05 < sum(shares) / len(shares) < 0.12
        sources = {
            part: {source[Path(record.uri).stem] for record in assigned if record.part == part} for part in parts
        }
        assert not sources["train"] & sources["validation"]
        for part in ("train", "validation"):
            groups = {record.group for record in assigned if record.part == part}
            assert not groups & {record.group for record in assigned if record.part == "test"}
    if key == "hmdb51":
        assert Counter(record.label for record in splits.assign(records, 1)) == dict.fromkeys(splits.class_names(), 100)


@pytest.mark.parametrize("key", KEYS)
def test_real_clips_are_where_the_manifest_says(shared_data: Path, tmp_path: Path, key: DataSetKey) -> None:
    """HMDB's are .mp4 here and .avi in the lists: the name counts."""
    index = ingest(IngestConfig(videos=(str(shared_data / key),)), Context.for_test(tmp_path / "ingest"))
    config = AssignSplitsConfig(
        data=ActionSetConfig(dataset=key, lists=str(shared_data / "splits" / key), allow_missing=True),
        validation_fraction=0,
    )
    splits = assign_splits(config, Context.for_test(tmp_path), index=index)
    rows = re.findall(rf"^\| ({key}/\S+) \|.*\| (\S+/\S+/\S+) \| \S+@", (shared_data / "MANIFEST.md").read_text(), re.M)
    assert len(rows) == 6
    expected = {
        Path(file).name: tuple(None if side == "-" else side for side in sides.split("/")) for file, sides in rows
    }
    found: dict[str, list[str | None]] = {name: [] for name in expected}
    for number in splits.numbers():
        parts = {Path(record.uri).name: record.part for record in splits.assign(index.records(), number)}
        for name, sides in found.items():
            sides.append(parts.get(name))
        train, test = sum(p == "train" for p in parts.values()), sum(p == "test" for p in parts.values())
        coverage = splits.coverage(number)
        assert (coverage.num_train, coverage.num_test) == (train, test)
        in_words = f"{train}/{coverage.num_official_train} train, {test}/{coverage.num_official_test} test"
        assert str(coverage).startswith(f"{splits.name} split {number}: {in_words}")
        assert ("nothing can be judged" in str(coverage)) == (not (train and test))
    assert {name: tuple(sides) for name, sides in found.items()} == expected
    assert all(Path(r.uri).parent.name == r.label for r in splits.assign(index.records(), 2))


def test_refuses_what_is_not_whole_unless_told(shared_data: Path, tmp_path: Path) -> None:
    lists = str(shared_data / "splits" / "ucf101")
    records = records_of(ucf101.read_clips(lists))
    records[7] = VideoRecord(
        uri=records[7].uri, sha256="", size_bytes=0, verdict="rejected", reason="the file is empty"
    )
    stray = VideoRecord(uri="/data/holiday.mp4", sha256="f" * 64, size_bytes=1, verdict="ok")
    index = index_of(tmp_path, [*records[:100], *records[102:], stray])
    lines: list[str] = []
    context = Context.for_test(tmp_path, emit=lambda event: lines.append(getattr(event, "line", "")))
    with pytest.raises(SourceError, match=r"2 of 13320 clips are missing .*1 cannot be read .*--allow-missing"):
        assign_splits(AssignSplitsConfig(data=ActionSetConfig(dataset="ucf101", lists=lists)), context, index=index)
    assert read_json(f"{context.uri}/check.json") == {
        "found": 13317,
        "missing": [Path(record.uri).stem for record in records[100:102]],
        "unreadable": {Path(records[7].uri).stem: "the file is empty"},
        "same_bytes": [],
        "not_in_the_lists": ["/data/holiday.mp4"],
    }
    splits = assign_splits(
        AssignSplitsConfig(data=ActionSetConfig(dataset="ucf101", lists=lists, allow_missing=True)),
        context,
        index=index,
    )
    assert any("holiday.mp4" in line and "ignored" in line for line in lines)
    coverage = splits.coverage(1)
    assert coverage.num_train + coverage.num_test == 13317
    assert not coverage.is_whole
    assert coverage.fraction == pytest.approx(13317 / 13320)
    assert context.facts == {
        "num_clips": 13317,
        "num_official_clips": 13320,
        "num_missing": 2,
        "num_unreadable": 1,
        "num_twins": 0,
        "num_extra": 1,
    }
    fewer = splits.coverage(1, index.records()[:50])
    assert fewer.num_train + fewer.num_test == 49


def test_same_content_under_two_names(shared_data: Path, tmp_path: Path) -> None:
    """On both sides: the test clip stays. Of two classes: neither stays. And it is said."""
    lists = str(shared_data / "splits" / "ucf101")
    clips = {clip.name: clip for clip in ucf101.read_clips(lists)}
    pairs = {
        "v_Archery_g01_c01": "v_Archery_g08_c01",  # test and train of split 1
        "v_Biking_g01_c01": "v_Punch_g01_c01",  # two classes
        "v_YoYo_g01_c01": "v_YoYo_g01_c02",  # both test
    }
    records = {Path(record.uri).stem: record for record in records_of(list(clips.values()))}
    for one, other in pairs.items():
        records[other] = VideoRecord(uri=records[other].uri, sha256=records[one].sha256, size_bytes=1, verdict="ok")
    index = index_of(tmp_path, list(records.values()))
    with pytest.raises(SourceError, match=r"3 files have the same bytes .*v_Archery_g01_c01 = v_Archery_g08_c01"):
        assign_splits(
            AssignSplitsConfig(data=ActionSetConfig(dataset="ucf101", lists=lists)),
            Context.for_test(tmp_path),
            index=index,
        )
    splits = assign_splits(
        AssignSplitsConfig(data=ActionSetConfig(dataset="ucf101", lists=lists, allow_missing=True)),
        Context.for_test(tmp_path),
        index=index,
    )
    kept = {Path(record.uri).stem: record.part for record in splits.assign(index.records(), 1)}
    assert kept["v_Archery_g01_c01"] == kept["v_YoYo_g01_c01"] == "test"
    gone = {"v_Archery_g08_c01", "v_YoYo_g01_c02", "v_Biking_g01_c01", "v_Punch_g01_c01"}
    assert not gone & kept.keys()
    assert (splits.coverage(1).num_train, splits.coverage(1).num_test) == (9536, 3780)


def test_names(shared_data: Path, tmp_path: Path) -> None:
    """Folder, suffix and case do not matter; two different files of one name do."""
    lists = str(shared_data / "splits" / "ucf101")
    record = VideoRecord(uri="s3://b/x/v_HandstandPushups_g01_c01.MKV", sha256="a", size_bytes=1, verdict="ok")
    config = AssignSplitsConfig(data=ActionSetConfig(dataset="ucf101", lists=lists, allow_missing=True))
    splits = assign_splits(config, Context.for_test(tmp_path), index=index_of(tmp_path, [record]))
    assert [(r.label, r.part) for r in splits.assign([record], 1)] == [("HandstandPushups", "test")]
    other = VideoRecord(uri="/y/v_HandStandPushups_g01_c01.avi", sha256="b", size_bytes=1, verdict="ok")
    with pytest.raises(SourceError, match="one clip's name and different bytes"):
        assign_splits(config, Context.for_test(tmp_path), index=index_of(tmp_path, [record, other]))
    with pytest.raises(SourceError, match="none of the 13320 clips of UCF-101"):
        assign_splits(
            config,
            Context.for_test(tmp_path),
            index=index_of(tmp_path, [VideoRecord(uri="/z.avi", sha256="c", size_bytes=1, verdict="ok")]),
        )


def test_lists_in_archives_and_lists_that_are_not_official(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "splits" / "ucf101"
    with zipfile.ZipFile(tmp_path / "lists.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"ucfTrainTestlist/{file.name}")
    whole = ucf101.read_clips(str(folder))
    assert ucf101.read_clips(str(tmp_path / "lists.zip")) == whole
    packed = {
        f"testTrainMulti_7030_splits/{file.name}": file.read_bytes() for file in (folder.parent / "hmdb51").iterdir()
    }
    (tmp_path / "test_train_splits.rar").write_bytes(make_rar(packed))
    unpacked = hmdb51.read_clips(str(folder.parent / "hmdb51"))
    assert hmdb51.read_clips(str(tmp_path / "test_train_splits.rar")) == unpacked

    texts = {file.name: file.read_bytes() for file in folder.iterdir()}

    def lists_with(name: str, data: bytes | None) -> str:
        changed = tmp_path / str(len(list(tmp_path.iterdir())))
        changed.mkdir()
        for file, text in {**texts, name: data}.items():
            if text is not None:
                (changed / file).write_bytes(text)
        return str(changed)

    lines = texts["trainlist02.txt"].splitlines(keepends=True)
    for data, message in (
        (None, "lacks trainlist02.txt"),
        (b"".join(lines[1:]), "split 2 of the lists has 9585 training and 3734 test"),
        (b"".join([*lines, lines[0]]), "names v_ApplyEyeMakeup_g01_c01.avi twice"),
        (b"<html>404</html>\n", "is no line of"),
    ):
        with pytest.raises(SourceError, match=message):
            ucf101.read_clips(lists_with("trainlist02.txt", data))
    changed = lists_with("trainlist02.txt", texts["trainlist02.txt"])
    assert ucf101.read_clips(changed) == whole
    Path(changed, "trainlist02.txt").write_bytes(b"".join(lines[1:]))
    with pytest.raises(SourceError, match="split 2 of the lists has 9585"):
        ucf101.read_clips(changed)  # lists that change are read anew
    on_both_sides = texts["testlist02.txt"] + lines[-1].split(b" ")[0] + b"\r\n"
    with pytest.raises(SourceError, match=r"split 2 of the lists names .* twice"):
        ucf101.read_clips(lists_with("testlist02.txt", on_both_sides))
    with pytest.raises(SourceError, match="there is no folder"):
        ucf101.read_clips(str(tmp_path / "nowhere"))
    with pytest.raises(SourceError, match="no list files"):
        hmdb51.read_clips(str(folder))
    with pytest.raises(ConfigError, match="validation_fraction"):
        AssignSplitsConfig(data=ActionSetConfig(dataset="ucf101", lists="x"), validation_fraction=0.9)


def test_validation_does_not_depend_on_what_is_there(shared_data: Path, tmp_path: Path) -> None:
    lists = str(shared_data / "splits" / "hmdb51")
    records = records_of(hmdb51.read_clips(lists))
    config = AssignSplitsConfig(data=ActionSetConfig(dataset="hmdb51", lists=lists, allow_missing=True))

    def parts(given: list[VideoRecord], config: AssignSplitsConfig) -> dict[str, str | None]:
        made: Splits = assign_splits(config, Context.for_test(tmp_path), index=index_of(tmp_path, given))
        return {record.uri: record.part for record in made.assign(given, 1)}

    whole, half = parts(records, config), parts(records[::2], config)
    assert half == {uri: part for uri, part in whole.items() if uri in half}
    other = parts(records, AssignSplitsConfig(data=ActionSetConfig(dataset="hmdb51", lists=lists), seed=1))
    assert other != whole
