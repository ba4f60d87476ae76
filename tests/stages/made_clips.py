"""A handful of encoded clips with percepts of their pixels, for tests of stages that look at both."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from pipeline.core.stage import Context
from stages.convnets.config import ConvnetConfig
from stages.extract import ExtractConfig, extract
from stages.ingest import IngestConfig, ingest
from stages.percepts.artifacts import Percepts, Statistics
from stages.standardize import StandardizeConfig, standardize
from stages.video.artifacts import Index
from stages.video.decode import DecodeConfig

SIDE_PX = 48


def frames_of(number: int, num_frames: int) -> npt.NDArray[np.uint8]:
    """A coloured square that moves over a still ground; every number has its own colours and speed. NHWC."""
    rng = np.random.default_rng(number)
    ground, square = rng.integers(0, 256, (2, 3))
    top, speed = int(rng.integers(0, 32)), int(rng.integers(1, 4))
    frames = np.empty((num_frames, SIDE_PX, SIDE_PX, 3), np.uint8)
    frames[:] = ground
    for n, frame in enumerate(frames):
        left = (number + speed * n) % (SIDE_PX - 16)
        frame[top : top + 16, left : left + 16] = square
    return frames


def make_clips(directory: Path, num_frames: tuple[int, ...]) -> Path:
    """Clips of the given lengths, `<directory>/<number>.mp4`; returns the directory."""
    directory.mkdir(parents=True)
    for number, length in enumerate(num_frames):
        with av.open(str(directory / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(25), options={"crf": "10"})
            stream.width, stream.height, stream.pix_fmt = SIDE_PX, SIDE_PX, "yuv420p"
            for image in frames_of(number, length):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
    return directory


def make_index(root: Path, num_frames: tuple[int, ...], parts: tuple[str, ...] = ("unlabelled", "test")) -> Index:
    """Clips of the given lengths, dealt to `parts` in turn, labelled `a` and `b`; ingested."""
    make_clips(root / "clips", num_frames)
    rows = [
        f"{number}.mp4,{'ab'[number // len(parts) % 2]},{parts[number % len(parts)]},"
        for number in range(len(num_frames))
    ]
    manifest = root / "clips" / "manifest.csv"
    manifest.write_text("\n".join(["uri,label,part,group", *rows]) + "\n")
    return ingest(IngestConfig(videos=(str(manifest),)), Context.for_test(root / "ingest"))


def make_percepts(root: Path, index: Index) -> tuple[Percepts, Statistics]:
    """Percepts that are the frame's own pixels on a 6x6 grid (108 dimensions), and their statistics."""
    config = ExtractConfig(
        convnet=ConvnetConfig(name="pixels", layer="rgb", grid=6, input_px=SIDE_PX),
        decode=DecodeConfig(short_side_px=SIDE_PX, crop_px=SIDE_PX),
    )
    percepts = extract(config, Context.for_test(root / "extract", store_uri=str(root)), index=index)
    return percepts, standardize(StandardizeConfig(), Context.for_test(root / "standardize"), percepts=percepts)
