"""Frames become H.264 in an MP4 file, the same bytes every time.

Shapes: T frames, H x W pixels, C = 3 channels (RGB).
"""

from __future__ import annotations

import io

import av
import numpy as np
import numpy.typing as npt


def encode_h264(frames_THWC: npt.NDArray[np.uint8], *, fps: int = 25, crf: int = 20) -> bytes:
    """Returns an MP4 file with one H.264 stream, the same bytes every time.

    x264 runs on one thread (several cut a frame otherwise), 4:2:0, and no time of day is written.

    Args:
        frames_THWC: RGB, 0..255; T at least 1, H and W even, as 4:2:0 needs.
        fps: frames a second.
        crf: x264's constant rate factor: 0 is lossless, 23 its default, 51 the worst.

    Raises:
        ValueError: frames of another shape or type.
    """
    if frames_THWC.dtype != np.uint8 or frames_THWC.ndim != 4 or frames_THWC.shape[-1] != 3 or not len(frames_THWC):
        raise ValueError(f"frames are uint8 (T, H, W, 3); got {frames_THWC.dtype} {frames_THWC.shape}")
    _, height, width, _ = frames_THWC.shape
    if height % 2 or width % 2:
        raise ValueError(f"4:2:0 video has even sides; got {width}x{height}")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # x264's macroblock tree now and then gives other bytes, even on one thread: of 9 clips in 60, encoded 10 times.
        stream.options = {"preset": "veryfast", "crf": str(crf), "threads": "1", "x264-params": "mbtree=0"}
        for frame_HWC in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()
