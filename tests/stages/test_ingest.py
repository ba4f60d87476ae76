"""Ingest: a row for every file, whatever it is, and the same bytes again."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.stage import Context
from pipeline.core.workers import Workers
from stages import ingest as module
from stages.ingest import IngestConfig, ingest, list_sources
from stages.video.artifacts import Corpus
from stages.video.limits import Limits
from tests.stages.video.clips import encode, moving_square


@pytest.fixture
def films(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    encode(folder / "a # [1].mp4", moving_square(10))
    encode(folder / "b.mkv", moving_square(12))
    shutil.copy(folder / "b.mkv", folder / "c again.mkv")
    (folder / "d.mp4").write_text("not a video")
    (folder / "e.mp4").symlink_to("nowhere")
    (folder / os.fsdecode(b"f\xff.mp4")).write_bytes(b"x")
    return folder


def test_every_file_has_a_row(films: Path, tmp_path: Path) -> None:
    context = Context.for_test(tmp_path)
    index = ingest(IngestConfig(videos=(str(films),)), context)
    rows = {os.path.basename(record.uri): record for record in index.records()}
    assert {name: (row.verdict, row.frames_expected) for name, row in rows.items()} == {
        "a # [1].mp4": ("ok", 10),
        "b.mkv": ("ok", 12),
        "c again.mkv": ("ok", 12),
        "d.mp4": ("rejected", 0),
        "e.mp4": ("rejected", 0),
        "f\\udcff.mp4": ("rejected", 0),
    }
    assert rows["c again.mkv"].reason == "same bytes as b.mkv"
    assert rows["e.mp4"].reason == "there is no such file"
    assert rows["f\\udcff.mp4"].reason == "its name is not UTF-8; rename it"
    assert rows["b.mkv"].sha256 == hashlib.sha256((films / "b.mkv").read_bytes()).hexdigest()
    assert all(row.frames_decoded is None for row in rows.values())
    assert context.facts["num_videos"] == 6
    assert context.facts["num_duplicates"] == 1
    assert context.facts["num_frames"] == 22
    assert sorted(os.listdir(tmp_path / "out")) == ["index.parquet"]


def test_corpus_is_indexed_relative_to_the_store(tmp_path: Path) -> None:
    """Two stores with the same corpus get the same bytes."""
    found = []
    for name in ("one", "two"):
        store = tmp_path / name
        corpus = store / "synthesize" / "k"
        corpus.mkdir(parents=True)
        encode(corpus / "x.mp4", moving_square(5))
        (corpus / "manifest.csv").write_text("uri,label,part,group\nx.mp4,left,train,7\n")
        context = Context.for_test(store, uri=str(store / "ingest" / "k"))
        index = ingest(IngestConfig(), context, corpus=Corpus(str(corpus)))
        record = index.records()[0]
        assert record.uri == str(corpus / "x.mp4")
        assert (record.label, record.part, record.group) == ("left", "train", "7")
        found.append(Path(index.path("index.parquet")).read_bytes())
    assert found[0] == found[1]


def test_what_an_interrupted_run_has_found_is_not_probed_again(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FILES_A_SHARD", 2)
    whole = ingest(IngestConfig(videos=(str(films),)), Context.for_test(tmp_path / "whole"))
    real, probed = module.probe_source, []

    def probe_source(source: Any, limits: Any) -> Any:
        if len(probed) == 4:
            raise KeyboardInterrupt
        probed.append(source.uri)
        return real(source, limits)

    monkeypatch.setattr(module, "probe_source", probe_source)
    context = Context.for_test(tmp_path / "again")
    with pytest.raises(KeyboardInterrupt):
        ingest(IngestConfig(videos=(str(films),)), context)
    monkeypatch.setattr(
        module, "probe_source", lambda source, limits: probed.append(source.uri) or real(source, limits)
    )
    again = ingest(IngestConfig(videos=(str(films),)), context)
    assert len(probed) == len(set(probed)) == 6
    assert Path(again.path("index.parquet")).read_bytes() == Path(whole.path("index.parquet")).read_bytes()


def test_probing_in_isolated_processes_gives_the_same_bytes(films: Path, tmp_path: Path) -> None:
    class Replaceable(Workers):
        """A pool in which every item is a second try."""

        def map(self, factory: Callable[[], Any], items: Sequence[Any], **settings: Any) -> Iterator[tuple[int, Any]]:
            return super().map(factory, [settings["on_retry"](item) for item in items], num_workers=1)

    config = IngestConfig(videos=(str(films),))
    one = ingest(config, Context.for_test(tmp_path / "one"))
    two = ingest(config, Context.for_test(tmp_path / "two", workers=Replaceable()))
    assert Path(one.path("index.parquet")).read_bytes() == Path(two.path("index.parquet")).read_bytes()


def test_what_is_no_file_is_not_opened(films: Path, tmp_path: Path) -> None:
    """A pipe that nobody writes to would block, a device would never end."""
    os.mkfifo(films / "pipe.mp4")
    (films / "folder.mp4").mkdir()
    (films / "list.txt").write_text("pipe.mp4\nfolder.mp4\n/dev/zero\na # [1].mp4\n")
    index = ingest(IngestConfig(videos=(str(films / "list.txt"),)), Context.for_test(tmp_path))
    assert [(record.verdict, record.reason) for record in index.records()] == [
        ("rejected", "cannot be read: it is a pipe, a socket or a device, and not a file"),
        ("rejected", "cannot be read: Is a directory"),
        ("rejected", "cannot be read: it is a pipe, a socket or a device, and not a file"),
        ("ok", ""),
    ]


def test_a_line_that_names_no_video_is_a_row(films: Path, tmp_path: Path) -> None:
    (films / "list.csv").write_text("uri,label,colour\nb.mkv,1.0,red\nnope://x,run,blue\n")
    context = Context.for_test(tmp_path)
    index = ingest(IngestConfig(videos=(str(films / "list.csv"),)), context)
    assert [(record.verdict, record.label) for record in index.records()] == [("ok", "1"), ("rejected", None)]
    assert index.records()[1].uri == f"{films / 'list.csv'}:3"
    assert index.records()[1].reason.startswith("line 3: 'nope://x' has the scheme 'nope'")
    assert "columns that are not used: colour; " in str(context.facts["left_out"])


def test_what_may_be_given(films: Path, tmp_path: Path) -> None:
    context = Context.for_test(tmp_path)
    with pytest.raises(ConfigError, match="given neither"):
        ingest(IngestConfig(), context)
    with pytest.raises(SourceError, match="there is no file or folder"):
        ingest(IngestConfig(videos=("nowhere",)), context)
    with pytest.raises(ConfigError, match="max_frames is 0"):
        IngestConfig(limits=Limits(max_frames=0))


def test_corpus_and_videos_together(films: Path, tmp_path: Path) -> None:
    """The corpus comes first; what a manifest does not place is placed by the config."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    encode(corpus / "x.mp4", moving_square(5))
    (corpus / "manifest.csv").write_text("uri,label,part,group\nx.mp4,left,train,7\n")
    config = IngestConfig(videos=(str(films / "b.mkv"),))
    index = ingest(config, Context.for_test(tmp_path), corpus=Corpus(str(corpus)))
    assert [(os.path.basename(record.uri), record.part) for record in index.records()] == [
        ("x.mp4", "train"),
        ("b.mkv", "unlabelled"),
    ]


