"""Small pictures of the frames that percepts were taken from.

Shapes: N frames, P x P pixels of a picture, C channels (R, G, B).
"""

from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.core.errors import SourceError
from stages.percepts.schema import Extractor
from stages.video.decode import DecodeConfig, VideoDecoder
from stages.video.fetch import unreadable_reason
from stages.video.ledger import VideoRecord
from stages.video.limits import Limits
from stages.video.sources import local_video

Pictures = npt.NDArray[np.uint8]


def thumbnails(record: VideoRecord, extractor: Extractor, frames: Collection[int], side_px: int) -> Pictures:
    """Decodes frames of a video as the extractor does, and shrinks them: (N, P, P, C) uint8, in their order.

    frames: their numbers, as in a percept store. They are RGB also where the convnet reads optical flow.

    Raises:
        SourceError: the video cannot be read, or no longer has these frames.
    """
    decode = replace(DecodeConfig(**extractor.settings["decode"]), flow="none")
    limits = Limits(**extractor.settings["limits"])
    wanted = {int(frame): n for n, frame in enumerate(sorted(frames))}
    pictures = np.zeros((len(wanted), side_px, side_px, 3), np.uint8)
    missing = set(wanted)
    try:
        with local_video(record.uri, max_bytes=limits.max_bytes) as path:
            for chunk in VideoDecoder(path, decode, limits=limits):
                for image_HWC, index in zip(chunk.frames_NHWC, chunk.index_N.tolist(), strict=True):
                    if index in missing:
                        pictures[wanted[index]] = shrunk(image_HWC, side_px)
                        missing.discard(index)
                if not missing:
                    break
    except OSError as error:
        raise SourceError(f"{record.uri}: {unreadable_reason(error, record.uri)}") from error
    if missing:
        raise SourceError(
            f"{record.uri} lacks {len(missing)} of the frames that its percepts were taken from (the first: "
            f"{min(missing)}): the file has changed; run ingest and extract again"
        )
    return pictures


def spread(num_rows: int, num_wanted: int) -> npt.NDArray[np.intp]:
    """Returns at most `num_wanted` of `num_rows` positions, evenly spread, ascending."""
    return np.unique(np.linspace(0, num_rows - 1, min(num_rows, num_wanted)).round().astype(np.intp))


def to_unit(pictures: Pictures) -> npt.NDArray[np.float32]:
    """Maps bytes (N, P, P, C) to (N, P * P * C) in [0, 1]."""
    return pictures.reshape(len(pictures), -1).astype(np.float32) / np.float32(255)


def to_pictures(unit: npt.NDArray[np.floating], side_px: int) -> Pictures:
    """Maps (..., P * P * C), cut off at 0 and 1, to bytes (..., P, P, C)."""
    return np.asarray((unit * 255).round().clip(0, 255), np.uint8).reshape(*unit.shape[:-1], side_px, side_px, 3)


def one_a_label(records: Sequence[VideoRecord]) -> Iterator[VideoRecord]:
    """Yields the videos of all labels in turn; without labels in their order."""
    by_label: dict[str, array[int]] = {}
    for number, record in enumerate(records):
        by_label.setdefault(record.label or "", array("q")).append(number)
    rounds = max(map(len, by_label.values()), default=0)
    for n in range(rounds):
        yield from (records[by_label[label][n]] for label in sorted(by_label) if n < len(by_label[label]))


def shrunk(image_HWC: npt.NDArray[np.uint8], side_px: int) -> npt.NDArray[np.uint8]:
    """Returns the middle square of a frame, averaged down to `side_px`."""
    height, width = image_HWC.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    box = (left, top, left + side, top + side)
    return np.asarray(Image.fromarray(image_HWC).resize((side_px, side_px), Image.Resampling.BOX, box=box))
