"""One video to percepts in this process, by the extractor that made others: for a user's clip, not for a store.

    seen = read_video("clip.mp4", store.extractor)

    extractor = VideoExtractor(trained.extractor)      # loads the convnet once
    seen = extractor("clip.mp4")

The percepts are those that an extraction would write, to the bit.

Shapes: N frames, D percept dimension.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import DigestError, SourceError
from stages.convnets import convnet
from stages.convnets.convnet import Convnet
from stages.extraction.config import check_convnet, config_of
from stages.percepts.schema import Extractor
from stages.video import flow
from stages.video.decode import VideoDecoder
from stages.video.sources import local_video


@dataclass(frozen=True)
class VideoPercepts:
    """The rows that an extraction would write for a video."""

    percepts_ND: npt.NDArray[np.float16]
    frame_N: npt.NDArray[np.int32]
    pts_us_N: npt.NDArray[np.int64]
    segment_N: npt.NDArray[np.int32]
    """Rises by one behind every gap."""


class VideoExtractor:
    """An extractor that is ready to run: one for a process that reads many videos."""

    def __init__(self, extractor: Extractor, *, weights: str | None = None) -> None:
        """Loads the convnet.

        `weights`: URI of its weights, where they are not those of a package. Raises as `convnet_of`.
        """
        self._config = config_of(extractor, weights=weights)
        self._convnet = convnet_of(extractor, weights=weights)
        made_with = extractor.settings.get("opencv")
        if made_with is not None and made_with != flow.version():
            raise DigestError(
                f"the percepts are of optical flow by OpenCV {made_with}, here is {flow.version()}: install the former"
            )

    def __call__(self, path: str | PathLike[str]) -> VideoPercepts:
        """Decodes a local file and runs the convnet over it.

        Raises:
            SourceError: nothing of it can be decoded.
        """
        decoder = VideoDecoder(path, self._config.decode, limits=self._config.limits)
        columns = [
            (self._convnet(chunk.frames_NHWC), chunk.index_N, chunk.pts_us_N, chunk.segment_N)
            for chunk in decoder
            if len(chunk.index_N)
        ]
        if not columns or decoder.report.verdict == "rejected":
            raise SourceError(f"the video cannot be decoded: {decoder.report.reason}")
        return VideoPercepts(*(np.concatenate(column) for column in zip(*columns, strict=True)))


def read_video(uri: str, extractor: Extractor, *, weights: str | None = None) -> VideoPercepts:
    """Decodes a video (path or fsspec URL) and runs the convnet over it.

    Raises:
        SourceError: there is no such video, or nothing of it can be decoded.
        ConfigError, DigestError: as `convnet_of`.
    """
    ready = VideoExtractor(extractor, weights=weights)
    with opened_video(uri) as path:
        return ready(path)


@contextmanager
def opened_video(uri: str) -> Iterator[Path]:
    """Yields a user's video (path or fsspec URL) as a local file. Raises SourceError where there is none."""
    with ExitStack() as stack:
        try:
            path = stack.enter_context(local_video(uri))
        except OSError as error:
            raise SourceError(f"cannot read the video {uri}: {error.strerror or error}") from error
        if not path.is_file():
            raise SourceError(f"there is no video {uri}: give a path or URL of one")
        yield path


def convnet_of(extractor: Extractor, *, weights: str | None = None) -> Convnet:
    """Builds the network that made percepts again, from their settings.

    weights: URI of its weights, where they are not those of a package.

    Raises:
        ConfigError: the extractor is no convnet of ours, or needs `weights` or a plugin that was not imported.
        DigestError: the weights at hand are others, or the network's code is.
    """
    config = config_of(extractor, weights=weights).convnet
    check_convnet(extractor.settings["convnet"], convnet.identity(config))
    return convnet.build(config)
