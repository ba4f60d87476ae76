"""Videos for benchmarks: H.264 at 320x240, made here."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from skimage import data


def make_videos(folder: Path, num_videos: int, num_frames: int) -> list[Path]:
    """H.264 at 320x240, 30 frames/s: a window that drifts over a photograph."""
    photograph = np.ascontiguousarray(data.astronaut())
    paths = []
    for number in range(num_videos):
        path = folder / f"{number:03d}.mp4"
        rng = np.random.default_rng(number)
        step = rng.uniform(-2, 2, 2)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(30))
            stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
            for frame in range(num_frames):
                row, column = (np.array([136, 96]) * (1 + np.sin(frame * step / 10))).astype(int)
                image = np.ascontiguousarray(photograph[row : row + 240, column : column + 320])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
        paths.append(path)
    return paths