def test_snapshot_is_the_sources(films: Path) -> None:
    config = IngestConfig(videos=(str(films),))
    before = list_sources(config)
    (films / "g.mp4").write_bytes(b"new")
    after = list_sources(config)
    assert before is not None
    assert after is not None
    assert after.digest != before.digest
    assert (before.estimate.num_videos, after.estimate.num_videos) == (6, 7)
    assert list_sources(IngestConfig()) is None


def test_a_video_that_arrives_after_the_listing_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    encode(folder / "b.mp4", moving_square(5))
    name = os.fsdecode(b"caf\xe9.mp4")  # no UTF-8: it must survive its way through the file
    (folder / name).write_bytes(b"no video")
    config = IngestConfig(videos=(str(folder), str(folder / "b.mp4")))
    listing = list_sources(config)
    assert listing is not None
    encode(folder / "a.mp4", moving_square(6))
    listing.write(f"{tmp_path}/listing.parquet")
    context = Context.for_test(tmp_path, listing_uri=f"{tmp_path}/listing.parquet")
    records = ingest(config, context).records()
    assert [os.path.basename(record.uri) for record in records] == ["b.mp4", "caf\\udce9.mp4"]
    without = ingest(config, Context.for_test(tmp_path / "without")).records()
    assert [os.path.basename(record.uri) for record in without] == ["a.mp4", "b.mp4", "caf\\udce9.mp4"]


