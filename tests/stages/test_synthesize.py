"""The corpus: parts share nothing, labels are balanced and true of the encoded video, frames alone do not tell them."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy.stats import ks_2samp

from pipeline.core.errors import ConfigError
from pipeline.core.files import list_files, read_bytes
from pipeline.core.stage import Context
from pipeline.core.workers import Workers
from stages.datasets.clip_painter import Painter, load_photographs, tiles, track
from stages.datasets.synthetic_clips import MOTIONS, PARTS, SynthesizeConfig, SyntheticClip
from stages.synthesize import encode_h264, planned_clips, synthesize
from stages.video.artifacts import Corpus

SMALL = SynthesizeConfig(num_unlabelled=10, num_train=24, num_test=16, unlabelled_frames=20, labelled_frames=24)

Frames = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return synthesize(SMALL, Context.for_test(tmp_path_factory.mktemp("corpus")))


@pytest.fixture(scope="module")
def painter() -> Painter:
    return Painter(SMALL)


@pytest.fixture(scope="module")
def manifest(corpus: Corpus) -> pd.DataFrame:
    return pd.read_csv(corpus.manifest_uri, keep_default_na=False)


def decoded(data: bytes) -> Frames:
    with av.open(io.BytesIO(data)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def ink_track(frames_THWC: Frames) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """x, y (T,) of the bright pixels' centre, in sides of the frame and unwrapped, and their number (T,)."""
    bright_THW = frames_THWC.mean(-1) > 150
    side = bright_THW.shape[1]
    turns = np.exp(2j * np.pi * np.arange(side) / side)
    x_T, y_T = (np.angle((bright_THW * weight).sum((1, 2))) / (2 * np.pi) for weight in (turns, turns[:, None]))
    return np.unwrap(x_T, period=1), np.unwrap(y_T, period=1), bright_THW.sum((1, 2))


def seen_motion(frames_THWC: Frames) -> str:
    """The motion of a video, measured without knowing how it was made."""
    x_T, y_T, area_T = ink_track(frames_THWC)
    way_x, way_y = np.diff(x_T), np.diff(y_T)
    # A digit in one place grows steadily, but for the frame in which it starts anew.
    if max(np.ptp(x_T), np.ptp(y_T)) < 0.2:
        return "grow" if np.median(np.diff(area_T)) > 0 else "shrink"
    turned = np.unwrap(np.arctan2(way_y, way_x))
    if abs(turned[-1] - turned[0]) > np.pi / 2:
        return "clockwise" if turned[-1] > turned[0] else "anticlockwise"
    if abs(way_x.sum()) > abs(way_y.sum()):
        return "right" if way_x.sum() > 0 else "left"
    return "down" if way_y.sum() > 0 else "up"


def reversal(motion: str) -> str:
    return MOTIONS[MOTIONS.index(motion) ^ 1]


def test_no_digit_is_in_two_clips_and_motions_are_balanced(manifest: pd.DataFrame) -> None:
    assert manifest["group"].is_unique
    assert manifest["uri"].is_unique
    assert manifest["part"].value_counts().to_dict() == {"unlabelled": 10, "train": 24, "test": 16}
    for part, num_clips in (("train", 3), ("test", 2)):
        assert Counter(manifest.loc[manifest["part"] == part, "label"]) == dict.fromkeys(MOTIONS, num_clips)


def test_the_manifest_does_not_tell_unlabelled_motions(manifest: pd.DataFrame) -> None:
    assert set(manifest.loc[manifest["part"] == "unlabelled", "label"]) == {""}


def test_the_full_corpus_is_balanced_in_every_part_and_in_random_order() -> None:
    clips = planned_clips(SynthesizeConfig())
    assert len({clip.digit for clip in clips}) == len(clips)
    for part in PARTS:
        motions = [clip.motion for clip in clips if clip.part == part]
        assert len(set(Counter(motions).values())) == 1
        assert motions != sorted(motions, key=MOTIONS.index)
        assert motions[: len(MOTIONS)] != list(MOTIONS)


def test_parts_share_no_pixel_of_a_photograph() -> None:
    photographs = load_photographs()
    assert len(photographs) == 12
    for photograph_HWC in photographs:
        height, width = photograph_HWC.shape[:2]
        number_HW = np.arange(height * width).reshape(height, width)
        pixels = {part: np.concatenate([tile.ravel() for tile in tiles(number_HW, part)]) for part in PARTS}
        for one, other in combinations(PARTS, 2):
            assert len(pixels[one])
            assert not np.intersect1d(pixels[one], pixels[other]).size


