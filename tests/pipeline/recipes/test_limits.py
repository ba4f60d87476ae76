"""Limits on a video: one option of a recipe decides what is indexed and what is decoded."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from pipeline.core.errors import ConfigError
from pipeline.engine.plan import Plan
from pipeline.recipes import patches, youtube
from stages.convnets.config import ConvnetConfig
from stages.digits_and_patches import CutPatchesConfig
from stages.extract import ExtractConfig
from stages.ingest import IngestConfig
from stages.percepts.artifacts import Percepts
from stages.video.artifacts import Index
from stages.video.decode import DecodeConfig
from stages.video.ledger import VideoRecord
from stages.video.limits import Limits
from tests.pipeline.small_store import run_plan
from tests.stages.video.clips import encode, moving_square

SEVEN_HOURS_S = 7 * 3600
EXTRACT = ExtractConfig(
    convnet=ConvnetConfig(name="pixels", layer="gray", grid=2, input_px=16),
    decode=DecodeConfig(short_side_px=16, crop_px=16),
)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 14 frames, half an hour each, beside a short one: a recipe needs one to validate on as well."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    encode(path.with_name("short.mp4"), moving_square(30), fps=Fraction(25))
    return encode(path, moving_square(14), fps=Fraction(1, 1800))


def of_long(records: Iterable[VideoRecord]) -> list[VideoRecord]:
    """Returns the records of the long video: one."""
    return [record for record in records if record.uri.endswith("long.mp4")]


def first_stages(video: Path, root: Path, limits: Limits) -> tuple[Index, Percepts]:
    """The index and the percepts of recipe youtube."""
    videos = (str(video.parent),)
    plan = youtube.build(youtube.YOUTUBE.options(videos=videos, held_out=0.0, limits=limits, extract=EXTRACT))
    start = Plan("start", plan.nodes[:2])
    made = run_plan(str(root), start)
    return (
        Index(f"{root}/ingest/{made['ingest'].key}"),
        Percepts(f"{root}/extract/{made['extract'].key}"),
    )


def test_a_video_of_seven_hours(video: Path, tmp_path: Path) -> None:
    index, percepts = first_stages(video, tmp_path / "store", Limits(max_duration_s=8 * 3600.0))
    (listed,), (decoded,) = of_long(index.records()), of_long(percepts.records())
    assert listed.duration_us == SEVEN_HOURS_S * 1_000_000
    assert (listed.verdict, decoded.verdict, decoded.frames_decoded) == ("ok", "ok", 14)
    plan = youtube.build(youtube.YOUTUBE.options(videos=(str(video.parent),), held_out=0.0, extract=EXTRACT))
    made = run_plan(str(tmp_path / "default"), Plan("start", plan.nodes[:1]))
    (record,) = of_long(Index(f"{tmp_path}/default/ingest/{made['ingest'].key}").records())
    assert (record.verdict, record.reason) == ("rejected", "lasts longer than max_duration_s = 21600 s")


def test_one_option_decides_for_every_stage(video: Path, tmp_path: Path) -> None:
    limits, videos = Limits(max_frames=1000), (str(tmp_path),)
    for number in range(3):
        shutil.copy(video, tmp_path / f"{number}.mp4")
    plan = patches.build(patches.PATCHES.options(videos=videos, limits=limits))
    configs = {node.name: node.config for node in plan.nodes}
    assert isinstance(configs["ingest"], IngestConfig)
    assert configs["ingest"].limits == configs["cut_patches"].limits == limits
    cut = CutPatchesConfig(limits=Limits(max_frames=7))
    with pytest.raises(ConfigError, match=r"--limits"):
        patches.build(patches.PATCHES.options(videos=videos, limits=limits, cut=cut))
    with pytest.raises(ConfigError, match=r"--limits"):
        youtube.build(
            youtube.YOUTUBE.options(videos=(str(video),), held_out=0.0, extract=replace(EXTRACT, limits=limits))
        )
