"""Videos for benchmarks: H.264, made here."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from skimage import data


def make_videos(
    folder: Path, num_videos: int, num_frames: int, width: int = 320, height: int = 240, grain: int = 1
) -> list[Path]:
    """H.264, 30 frames/s: a window that drifts over a photograph, enlarged where need be; `grain` levels of noise."""
    larger = max(1, width // 320)
    photograph = np.minimum(data.astronaut(), 256 - grain).astype(np.uint8).repeat(larger, 0).repeat(larger, 1)
    photograph += np.random.default_rng(0).integers(0, grain, photograph.shape, np.uint8)
    middle = (np.array(photograph.shape[:2]) - (height, width)) / 2
    paths = []
    for number in range(num_videos):
        path = folder / f"{number:03d}.mp4"
        rng = np.random.default_rng(number)
        step = rng.uniform(-2, 2, 2)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(30))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for frame in range(num_frames):
                row, column = (middle * (1 + np.sin(frame * step / 10))).astype(int)
                image = np.ascontiguousarray(photograph[row : row + height, column : column + width])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
        paths.append(path)
    return paths
