"""cut on encoded clips. Authority: the same frames, decoded whole and sliced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.files import join, list_files, read_bytes
from pipeline.core.stage import Context
from stages.datasets.mnist import PARTS
from stages.datasets.patch_cutting import Task, cut_video, cutter, piece_uri, places
from stages.datasets.patches import CuttingConfig, moments_of
from stages.digits_and_patches import CutPatchesConfig, cut_patches
from stages.video.artifacts import Index
from stages.video.decode import DecodeConfig, VideoDecoder
from stages.video.ledger import VideoRecord
from stages.video.limits import Limits
from tests.stages.made_clips import make_index

CONFIG = CutPatchesConfig(num_frames=6, patches_per_video=5, short_side_px=40, test_portion=0.3, validation_portion=0.2)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return make_index(tmp_path_factory.mktemp("clips"), (9, 14, 6, 11, 8, 9, 12, 4, 10, 10))


def decode(record: VideoRecord, config: CuttingConfig, chunk_frames: int = 64) -> VideoDecoder:
    settings = DecodeConfig(short_side_px=config.short_side_px, crop_px=None)
    return VideoDecoder(record.uri, settings, limits=Limits(), chunk_frames=chunk_frames)


@pytest.mark.parametrize("chunk_frames", [1, 4, 64])
def test_patches_are_slices_of_the_video(index: Index, chunk_frames: int) -> None:
    record = index.records()[1]
    whole = np.concatenate([chunk.frames_NHWC for chunk in decode(record, CONFIG)])
    found = cut_video(decode(record, CONFIG, chunk_frames), CONFIG, record)
    where = places(CONFIG, record)
    assert found.shape == (5, 6, 32, 32, 3)
    assert len(np.unique(where.start_K)) > 1
    for patch, start, (y, x) in zip(found, where.start_K, where.corner_K2, strict=True):
        top, left = int(y * 9), int(x * 9)
        np.testing.assert_array_equal(patch, whole[start : start + 6, top : top + 32, left : left + 32])


def test_places_cover_the_whole_video() -> None:
    config = CuttingConfig(num_frames=3, patches_per_video=400)
    record = VideoRecord(uri="a", sha256="0123456789abcdef" * 4, size_bytes=1, verdict="ok", frames_expected=7)
    where = places(config, record)
    assert set(where.start_K.tolist()) == {0, 1, 2, 3, 4}
    assert 0 <= where.corner_K2.min() < 0.05
    assert 0.95 < where.corner_K2.max() < 1
    other = places(CuttingConfig(num_frames=3, patches_per_video=400, seed=1), record)
    assert not np.array_equal(other.corner_K2, where.corner_K2)


def test_patches_never_cross_a_gap(index: Index) -> None:
    record = index.records()[1]

    class Gapped(VideoDecoder):
        """Frame 7 is missing."""

        def __iter__(self):  # type: ignore[no-untyped-def]
            for chunk in super().__iter__():
                keep = chunk.index_N != 7
                yield type(chunk)(
                    chunk.frames_NHWC[keep],
                    chunk.index_N[keep],
                    chunk.pts_us_N[keep],
                    (chunk.index_N[keep] > 7).astype(np.int32),
                )

    settings = DecodeConfig(short_side_px=40, crop_px=None)
    config = CuttingConfig(num_frames=6, patches_per_video=60, short_side_px=40)
    starts = places(config, record).start_K
    found = cut_video(Gapped(record.uri, settings, limits=Limits()), config, record)
    assert len(found) == np.sum((starts + 6 <= 7) | (starts > 7))


def test_parts_share_no_video_and_moments_are_those_of_training(index: Index, tmp_path: Path) -> None:
    one, other = (cut_patches(CONFIG, Context.for_test(tmp_path / name), index=index) for name in ("a", "b"))
    parts = one.read().parts
    videos = [video.sha256 for part in PARTS for video in parts[part].videos]
    # One of the ten clips is shorter than a patch.
    assert len(videos) == len(set(videos)) == 9
    for part in PARTS:
        patches = one.map(part)
        assert patches.shape == (parts[part].num_patches, 6, 32, 32, 3)
        assert patches.dtype == np.uint8
        assert isinstance(patches, np.memmap)
        assert sum(video.num_patches for video in parts[part].videos) == len(patches)
    assert one.moments() == moments_of([one.map("train")])
    names = list_files(one.uri)
    assert names == ["patches.json", "test.npy", "train.npy", "validation.npy"]
    assert all(read_bytes(one.path(name)) == read_bytes(other.path(name)) for name in names)


def test_what_a_killed_run_left_is_used_if_it_is_whole(index: Index, tmp_path: Path) -> None:
    whole = cut_patches(CONFIG, Context.for_test(tmp_path / "whole"), index=index)
    context = Context.for_test(tmp_path / "killed")
    work = cutter(CONFIG, context.uri)
    good, bad = index.records()[:2]
    assert work(Task(good)).num_patches == work(Task(good)).num_patches == 5
    damaged = Path(piece_uri(context.uri, bad))
    damaged.write_bytes(read_bytes(piece_uri(context.uri, good))[:-7])
    found = cut_patches(CONFIG, context, index=index)
    for name in list_files(whole.uri):
        assert read_bytes(join(found.uri, name)) == read_bytes(join(whole.uri, name))


def test_too_little_video_is_an_error(index: Index, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no patch of 15 frames"):
        cut_patches(CutPatchesConfig(num_frames=15), Context.for_test(tmp_path), index=index)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_frames": 0},
        {"short_side_px": 31},
        {"test_portion": 0.0},
        {"test_portion": 0.6, "validation_portion": 0.4},
    ],
)
def test_settings_are_checked(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        CutPatchesConfig(**settings)  # type: ignore[arg-type]
