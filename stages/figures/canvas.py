"""Pictures made of frames: a strip with one row a model, and the same as an animation. Equal frames give equal bytes.

Shapes: T frames, H x W pixels, C channels (R, G, B).
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Frames = npt.NDArray[np.uint8]

INK: Final = (34, 34, 34)
PAPER: Final = (255, 255, 255)
HINT: Final = (120, 120, 120)
EXPECTED: Final = (205, 92, 0)
"""The colour of frames after the last one that the model saw."""
FONT_PX: Final = 13
LINE_PX: Final = 18
GAP_PX: Final = 2
BREAK_PX: Final = 12
"""The gap between the frames that the model saw and those after them."""
CELL_PX: Final = 64
FRAME_MS: Final = 120
PAUSE_MS: Final = 900
"""The time that an animation stays on its last frame."""


@dataclass(frozen=True)
class Row:
    """A line of frames with its name. `first`: the column of its first frame."""

    name: str
    frames_THWC: Frames
    first: int = 0

    def at(self, column: int) -> npt.NDArray[np.uint8] | None:
        """Returns the frame in a column, (H, W, C); None where this row has none."""
        t = column - self.first
        return self.frames_THWC[t] if 0 <= t < len(self.frames_THWC) else None


@dataclass(frozen=True)
class Scene:
    """A group of rows: one sequence as truth and as each model's output."""

    title: str
    rows: tuple[Row, ...]


def to_rgb(x_THW: npt.NDArray[np.floating]) -> Frames:
    """Returns grey frames in [0, 1], (T, H, W), as bytes in three channels, (T, H, W, 3)."""
    grey = np.asarray((x_THW * 255).round().clip(0, 255), np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def tiles(frames: Frames, columns: int) -> Image.Image:
    """Arranges small pictures (N, H, W, C) side by side, row after row, with thin lines between them."""
    num, height, width, _ = frames.shape
    rows = -(-num // columns)
    sheet = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, 3), 255, np.uint8)
    for n, frame in enumerate(frames):
        top, left = (n // columns) * (height + 1) + 1, (n % columns) * (width + 1) + 1
        sheet[top : top + height, left : left + width] = frame
    return Image.fromarray(sheet)


def strip(scenes: Sequence[Scene], *, num_seen: int, max_columns: int = 20, cell_px: int = CELL_PX) -> Image.Image:
    """Draws all scenes below one another; columns are frames, the first `num_seen` of which the model has seen.

    Where there are more than `max_columns` frames, every second (third, ...) is shown, counted from the border between
    seen and expected ones, so that the frames next to it are there.
    """
    columns = _columns(scenes, num_seen, max_columns)
    margin = _margin(scenes)
    lefts = [margin + i * (cell_px + GAP_PX) + (BREAK_PX if t >= num_seen else 0) for i, t in enumerate(columns)]
    width = lefts[-1] + cell_px + GAP_PX
    height = LINE_PX + sum(LINE_PX + len(scene.rows) * (cell_px + GAP_PX) + GAP_PX for scene in scenes)
    image = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(image)
    for left, t in zip(lefts, columns, strict=True):
        behind = t - num_seen + 1
        colour = EXPECTED if behind > 0 else HINT
        pen.text(
            (left + cell_px / 2, 2), f"{behind:+d}" if behind > 0 else f"{behind - 1}", colour, _font(), anchor="ma"
        )
    top = LINE_PX
    for scene in scenes:
        pen.text((GAP_PX, top), scene.title, INK, _font())
        top += LINE_PX
        for row in scene.rows:
            pen.text((margin - 8, top + cell_px / 2), row.name, HINT, _font(), anchor="rm")
            for left, t in zip(lefts, columns, strict=True):
                if (frame := row.at(t)) is not None:
                    image.paste(_cell(frame, cell_px), (left, top))
            top += cell_px + GAP_PX
        top += GAP_PX
    return image


def animation(
    scenes: Sequence[Scene], *, num_seen: int, seen_word: str, expected_word: str, cell_px: int = 2 * CELL_PX
) -> list[Image.Image]:
    """Draws a picture for each frame: scenes below one another, the rows of each side by side.

    The words stand at the foot; their colour and that of the cells' frames turns once the model is on its own.
    """
    num_rows = max(len(scene.rows) for scene in scenes)
    num_frames = max(row.first + len(row.frames_THWC) for scene in scenes for row in scene.rows)
    step = cell_px + 3 * GAP_PX
    names = [row.name for row in max(scenes, key=lambda scene: len(scene.rows)).rows]
    name_width = max(int(_font().getlength(name)) + 8 for name in names)
    step_x = max(step, name_width)
    size = (num_rows * step_x + 3 * GAP_PX, LINE_PX + len(scenes) * step + LINE_PX + GAP_PX)
    pictures = []
    for t in range(num_frames):
        colour, word = (INK, seen_word) if t < num_seen else (EXPECTED, expected_word)
        image = Image.new("RGB", size, PAPER)
        pen = ImageDraw.Draw(image)
        for r, name in enumerate(names):
            pen.text((r * step_x + step_x / 2, 2), name, HINT, _font(), anchor="ma")
        for s, scene in enumerate(scenes):
            for r, row in enumerate(scene.rows):
                frame = row.at(t)
                if frame is None:
                    continue
                left, top = r * step_x + (step_x - cell_px) // 2, LINE_PX + s * step
                pen.rectangle((left - 2, top - 2, left + cell_px + 1, top + cell_px + 1), fill=colour)
                image.paste(_cell(frame, cell_px), (left, top))
        pen.text((size[0] / 2, size[1] - LINE_PX), f"frame {t + 1}: {word}", colour, _font(), anchor="ma")
        pictures.append(image)
    return pictures


def png(image: Image.Image) -> bytes:
    """Encodes the picture as a PNG file, without time or software in it."""
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def gif(pictures: Sequence[Image.Image], *, frame_ms: int = FRAME_MS) -> bytes:
    """Encodes the pictures as an endless GIF, which pauses on the last one."""
    file = io.BytesIO()
    durations = [frame_ms] * (len(pictures) - 1) + [max(frame_ms, PAUSE_MS)]
    first, *others = [image.quantize(256, dither=Image.Dither.NONE) for image in pictures]
    first.save(file, "GIF", save_all=True, append_images=others, duration=durations, loop=0, disposal=1)
    return file.getvalue()


def _columns(scenes: Sequence[Scene], num_seen: int, max_columns: int) -> list[int]:
    num_frames = max(row.first + len(row.frames_THWC) for scene in scenes for row in scene.rows)
    every = -(-num_frames // max_columns)
    return [*reversed(range(num_seen - 1, -1, -every)), *range(num_seen, num_frames, every)]


def _margin(scenes: Sequence[Scene]) -> int:
    return 16 + max(int(_font().getlength(row.name)) for scene in scenes for row in scene.rows)


def _cell(frame_HWC: npt.NDArray[np.uint8], cell_px: int) -> Image.Image:
    # Every pixel of a small frame stays a square that one can see.
    return Image.fromarray(frame_HWC).resize((cell_px, cell_px), Image.Resampling.NEAREST)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(FONT_PX)
