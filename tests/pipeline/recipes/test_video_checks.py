"""The check of windows: short videos are known once they are indexed, before anything is decoded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.errors import SourceError
from pipeline.core.files import sha256_bytes
from pipeline.engine.plan import Plan
from pipeline.recipes import action_recognition, demo, patches
from pipeline.recipes.action_recognition import UCF101Options
from pipeline.recipes.video_checks import LabelCheck, WindowCheck
from pipeline.recipes.youtube import YoutubeOptions, build
from stages.video.artifacts import Index
from stages.video.ledger import VideoRecord, write_records


def index_of(folder: Path, *videos: tuple[str, int, float]) -> Index:
    """An index of videos: part, frames, seconds."""
    records = [
        VideoRecord(
            uri=f"/{number}.mp4",
            sha256=f"{number:064}",
            size_bytes=1,
            frames_expected=frames,
            duration_us=round(seconds * 1e6),
            verdict="ok",
            part=part,
        )
        for number, (part, frames, seconds) in enumerate(videos)
    ]
    write_records(str(folder / "index.parquet"), records)
    return Index(str(folder))


CHECK = WindowCheck(num_frames=29, num_frames_scored=40, rate_fps=10.0, learned=("unlabelled",), scored=("test",))


def test_what_is_said_of_short_videos(tmp_path: Path) -> None:
    index = index_of(tmp_path, ("unlabelled", 90, 3.0), ("unlabelled", 60, 2.0), ("test", 90, 3.0))
    assert list(CHECK(index)) == [
        "warning: 1 of 2 videos are shorter than a window of 29 frames at 10 frames/s; nothing is learned from them",
        "warning: no video of part test is as long as a window of 40 frames at 10 frames/s: nothing will be scored",
    ]
    assert list(replace(CHECK, rate_fps=None)(index)) == []
    with pytest.raises(SourceError, match=r"a window is 99 frames .* the longest of 2 videos has at most 31 at 10 fr"):
        list(replace(CHECK, num_frames=99)(index))
    with pytest.raises(
        SourceError, match="no usable video is of part train, which is learned from; parts here: test, un"
    ):
        list(replace(CHECK, learned=("train",))(index))
    (short, unscored) = replace(CHECK, scored=("tset",))(index)
    assert short.startswith("warning: 1 of 2")
    assert unscored == "warning: no usable video is of part tset: nothing will be scored; parts: test, unlabelled"


@pytest.mark.parametrize(
    ("changes", "words"), [({"sha256": f"{0:064}"}, "the same video"), ({"group": "one"}, "group")]
)
def test_a_video_that_is_scored_is_not_learned_from(tmp_path: Path, changes: dict[str, str], words: str) -> None:
    index = index_of(tmp_path, ("unlabelled", 90, 3.0), ("test", 90, 9.0))
    learned, scored = index.records()
    write_records(index.path("index.parquet"), [replace(learned, group="one"), replace(scored, **changes)])
    with pytest.raises(SourceError, match=f"leak: .*{words}"):
        list(CHECK(index))
    write_records(index.path("index.parquet"), [learned, scored, replace(scored, part="elsewhere")])
    list(CHECK(index))


def test_labels_are_listed_with_their_numbers_of_videos(tmp_path: Path) -> None:
    def said(**labels: int) -> str:
        records = [
            VideoRecord(
                uri=f"/{label}{number}.mp4",
                sha256=sha256_bytes(f"{label}{number}".encode()),
                size_bytes=1,
                frames_expected=50,
                verdict="ok" if number else "rejected",
                part="test" if number == 1 else "train",
                label=None if label == "none" else label,
            )
            for label, count in labels.items()
            for number in range(count + 1)
        ]
        write_records(str(tmp_path / "index.parquet"), [*records, *records[1:3]])  # copies count once
        return next(LabelCheck(clips=CHECK, windows=CHECK, labels_per_class=(0,))(Index(str(tmp_path))))

    assert said(b=2, c=5, a=2) == "3 labels of 9 videos: 'c' 5, 'a' 2, 'b' 2"
    assert said(a=2, none=3, b=2) == "2 labels of 4 videos: 'a' 2, 'b' 2; 3 videos without a label"
    many = said(**{f"l{number:03}": 2 + number // 100 for number in range(300)})
    assert many.startswith("300 labels of 900 videos: 'l200' 4, 'l201' 4, ")
    assert many.endswith("'l211' 4 and 288 more of 2 to 4 videos each")


def test_labelled_videos_that_are_all_too_short_are_refused_before_a_frame_is_decoded(tmp_path: Path) -> None:
    def say(*, of_labelled: int) -> list[str]:
        labelled = [(f"{label}{part}", label, part, of_labelled) for label in "ab" for part in ("train", "test")]
        records = [
            VideoRecord(
                uri=f"/{name}.mp4",
                sha256=sha256_bytes(name.encode()),
                size_bytes=1,
                frames_expected=num_frames,
                verdict="ok",
                part=part,
                label=label,
            )
            for name, label, part, num_frames in [*labelled, ("longer", "a", "train", 20), ("rest", None, None, 40)]
        ]
        records = [record for record in records if of_labelled > 15 or record.uri != "/longer.mp4"]
        write_records(str(tmp_path / "index.parquet"), records)
        clips = WindowCheck(num_frames=20, rate_fps=None, remedy="give fewer num_frames", videos="videos with a label")
        return list(LabelCheck(clips=clips, windows=None, labels_per_class=(0,))(Index(str(tmp_path))))

    with pytest.raises(
        SourceError, match=r"the longest of 2 videos with a label has at most 15: give fewer num_frames"
    ):
        say(of_labelled=15)
    assert (
        "warning: 2 of 3 videos with a label are shorter than a window of 20 frames; nothing" in say(of_labelled=16)[1]
    )


def test_that_no_video_can_be_used_is_said_with_a_reason(tmp_path: Path) -> None:
    def refusal(*reasons: str) -> str:
        records = [
            VideoRecord(
                uri=f"http://a/{n}.mp4", sha256="", size_bytes=0, verdict="rejected", reason=reason, label=label
            )
            for n, reason in enumerate(reasons)
            for label in "ab"[n % 2]
        ]
        index = Index(str(tmp_path / "ingest" / "ingest-1"))
        write_records(index.path("index.parquet"), records)
        refusals = set()
        for check in (CHECK, LabelCheck(clips=CHECK, windows=CHECK, labels_per_class=(0,))):
            with pytest.raises(SourceError) as refused:
                list(check(index))
            refusals.add(str(refused.value))
        (said,) = refusals
        assert f"`percepts ledger --why --store {tmp_path}`" in said
        return said

    assert "no video can be used: http://a/0.mp4: answers 403;" in refusal("answers 403")
    said = refusal("answers 403", "has 9 bytes", "has 12 bytes", *(f"is {letter}" for letter in "abcdefg"))
    assert "10 rejected (2: has 9 bytes; 1: answers 403; 1: is a; 1: is b; 1: is c; 4: other reasons)" in said


def test_labels_that_look_alike_are_named(tmp_path: Path) -> None:
    """Two spellings of one label would halve what each is learned from."""

    def said(*labels: str) -> list[str]:
        records = [
            VideoRecord(
                uri=f"/{n}.mp4", sha256=str(n), size_bytes=1, frames_expected=90, verdict="ok", label=label, part=part
            )
            for n, (label, part) in enumerate((label, part) for label in labels for part in ("train", "test"))
        ]
        write_records(str(tmp_path / "index.parquet"), records)
        clips = WindowCheck(num_frames=29, rate_fps=None)
        check = LabelCheck(clips=clips, windows=None, labels_per_class=(0,))
        return [sentence for sentence in check(Index(str(tmp_path))) if "Unicode" in sentence]

    assert said("walk", "run", "a walk", "walking") == []
    (sentence,) = said("walk", "run", "Walk", "caf\u00e9", "cafe\u0301", "7", "07")
    assert sentence.endswith("4: 'Walk', 'walk', 'cafe\u0301', 'caf\u00e9'")


def checks(plan: Plan) -> dict[str, WindowCheck]:
    """The checks of a plan's indexes, each of which is what the next stages read."""
    nodes = [node for node in plan.nodes if node.stage.name == "ingest"]
    for node in nodes:
        assert any(parent is node for other in plan.nodes for parent in other.parents), node.name
    return {node.name: node.check for node in nodes if isinstance(node.check, WindowCheck)}


