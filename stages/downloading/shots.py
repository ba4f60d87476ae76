"""Shot boundaries of a video, as PySceneDetect's AdaptiveDetector finds them in the frames that PyAV decodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from stages.downloading.problems import LinkError, Problem
from stages.video.container import in_words
from stages.video.streams import DAMAGE

MISSING: Final = (
    "clips at shot boundaries need scenedetect-headless: pip install '.[youtube]' where percepts' source lies"
)
WIDTH_PX: Final = 256
"""Width of the frames that are compared; PySceneDetect, too, makes them about so small."""
SHORTEST_S: Final = 0.6
"""Least seconds between two boundaries, those of PySceneDetect's own command."""


def shot_boundaries_s(
    container: InputContainer,
    stream: VideoStream,
    *,
    first_s: float,
    last_s: float | None,
    beat: Callable[[], None],
) -> list[float]:
    """Returns the seconds at which new shots begin, between two places of an open video; decodes all frames there.

    Raises:
        LinkError: PySceneDetect is not installed, or the frames cannot be decoded.
    """
    try:
        from scenedetect.common import FrameTimecode
        from scenedetect.detectors import AdaptiveDetector
    except ImportError as error:
        raise LinkError(Problem(status="failed", reason=MISSING)) from error
    time_base, origin = stream.time_base, stream.start_time or 0
    assert time_base is not None
    detector: Any = AdaptiveDetector(min_scene_len=SHORTEST_S)
    boundaries: list[float] = []
    stream.thread_type = "AUTO"
    try:
        container.seek(origin + round(first_s / time_base), stream=stream, backward=True)
        for frame in container.decode(stream):
            beat()
            at_s = float((frame.pts - origin) * time_base) if frame.pts is not None else -1.0
            if at_s < first_s:
                continue
            if last_s is not None and at_s >= last_s:
                break
            place = FrameTimecode(at_s, stream.average_rate or 25)
            boundaries += [cut.seconds for cut in detector.process_frame(place, _small(frame))]
    except DAMAGE as error:
        reason = f"its shots cannot be found: {in_words(error)}"
        raise LinkError(Problem(status="unusable", reason=reason)) from error
    return boundaries


def _small(frame: VideoFrame) -> Any:
    width = min(WIDTH_PX, frame.width)
    return frame.to_ndarray(format="bgr24", width=width, height=max(2, round(frame.height * width / frame.width)))