def test_held_out_videos_are_chosen_by_content_in_whole_groups(tmp_path: Path) -> None:
    rows = ["uri,part,group"]
    for number in range(10):
        encode(tmp_path / f"{number}.mp4", moving_square(8 + number))
        rows.append(f"{number}.mp4,,{'pair' if number < 2 else ''}")
    encode(tmp_path / "own.mp4", moving_square(20))
    shutil.copy(tmp_path / "4.mp4", tmp_path / "4 again.mp4")
    (tmp_path / "broken.mp4").write_text("not a video")
    rows += ["own.mp4,train,", "4 again.mp4,,", "broken.mp4,,"]

    def parts(name: str, lines: list[str]) -> dict[str, str | None]:
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
        config = IngestConfig(videos=(str(tmp_path / f"{name}.csv"),), held_out=0.4)
        index = ingest(config, Context.for_test(tmp_path / name))
        return {os.path.basename(record.uri): record.part for record in index.records()}

    found = parts("all", rows)
    assert found == parts("backwards", [rows[0], *rows[:0:-1]])
    assert found["own.mp4"] == "train"
    assert found["broken.mp4"] == "unlabelled"
    assert found["0.mp4"] == found["1.mp4"]
    assert found["4.mp4"] == found["4 again.mp4"]
    groups = {"pair": found["0.mp4"], **{str(n): found[f"{n}.mp4"] for n in range(2, 10)}}
    assert list(groups.values()).count("test") == 4  # 0.4 of 9 groups


@pytest.mark.parametrize("held_out", ["held_out", "held_out_labelled"])
def test_groups_with_a_video_in_common_lie_on_one_side(tmp_path: Path, held_out: str) -> None:
    """Whatever the order, as groups are chained by copies; broken files of the same bytes chain none."""
    rows = []
    for number in range(12):
        encode(tmp_path / f"{number}.mp4", moving_square(8 + number))
        rows.append(f"{number}.mp4,walk,,{f'pair {number // 2}' if number < 8 else ''}")
    for copy, original, group in (("a", 0, "pair 1"), ("b", 2, "chain"), ("c", 4, "")):
        shutil.copy(tmp_path / f"{original}.mp4", tmp_path / f"{copy}.mp4")
        rows.append(f"{copy}.mp4,walk,,{group}")
    for group in ("pair 2", "pair 3"):
        (tmp_path / f"empty of {group}.mp4").write_bytes(b"")
        rows.append(f"empty of {group}.mp4,walk,,{group}")
    sides, lines = [], list[str]()
    for number, listed_rows in enumerate((rows, rows[::-1])):
        listed = tmp_path / f"{number}.csv"
        listed.write_text("\n".join(["uri,label,part,group", *listed_rows]))
        lines.clear()
        context = Context.for_test(tmp_path / str(number), emit=lambda event: lines.append(getattr(event, "line", "")))
        config = IngestConfig(videos=(str(listed),), **{held_out: 0.4})
        records = ingest(config, context).records()
        groups = {os.path.basename(record.uri): record.group for record in records}
        assert {groups[f"{name}.mp4"] for name in (0, 1, 2, 3, "a", "b")} == {"chain"}
        assert {groups[f"{name}.mp4"] for name in (4, 5, "c")} == {"pair 2"}
        assert groups["6.mp4"] == "pair 3"
        assert groups["8.mp4"] is None
        usable = [record for record in records if record.verdict != "rejected"]
        of_group = {(record.group or record.sha256, record.part) for record in usable}
        assert len(of_group) == len({group for group, _ in of_group}) == 3 + 4
        sides.append({os.path.basename(record.uri): record.part for record in usable})
        (said,) = [line for line in lines if "groups taken for one" in line]
        assert said.startswith("warning: 2 groups")
    assert sides[0] == sides[1]
    assert set(sides[0].values()) >= {"test"}