def test_every_recipe_that_takes_videos_has_the_check(shared_data: Path, tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / name).write_bytes(b"x")
    videos, store = (str(tmp_path),), str(tmp_path / "store")
    assert checks(demo.build(demo.DemoOptions(videos=videos, store=store)))["ingest"].num_frames == 16 + 13
    assert checks(demo.build(demo.DemoOptions(store=store))) == {}
    cut = checks(patches.build(patches.PatchesOptions(videos=videos, store=store)))["ingest"]
    assert (cut.num_frames, cut.remedy) == (29, "give fewer cut.num_frames")
    data = shared_data / "ucf101"
    lists = str(shared_data / "splits" / "ucf101")
    options = UCF101Options(
        videos=(str(data),), lists=lists, unlabelled=videos, store=store, allow_missing=True, tables=("3",)
    )
    found = checks(action_recognition.build(options))
    assert (found["ingest"].num_frames, found["ingest unlabelled"].num_frames) == (16, 29)


def test_recipe_youtube_has_the_check(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / name).write_bytes(b"x")
    plan = build(YoutubeOptions(videos=(str(tmp_path),), store=str(tmp_path / "store")))
    (node,) = [node for node in plan.nodes if node.stage.name == "ingest"]
    assert isinstance(node.check, WindowCheck)
    assert node.check.num_frames == 16 + 13
    assert all(parent is node for other in plan.nodes for parent in other.parents if parent.name == "ingest")
