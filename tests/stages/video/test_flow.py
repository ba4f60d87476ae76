"""Flow against known translations; bytes against fractions and by hand; stacks by their fields."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from pipeline.core.errors import ConfigError
from pipeline.core.files import sha256_file
from pipeline.core.stage import Context
from stages.convnets import vgg16
from stages.convnets.config import ConvnetConfig
from stages.convnets.convnet import percept_dim
from stages.extract import ExtractConfig, extract
from stages.extraction.config import ExtractionConfig, extractor_of
from stages.ingest import IngestConfig, ingest
from stages.video.chunks import FrameChunk
from stages.video.decode import DecodeConfig, VideoDecoder
from stages.video.flow import FlowStacks, to_bytes
from tests.stages.video.clips import encode
from tests.stages.video.test_decode import join


def shifted(steps: list[tuple[int, int]], height: int = 64, width: int = 80) -> npt.NDArray[np.uint8]:
    """(N, H, W, 3) windows on a soft texture; from frame n to n + 1 everything moves by steps[n] = (x, y)."""
    noise = np.random.default_rng(0).integers(0, 256, (256, 256), dtype=np.uint8)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)
    x, y, frames = 100, 100, []
    for step_x, step_y in [(0, 0), *steps]:
        # What moves to the right in the picture is a window that moves to the left.
        x, y = x - step_x, y - step_y
        frames.append(np.repeat(texture[y : y + height, x : x + width, None], 3, axis=2))
    return np.stack(frames)


def chunks_of(frames: npt.NDArray[np.uint8], segments: list[int], size: int) -> list[FrameChunk]:
    numbers = np.arange(len(frames), dtype=np.int32) + 3 * np.array(segments, np.int32)
    pieces = [slice(first, first + size) for first in range(0, len(frames), size)]
    return [
        FrameChunk(frames[p], numbers[p], numbers[p].astype(np.int64) * 40_000, np.array(segments, np.int32)[p])
        for p in pieces
    ]


def stacks_of(chunks: list[FrameChunk], stack: int = 1, **settings: object) -> npt.NDArray[np.uint8]:
    made = {"bound_px": 20.0, "subtract_mean": False, "crop_px": None, "chunk_frames": 4, **settings}
    out = list(FlowStacks("dis", stack=stack, **made)(chunks))  # type: ignore[arg-type]
    for name in ("index_N", "pts_us_N", "segment_N"):
        assert np.array_equal(join(out, name), np.concatenate([getattr(chunk, name) for chunk in chunks]))
    return np.concatenate([chunk.frames_NHWC for chunk in out])


def pixels(stacks_NHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """(N, C) median displacement of the middle of each channel."""
    middle = stacks_NHWC[:, 16:-16, 16:-16].astype(np.float64)
    return np.median(middle, axis=(1, 2)) * (40 / 255) - 20


STEPS = [(3, 0), (0, -4), (-2, 5), (6, 1)]


def test_translations_are_found() -> None:
    found = pixels(stacks_of(chunks_of(shifted(STEPS), [0] * 5, 2)))
    np.testing.assert_allclose(found, [*STEPS, STEPS[-1]], atol=0.3)


def test_stacks_are_x_and_y_of_the_next_fields_and_repeat_the_last() -> None:
    found = pixels(stacks_of(chunks_of(shifted(STEPS), [0] * 5, 3), stack=3))
    fields = [*STEPS, *[STEPS[-1]] * 4]
    expected = [[v for field in fields[n : n + 3] for v in field] for n in range(5)]
    np.testing.assert_allclose(found, expected, atol=0.3)


def test_no_stack_reaches_across_a_gap() -> None:
    """Frames 0 to 2, a gap, frame 3 by itself, a gap, frame 4 by itself: the jumps of 6 and 5 pixels do not show."""
    together = stacks_of(chunks_of(shifted(STEPS), [0, 0, 0, 1, 2], 2), stack=2)
    alone = stacks_of(chunks_of(shifted(STEPS)[:3], [0, 0, 0], 2), stack=2)
    assert np.array_equal(together[:3], alone)
    assert np.all(together[3:] == 128)


def test_a_pan_can_be_taken_out() -> None:
    stacks = stacks_of(chunks_of(shifted([(4, 2)]), [0, 0], 2), subtract_mean=True)
    assert abs(stacks[:, 16:-16, 16:-16].astype(int) - 128).max() <= 4


def test_the_crop_sees_what_moves_in() -> None:
    frames = shifted(STEPS)
    whole = stacks_of(chunks_of(frames, [0] * 5, 2))
    cropped = stacks_of(chunks_of(frames, [0] * 5, 2), crop_px=32)
    assert np.array_equal(cropped, whole[:, 16:48, 24:56])


@given(st.floats(-60, 60, width=32), st.sampled_from([8.0, 15.0, 20.0]))
def test_bytes_are_the_published_rescaling(value: float, bound: float) -> None:
    exact = Fraction(255) * (Fraction(value) + Fraction(bound)) / (2 * Fraction(bound))
    (byte,) = np.unique(to_bytes(np.full((2, 2, 2), value, np.float32), bound, subtract_mean=False))
    assert abs(Fraction(int(byte)) - min(max(exact, Fraction(0)), Fraction(255))) <= Fraction(50001, 100000)


def test_bytes_by_hand() -> None:
    field = np.array([[[-25, -20], [0, 20], [10, 25]]], np.float32)
    assert to_bytes(field, 20.0, subtract_mean=False).tolist() == [[[0, 0], [128, 255], [191, 255]]]


def test_decoding_gives_flow(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mkv", shifted([(2, 0)] * 9), codec="ffv1", pixel_format="bgr0")
    config = DecodeConfig(short_side_px=64, crop_px=48, flow="dis", flow_stack=2)
    decoder = VideoDecoder(path, config, chunk_frames=4)
    chunks = list(decoder)
    assert decoder.report.frames_decoded == 10
    stacks = np.concatenate([chunk.frames_NHWC for chunk in chunks])
    assert stacks.shape == (10, 48, 48, 4)
    np.testing.assert_allclose(pixels(stacks), [[2, 0, 2, 0]] * 10, atol=0.3)
    again = np.concatenate([chunk.frames_NHWC for chunk in VideoDecoder(path, config)])
    assert again.tobytes() == stacks.tobytes()
    # Half the frames: each field spans two of the video's own.
    half = VideoDecoder(path, replace(config, flow_stack=1, rate_fps=12.5))
    np.testing.assert_allclose(pixels(np.concatenate([c.frames_NHWC for c in half])), [[4, 0]] * 5, atol=0.3)


def test_tv_l1_is_there_or_says_what_is_missing() -> None:
    config = ExtractionConfig(
        convnet=ConvnetConfig(name="vgg16_flow", layer="fc6", in_channels=2, weights="x", weights_sha256="0" * 64),
        decode=DecodeConfig(flow="tvl1"),
    )
    if hasattr(cv2, "optflow"):
        found = pixels(np.concatenate([c.frames_NHWC for c in _tvl1(chunks_of(shifted(STEPS), [0] * 5, 2))]))
        np.testing.assert_allclose(found, [*STEPS, STEPS[-1]], atol=0.5)
    else:
        with pytest.raises(ConfigError, match="put opencv-contrib-python-headless in the place of"):
            _tvl1([])
        assert config.decode.num_channels == 2


def _tvl1(chunks: list[FrameChunk]) -> list[FrameChunk]:
    return list(FlowStacks("tvl1", stack=1, bound_px=20, subtract_mean=False, crop_px=None, chunk_frames=8)(chunks))


def test_percepts_of_flow_have_a_row_a_frame_and_another_fingerprint(tmp_path: Path) -> None:
    encode(tmp_path / "a.mkv", shifted([(2, 0)] * 9), codec="ffv1", pixel_format="bgr0")
    torch.manual_seed(0)
    layers = vgg16.vgg16_layers("pool5", vgg16.STAGES, vgg16.FC_UNITS, vgg16.POOL5_CELLS, in_channels=4)
    weights = tmp_path / "flow.safetensors"
    save_file({key: value.detach() for key, value in layers.state_dict().items()}, weights)
    config = ExtractConfig(
        convnet=ConvnetConfig(
            name="vgg16_flow",
            layer="pool5",
            in_channels=4,
            input_px=32,
            weights=str(weights),
            weights_sha256=sha256_file(str(weights)),
        ),
        decode=DecodeConfig(short_side_px=64, crop_px=32, flow="dis", flow_stack=2),
    )
    index = ingest(IngestConfig(videos=(str(tmp_path / "a.mkv"),)), Context.for_test(tmp_path / "index"))
    store = extract(config, Context.for_test(tmp_path / "store"), index=index).open()
    (percepts_ND,) = [store.percepts(video) for video in store.videos]
    (chunk,) = VideoDecoder(tmp_path / "a.mkv", config.decode)
    x_NCHW = torch.from_numpy(chunk.frames_NHWC).permute(0, 3, 1, 2).float() - 128
    with torch.inference_mode():
        expected_ND = layers(x_NCHW).mean((2, 3)).numpy()
    np.testing.assert_allclose(percepts_ND, expected_ND, rtol=2e-3, atol=2e-4 * np.abs(expected_ND).max())
    prints = {
        extractor_of(replace(config, decode=replace(config.decode, **changes))).fingerprint
        for changes in ({}, {"flow_bound_px": 15.0}, {"flow_subtract_mean": True})
    }
    assert len(prints) == 3
    assert store.extractor.fingerprint in prints


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"delivers 20 channels.*set convnet\.in_channels to twice"):
        ExtractionConfig(decode=DecodeConfig(flow="dis", flow_stack=10))
    with pytest.raises(ConfigError, match="stacks of L flow fields have 2 L"):
        ConvnetConfig(in_channels=5)
    with pytest.raises(ConfigError, match="takes optical flow; set"):
        percept_dim(ConvnetConfig(name="vgg16_flow", layer="fc6"))
    with pytest.raises(ConfigError, match="takes RGB frames and not 4 channels of flow"):
        percept_dim(ConvnetConfig(in_channels=4))
    with pytest.raises(ConfigError, match="flow_stack is 0"):
        DecodeConfig(flow="dis", flow_stack=0)
    assert percept_dim(ConvnetConfig(name="vgg16_flow", layer="fc6", in_channels=20)) == 4096