@pytest.mark.parametrize("held_out", ["held_out", "held_out_labelled"])
def test_a_part_that_a_list_gives_is_that_of_its_group(tmp_path: Path, held_out: str) -> None:
    rows = ["uri,label,part,group", "0.mp4,walk,test,one", "1.mp4,walk,,one", "2.mp4,walk,train,two", "3.mp4,walk,,two"]
    for number in range(12):
        encode(tmp_path / f"{number}.mp4", moving_square(8 + number))
        rows += [f"{number}.mp4,walk,," for _ in range(number >= 4)]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    config = IngestConfig(videos=(str(tmp_path / "list.csv"),), **{held_out: 0.5})
    parts = [record.part for record in ingest(config, Context.for_test(tmp_path / "out")).records()]
    assert parts[:2] == ["test", "test"]
    assert "test" not in parts[2:4]
    assert parts[4:].count("test") == 4


def test_of_each_label_some_videos_are_held_out_in_whole_groups(tmp_path: Path) -> None:
    rows = ["uri,label,part,group"]
    for number in range(12):
        encode(tmp_path / f"{number}.mp4", moving_square(8 + number))
        rows.append(f"{number}.mp4,{'walk' if number < 8 else 'run'},,{'pair' if number in (0, 8) else ''}")
    encode(tmp_path / "single.mp4", moving_square(30))
    encode(tmp_path / "own.mp4", moving_square(31))
    encode(tmp_path / "none.mp4", moving_square(32))
    rows += ["single.mp4,jump,,", "own.mp4,jump,validation,", "none.mp4,,,"]

    def parts(name: str, lines: list[str]) -> dict[str, str | None]:
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
        config = IngestConfig(videos=(str(tmp_path / f"{name}.csv"),), held_out_labelled=0.25)
        index = ingest(config, Context.for_test(tmp_path / name))
        return {os.path.basename(record.uri): record.part for record in index.records()}

    found = parts("all", rows)
    assert found == parts("backwards", [rows[0], *rows[:0:-1]])
    assert [found[f"{number}.mp4"] for number in range(8)].count("test") in (1, 2)  # of eight walks at most a quarter
    assert [found[f"{number}.mp4"] for number in range(8, 12)].count("test") == 1
    assert {found[f"{number}.mp4"] for number in range(12)} == {"train", "test"}
    assert found["0.mp4"] == found["8.mp4"]
    assert (found["single.mp4"], found["own.mp4"], found["none.mp4"]) == ("train", "validation", "unlabelled")


def test_folders_give_labels_where_lists_give_none(tmp_path: Path) -> None:
    for number, name in enumerate(("walk/a.mp4", "run/b.mp4", "run/c.mp4")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        encode(tmp_path / name, moving_square(8 + number))
    (tmp_path / "list.csv").write_text("uri,label\nrun/b.mp4,crawl\n")
    videos = (str(tmp_path / "list.csv"), str(tmp_path / "run"), str(tmp_path / "walk"))
    for folder_labels, expected in ((True, ["crawl", "run", "walk"]), (False, ["crawl", None, None])):
        config = IngestConfig(videos=videos, folder_labels=folder_labels)
        index = ingest(config, Context.for_test(tmp_path / f"out {folder_labels}"))
        assert [record.label for record in index.records()] == expected


def test_nothing_is_left_where_all_would_be_held_out(tmp_path: Path) -> None:
    encode(tmp_path / "only.mp4", moving_square(8))
    with pytest.raises(ConfigError, match="holding out"):
        ingest(IngestConfig(videos=(str(tmp_path / "only.mp4"),), held_out=0.4), Context.for_test(tmp_path / "out"))
    (tmp_path / "broken").mkdir()
    for name in "abc":
        (tmp_path / "broken" / f"{name}.mp4").write_bytes(b"")
    config = IngestConfig(videos=(str(tmp_path),), held_out=0.4)
    with pytest.raises(ConfigError, match=r"holding out 0\.4 of 1 .*; 3 rejected \(3: the file is empty"):
        ingest(config, Context.for_test(tmp_path / "some"))
    config = IngestConfig(videos=(str(tmp_path / "broken"),), held_out=0.4)
    index = ingest(config, Context.for_test(tmp_path / "none"))  # whose rows say why
    assert {record.verdict for record in index.records()} == {"rejected"}
    with pytest.raises(ConfigError, match="held_out is 1"):
        IngestConfig(held_out=1.0)
