"""Clips are found by their names in folders, archives and manifests, and no file is opened for it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.core.errors import ConfigError, DataSetError
from pipeline.core.files import read_json
from pipeline.core.stage import Context
from stages.datasets.official import ucf101
from stages.datasets.official.action_sets import ActionSetConfig
from stages.ingest import IngestConfig, ingest
from stages.official_splits import SelectClipsConfig, select_clips
from stages.unpack import UnpackConfig, unpack
from stages.video.sources import list_videos


@pytest.fixture
def lists(shared_data: Path) -> str:
    return str(shared_data / "splits" / "ucf101")


def lay_out(folder: Path, names: Sequence[str], suffix: str = ".avi") -> Path:
    """Empty files: they have names and nothing else."""
    folder.mkdir(parents=True)
    for name in names:
        (folder / f"{name}{suffix}").touch()
    return folder


def test_the_whole_data_set_by_its_names(tmp_path: Path, lists: str) -> None:
    names = [clip.name for clip in ucf101.read_clips(lists)]
    videos = lay_out(tmp_path / "videos", [name.upper() for name in names], ".MP4")
    (videos / "holiday.mp4").touch()
    said: list[str] = []
    context = Context.for_test(tmp_path / "out", emit=lambda event: said.append(getattr(event, "line", "")))
    corpus = select_clips(
        SelectClipsConfig(data=ActionSetConfig(dataset="ucf101", lists=lists), videos=(str(videos),)), context
    )
    assert [Path(source.uri).stem for source in list_videos((corpus.manifest_uri,))] == [n.upper() for n in names]
    assert context.facts == {"num_clips": 13320, "num_official_clips": 13320, "num_missing": 0, "num_extra": 1}
    assert any("holiday.mp4" in line and "left out" in line for line in said)


def test_what_is_missing_is_named_and_nothing_is_opened(tmp_path: Path, lists: str) -> None:
    names = [clip.name for clip in ucf101.read_clips(lists)]
    videos = lay_out(tmp_path / "videos", names[2:])
    os.mkfifo(videos / f"{names[0]}.avi")  # whoever opens it waits for ever; it is not listed
    context = Context.for_test(tmp_path / "out")
    config = SelectClipsConfig(data=ActionSetConfig(dataset="ucf101", lists=lists), videos=(str(videos),))
    with pytest.raises(
        DataSetError, match=rf"2 of 13320 clips are missing \({names[0]}, {names[1]}\).*--allow-mi"
    ) as e:
        select_clips(config, context)
    assert "UCF101.rar" in e.value.instructions
    assert read_json(f"{context.uri}/check.json") == {"found": 13318, "missing": names[:2], "not_in_the_lists": []}
    stray = str(lay_out(tmp_path / "stray", ["holiday"]))
    with pytest.raises(DataSetError, match="none of the 13320 clips of UCF-101 is among the 1 videos given"):
        select_clips(
            SelectClipsConfig(data=ActionSetConfig(dataset="ucf101", lists=lists, allow_missing=True), videos=(stray,)),
            context,
        )
    with pytest.raises(ConfigError, match="no videos"):
        select_clips(SelectClipsConfig(data=ActionSetConfig(dataset="ucf101", lists=lists)), context)
    with pytest.raises(ConfigError, match="dataset is 'kinetics'"):
        SelectClipsConfig(data=ActionSetConfig(dataset="kinetics", lists=lists))  # type: ignore[arg-type]  # as a command line may say it


def test_archives_and_folders_together_and_a_store_that_moves(tmp_path: Path, lists: str, shared_data: Path) -> None:
    clips = sorted((shared_data / "ucf101").rglob("*.avi"))
    packed, loose = tmp_path / "packed", tmp_path / "loose"
    for folder, members in ((packed, clips[:2]), (loose, clips[2:4])):
        folder.mkdir()
        for clip in members:
            shutil.copy(clip, folder)
    archive = shutil.make_archive(str(tmp_path / "clips"), "zip", packed)
    root = tmp_path / "store"
    unpacked = unpack(UnpackConfig(archives=(archive,)), Context.for_test(root, uri=f"{root}/unpack/u"))
    context = Context.for_test(root, uri=f"{root}/select_clips/s")
    config = SelectClipsConfig(
        data=ActionSetConfig(dataset="ucf101", lists=lists, allow_missing=True), videos=(str(loose),)
    )
    corpus = select_clips(config, context, unpacked=unpacked)
    rows = Path(corpus.manifest_uri).read_text().splitlines()[1:]
    assert sorted(row.startswith("../../unpacked/") for row in rows) == [False, False, True, True]
    index = ingest(IngestConfig(), Context.for_test(tmp_path / "ingest"), corpus=corpus)
    assert {record.verdict for record in index.records()} == {"ok"}
    moved = root.rename(tmp_path / "moved")
    listed = list_videos((str(moved / "select_clips" / "s" / "manifest.csv"),))
    assert all(Path(source.uri).is_file() for source in listed)