def test_clips_decode_to_what_the_config_says(corpus: Corpus, manifest: pd.DataFrame) -> None:
    expected = {"unlabelled": (20, 64, 64, 3), "train": (24, 64, 64, 3), "test": (24, 64, 64, 3)}
    for uri, part in zip(manifest["uri"], manifest["part"], strict=True):
        assert decoded(read_bytes(corpus.path(uri))).shape == expected[part]


def test_the_motion_in_the_encoded_video_is_its_label_and_backwards_its_reversal(
    corpus: Corpus, manifest: pd.DataFrame
) -> None:
    labelled = manifest[manifest["label"] != ""]
    videos = [decoded(read_bytes(corpus.path(uri))) for uri in labelled["uri"]]
    assert [seen_motion(video) for video in videos] == list(labelled["label"])
    assert [seen_motion(video[::-1]) for video in videos] == [reversal(label) for label in labelled["label"]]


@pytest.mark.parametrize("motion", MOTIONS[::2])
def test_single_frames_of_a_pair_are_distributed_alike(motion: str) -> None:
    def frames(motion: str, seed: int) -> npt.NDArray[Any]:
        rng = np.random.default_rng(seed)
        tracks = [np.stack(track(motion, 32, rng))[:, rng.integers(32)] for _ in range(1500)]
        return np.stack(tracks, axis=1) % [[1], [1], [10]]

    for one, other in zip(frames(motion, 1), frames(reversal(motion), 2), strict=True):
        assert ks_2samp(one, other).pvalue > 0.01


class Backwards(Workers):
    """Shards are made in another order."""

    def map(
        self, factory: Callable[[], Callable[[Any], Any]], items: Sequence[Any], **how: Any
    ) -> Iterator[tuple[int, Any]]:
        for position, result in super().map(factory, items[::-1], **how):
            yield len(items) - 1 - position, result


def test_bytes_do_not_depend_on_the_order_or_on_what_a_killed_attempt_left(corpus: Corpus, tmp_path: Path) -> None:
    again = Context.for_test(tmp_path, workers=Backwards())
    kept = next(name for name in list_files(corpus.uri) if name.endswith(".mp4"))
    (tmp_path / "out" / kept).parent.mkdir(parents=True)
    (tmp_path / "out" / kept).write_bytes(read_bytes(corpus.path(kept)))
    other = synthesize(SMALL, again)
    assert list_files(other.uri) == list_files(corpus.uri)
    for name in list_files(corpus.uri):
        assert read_bytes(other.path(name)) == read_bytes(corpus.path(name)), name
    assert again.facts["num_videos"] == 50
    assert again.facts["num_frames"] == 10 * 20 + 40 * 24


def test_another_seed_is_another_corpus(painter: Painter) -> None:
    clip = SyntheticClip("train", 0, "grow", 7, 2)
    other = Painter(replace(SMALL, seed=1))
    assert not np.array_equal(painter.paint(clip), other.paint(clip))


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"num_train": 12}, "multiple of 8"),
        ({"num_unlabelled": 4_800}, "there are 5000"),
        ({"labelled_frames": 0}, "at least 1"),
        ({"frame_px": 63}, "frame_px is even"),
        ({"digit_px": 65}, "from 16 to frame_px"),
        ({"brightness": (0.4, 0.2)}, "low first"),
        ({"crf": 52}, r"crf lies in 0\.\.51"),
    ],
)
def test_configs_that_make_no_sense_are_refused(given: dict[str, Any], rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        SynthesizeConfig(**given)


def test_encoding_gives_the_same_bytes_every_time(painter: Painter) -> None:
    # With x264's macroblock tree, some ten in a hundred such clips differ from one time to the next.
    for clip in planned_clips(SMALL)[:30]:
        frames = painter.paint(clip)
        assert len({encode_h264(frames.copy()) for _ in range(4)}) == 1, clip


def test_encoding_keeps_the_picture(painter: Painter) -> None:
    frames = painter.paint(SyntheticClip("test", 1, "up", 3, 12))
    data = encode_h264(frames, crf=10)
    # 4:2:0 halves the resolution of colour; brightness must come back.
    brightness_THW = frames.astype(float) @ [0.299, 0.587, 0.114]
    assert np.abs(decoded(data).astype(float) @ [0.299, 0.587, 0.114] - brightness_THW).mean() < 3
    assert len(encode_h264(frames, crf=40)) < len(data)


@pytest.mark.parametrize(
    "frames",
    [np.zeros((2, 31, 32, 3), np.uint8), np.zeros((2, 32, 32, 3), np.float32), np.zeros((0, 32, 32, 3), np.uint8)],
)
def test_frames_that_cannot_be_encoded_are_refused(frames: npt.NDArray[Any]) -> None:
    with pytest.raises(ValueError, match=r"frames are uint8|even sides"):
        encode_h264(frames)
