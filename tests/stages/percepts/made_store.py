"""Makes small percept files whose every value is known."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.core.files import write_bytes
from stages.percepts.schema import Extractor
from stages.percepts.writer import Compression, ShardWriter

DIM = 6
EXTRACTOR = Extractor(settings={"made": "for a test"}, dim=DIM)


def video_name(number: int) -> str:
    return f"{number:064x}"


def values(video: int, num_rows: int, dim: int = DIM) -> npt.NDArray[np.float16]:
    """(num_rows, dim) noise that is the same for the same video."""
    return np.random.default_rng(video).standard_normal((num_rows, dim)).astype(np.float16)


def shard_bytes(
    segments: Mapping[int, Sequence[int]],
    *,
    cuts: Sequence[int] = (),
    compression: Compression = "none",
    extractor: Extractor = EXTRACTOR,
) -> bytes:
    """A file with the videos of `segments` (number -> rows of each segment), written in pieces cut at `cuts`."""
    file = io.BytesIO()
    with ShardWriter(file, extractor, compression=compression) as writer:
        for video, lengths in segments.items():
            num_rows = sum(lengths)
            segment = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
            # A gap leaves one frame number out.
            frame = np.arange(num_rows, dtype=np.int32) + segment
            rows = (frame, frame.astype(np.int64) * 40_000, segment, values(video, num_rows, extractor.dim))
            for part in np.split(np.arange(num_rows), [cut for cut in cuts if cut < num_rows]):
                writer.write(video_name(video), *(column[part] for column in rows))
    return file.getvalue()


def write_shard(
    uri: str,
    segments: Mapping[int, Sequence[int]],
    *,
    compression: Compression = "none",
    extractor: Extractor = EXTRACTOR,
) -> None:
    write_bytes(uri, shard_bytes(segments, compression=compression, extractor=extractor))
