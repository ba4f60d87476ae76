"""Labelled clips: samplings by their properties, windows against a NumPy transcription."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.files import sha256_bytes
from stages.datasets.labelled import ClipFinder, draw, labelled, load_windows, refuse_leaks
from stages.datasets.split_subsets import clips_of
from stages.datasets.splits import AssignedClip, AssignedSplits, Splits
from stages.percepts.artifacts import Percepts
from stages.percepts.shards import LEDGER_FILE
from stages.percepts.transforms import Standardisation
from stages.video.ledger import VideoRecord, write_records
from tests.stages.labelled_store import Clip, make_store, record_of


def record(number: int, label: str | None = "run", part: str = "train", group: str | None = None) -> VideoRecord:
    sha256 = sha256_bytes(str(number).encode())
    return VideoRecord(
        uri=f"{number}.mp4", sha256=sha256, size_bytes=1, verdict="ok", label=label, part=part, group=group
    )


CLIPS = [record(number, label) for number, label in enumerate(["jump"] * 9 + ["run"] * 7 + ["swim"] * 8)]


@given(st.integers(1, 6), st.integers(0, 50), st.integers(0, 5), st.randoms())
def test_a_sampling_is_a_pure_function_of_what_it_names(labels: int, sampling: int, seed: int, random: object) -> None:
    found = draw(CLIPS, labels_per_class=labels, sampling=sampling, seed=seed)
    assert [clip.label for clip in found] == ["jump"] * labels + ["run"] * labels + ["swim"] * labels
    assert len({clip.sha256 for clip in found}) == len(found)
    shuffled = list(CLIPS)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert draw(shuffled, labels_per_class=labels, sampling=sampling, seed=seed) == found
    larger = draw(CLIPS, labels_per_class=labels + 1, sampling=sampling, seed=seed)
    assert {clip.sha256 for clip in found} < {clip.sha256 for clip in larger}
    unused = next(clip for clip in CLIPS if clip not in found)
    fewer = [clip for clip in CLIPS if clip != unused]
    assert draw(fewer, labels_per_class=labels, sampling=sampling, seed=seed) == found


def test_samplings_and_seeds_differ() -> None:
    drawn = {
        tuple(clip.uri for clip in draw(CLIPS, labels_per_class=3, sampling=sampling, seed=seed))
        for sampling in range(10)
        for seed in range(2)
    }
    assert len(drawn) == 20


def test_every_clip_is_drawn_as_often_as_the_others() -> None:
    num_samplings = 3000
    drawn = [draw(CLIPS, labels_per_class=2, sampling=sampling, seed=0) for sampling in range(num_samplings)]
    for label, members in (("jump", 9), ("run", 7), ("swim", 8)):
        expected = num_samplings * 2 / members
        counts = [sum(clip in sampling for sampling in drawn) for clip in CLIPS if clip.label == label]
        assert sum((count - expected) ** 2 / expected for count in counts) < 26  # chi-squared, 8 degrees: p = 0.001


def test_too_few_clips_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"'run' has 7 labelled clips \(1 of 3 classes"):
        draw(CLIPS, labels_per_class=8, sampling=0, seed=0)


def test_usable_clips_of_the_part_alone() -> None:
    rejected = replace(record(3), verdict="rejected")
    records = [record(2), record(1), record(1), rejected, record(4, label=None), record(5, part="test")]
    assert labelled(records, "train") == sorted([record(1), record(2)], key=lambda clip: clip.sha256)
    with pytest.raises(SourceError, match="no usable labelled clip in part 'validation'"):
        labelled(records, "validation")
    with pytest.raises(SourceError, match="same video, labelled 'run' and 'jump'"):
        labelled([record(1), record(1, label="jump")], "train")


def test_a_leak_is_refused_by_name() -> None:
    clean = [record(1, group="a"), record(2, group="b"), record(3, part="test", group="c"), record(4, part="test")]
    refuse_leaks(clean, "train")
    with pytest.raises(SourceError, match=r"5\.mp4 .*2\.mp4 .*both of group 'b'"):
        refuse_leaks([*clean, record(5, part="test", group="b")], "train")
    with pytest.raises(SourceError, match=r"1\.mp4 .*1\.mp4 .*the same video"):
        refuse_leaks([*clean, record(1, part="test")], "train")


def test_windows_are_those_that_one_cuts_by_hand(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lengths = {"whole": [11], "gap": [6, 2, 5], "short": [2, 3, 1]}
    clips = [
        Clip(
            "train",
            name,
            rng.standard_normal((sum(parts), 3)).astype(np.float16),
            segments=np.repeat(np.arange(len(parts), dtype=np.int32), parts),
        )
        for name, parts in lengths.items()
    ]
    percepts, statistics = make_store(tmp_path, clips)
    standardise = Standardisation.of(statistics.moments())
    records = [record_of(clip, str(clip.label)) for clip in clips]
    windows = load_windows(ClipFinder(percepts.open()), records, standardise, num_frames=4, stride=2)
    moments = statistics.moments()
    whole, gap, short = ((clip.percepts.astype(np.float32) - moments.mean_D) / moments.std_D for clip in clips)
    expected = [
        [whole[first : first + 4] for first in (0, 2, 4, 6)],
        [gap[0:4], gap[2:6], gap[8:12]],
        [short[[2, 3, 4, 4]]],
    ]
    assert windows.num_padded == 1
    for starts, clip_windows in zip(windows.starts_N, expected, strict=True):
        np.testing.assert_allclose(windows.gather(starts), np.stack(clip_windows, axis=1), rtol=1e-5, atol=1e-6)
    pairs = np.stack([windows.starts_N[0][:2], windows.starts_N[1][1:]])
    assert windows.gather(pairs).shape == (2, 4, 2, 3)
    np.testing.assert_allclose(windows.gather(pairs)[1, :, 0], gap[2:6], rtol=1e-5, atol=1e-6)


def test_a_clip_without_percepts_is_named(tmp_path: Path) -> None:
    percepts, statistics = make_store(tmp_path, [Clip("train", "run", np.ones((5, 3), np.float16))])
    standardise = Standardisation.of(statistics.moments())
    with pytest.raises(SourceError, match=r"77\.mp4 .*no percepts"):
        load_windows(ClipFinder(percepts.open()), [record(77)], standardise, num_frames=4, stride=1)


def test_only_records_that_a_split_may_hold_are_kept(tmp_path: Path) -> None:
    """A ledger is mostly videos to pretrain on: their records took a kilobyte each, in every worker."""
    records = [
        VideoRecord(
            uri=f"/v/v_Run_g{n:02d}.avi", sha256=f"{n:064x}", size_bytes=1, verdict="ok", codec="h264", label=label
        )
        for n, label in enumerate((None, "run", None, "jump"))
    ]
    write_records(f"{tmp_path}/{LEDGER_FILE}", records)
    percepts = Percepts(str(tmp_path))
    kept = clips_of(percepts, None)
    assert [record.label for record in kept] == ["run", "jump"]
    assert kept[0].codec is kept[1].codec, "equal words of two rows are one string"
    lists = AssignedSplits(
        name="made",
        counts=(),
        counts_in_index=(),
        clips=tuple(AssignedClip(name=name, label="run", group="g", parts=()) for name in ("v_RUN_g02", "v_Run_g07")),
    )
    lists.write(f"{tmp_path}/splits.json")
    assert [record.sha256 for record in clips_of(percepts, Splits(str(tmp_path)))] == [f"{2:064x}"]
