"""Authorities: Pillow reads back what is written; pixels are where the layout says."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from stages.figures.canvas import CELL_PX, Row, Scene, animation, gif, png, strip, tiles, to_rgb


def frames(num: int, first: int = 0) -> np.ndarray:
    """Frame t is all 10 * (first + t)."""
    levels = 10 * (first + np.arange(num))
    return np.broadcast_to(levels[:, None, None, None], (num, 8, 8, 3)).astype(np.uint8)


def scenes(num: int = 6, first: int = 2) -> list[Scene]:
    return [Scene("one", (Row("truth", frames(num)), Row("model", frames(num - first, first), first)))]


def levels_in(image: Image.Image) -> set[int]:
    """Levels of all 8x8 blocks that are one grey."""
    pixels = np.asarray(image)
    grey = (pixels.max(-1) == pixels.min(-1)) & (pixels[..., 0] < 100)
    values, counts = np.unique(pixels[grey][:, 0], return_counts=True)
    return {int(value) for value, count in zip(values, counts, strict=True) if count >= CELL_PX**2}


def test_a_strip_shows_every_frame_of_every_row() -> None:
    image = strip(scenes(), num_seen=3)
    assert levels_in(image) == {0, 10, 20, 30, 40, 50}
    pixels = np.asarray(image)
    for level, rows in ((0, 1), (10, 1), (20, 2), (50, 2)):
        assert ((pixels == level).all(-1)).sum() == pytest.approx(rows * CELL_PX**2, rel=0.05)


def test_a_long_strip_keeps_the_frames_next_to_the_border() -> None:
    assert levels_in(strip([Scene("", (Row("", frames(9)),))], num_seen=4, max_columns=4)) == {0, 30, 40, 70}


def test_an_animation_has_a_picture_a_frame_and_turns_colour() -> None:
    pictures = animation(scenes(), num_seen=3, seen_word="remembered", expected_word="predicted")
    assert len(pictures) == 6
    found = Image.open(io.BytesIO(gif(pictures)))
    assert (found.format, found.n_frames, found.info["loop"]) == ("GIF", 6, 0)
    orange = [bool((np.asarray(picture) == (205, 92, 0)).all(-1).any()) for picture in pictures]
    assert orange == [False, False, False, True, True, True]


def test_equal_frames_give_equal_bytes_without_metadata() -> None:
    assert png(strip(scenes(), num_seen=3)) == png(strip(scenes(), num_seen=3))
    assert Image.open(io.BytesIO(png(strip(scenes(), num_seen=3)))).info == {}
    moving = animation(scenes(), num_seen=3, seen_word="a", expected_word="b")
    assert gif(moving) == gif(moving)


def test_tiles_lie_side_by_side() -> None:
    image = np.asarray(tiles(frames(5), columns=3))
    assert image.shape == (2 * 9 + 1, 3 * 9 + 1, 3)
    assert image[1, 1, 0] == 0
    assert image[10, 10, 0] == 40
    assert image[10, 20, 0] == 255


def test_grey_becomes_rgb() -> None:
    x = np.array([[[0.0, 0.5, 1.0, 2.0]]])
    assert to_rgb(x)[0, 0].tolist() == [[0] * 3, [128] * 3, [255] * 3, [255] * 3]
