"""One video to percepts in this process, by the extractor that made others: for a user's clip, not for a store.

    seen = read_video("clip.mp4", store.extractor)

    extractor = VideoExtractor(trained.extractor)      # loads the convnet once
    seen = extractor("clip.mp4")

The percepts are those that an extraction would write, to the bit.

Shapes: N frames, D percept dimension.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import ConfigError, DigestError, SourceError
from stages.convnets import convnet
from stages.convnets.config import ConvnetConfig
from stages.convnets.convnet import Convnet
from stages.percepts.schema import Extractor
from stages.video import flow
from stages.video.decode import DecodeConfig, VideoDecoder
from stages.video.limits import Limits
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
        self._convnet = convnet_of(extractor, weights=weights)
        self._decode = DecodeConfig(**extractor.settings["decode"])
        self._limits = Limits(**extractor.settings["limits"])
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
        decoder = VideoDecoder(path, self._decode, limits=self._limits)
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
    settings = extractor.settings.get("convnet")
    if settings is None:
        raise ConfigError(f"these percepts were made by {extractor.settings}, which is no convnet that can be run here")
    known = {field.name for field in fields(ConvnetConfig)} & set(settings) - {"weights_sha256"}
    allocation = {name: settings[name] for name in known}
    if weights is not None:
        allocation |= {"weights": weights, "weights_sha256": settings["weights_sha256"]}
    config = ConvnetConfig(**allocation)
    here = convnet.identity(config)
    if here["weights_sha256"] != settings["weights_sha256"]:
        raise DigestError(
            f"the weights of {settings['name']} here have sha256 {here['weights_sha256']}, the percepts were made with "
            f"{settings['weights_sha256']}: install the same ones, or give a file of percepts instead of a video"
        )
    changed = sorted(name for name in settings if settings[name] != here.get(name))
    if changed:
        raise DigestError(
            f"the convnet {settings['name']} here differs from the one that made the percepts ({', '.join(changed)}): "
            "use the version of percepts, or of the plugin, that made them"
        )
    return convnet.build(config)
