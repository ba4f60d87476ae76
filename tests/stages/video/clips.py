"""Small encoded clips for tests, and FFmpeg's own count of what is in one."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt


def moving_square(num_frames: int, width: int = 64, height: int = 48) -> npt.NDArray[np.uint8]:
    """NHWC frames of a bright square that moves over noise: no two frames are alike, and nothing compresses away."""
    rng = np.random.default_rng(0)
    frames = np.broadcast_to(rng.integers(0, 120, (height, width, 3)), (num_frames, height, width, 3)).astype(np.uint8)
    for number, frame in enumerate(frames):
        x = (3 * number) % (width - 12)
        frame[8:20, x : x + 12] = (250, 40 + 5 * number % 200, 30)
    return frames


def encode(
    path: Path,
    frames: npt.NDArray[np.uint8],
    *,
    codec: str = "libx264",
    fps: Fraction = Fraction(25),
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    pts: list[int] | None = None,
    tags: dict[str, int] | None = None,
) -> Path:
    """Encode RGB frames (NHWC); `pts` in units of 1/fps, `tags` are attributes of the codec context."""
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=fps, options=options or {})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], pixel_format
        stream.codec_context.time_base = 1 / fps
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number if pts is None else pts[number]
            frame.time_base = 1 / fps
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def ffmpeg_count(path: Path) -> int:
    """Frames that FFmpeg decodes, going on after errors: one thread, so that an error costs only what it concerns."""
    count = 0
    with av.open(str(path), metadata_errors="replace") as container:
        if not container.streams.video:
            return 0
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        packets = [packet for packet in _until_error(container.demux(stream)) if packet.size]
        for packet in [*packets, None]:
            try:
                count += len(stream.codec_context.decode(packet))
            except (av.FFmpegError, EOFError):
                continue
    return count


def _until_error(packets: Any) -> Any:
    while True:
        try:
            yield next(packets)
        except (StopIteration, IndexError, av.FFmpegError):  # IndexError: PyAV, over streams that turn up late
            return
