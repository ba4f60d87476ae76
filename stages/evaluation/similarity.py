"""Which videos of one set look like a video of another, by their percepts.

A video is a few of its frames, standardised and scaled to length 1. The similarity of two is the mean, over the frames
of the one, of the cosine with the frame of the other that is most like it: a clip that was cut out of a longer video,
or encoded again, is near 1. Candidates are found by the cosine of the mean percepts, which is one matrix product.

Shapes: N videos, M other videos, K frames of a video, D percept dimension.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from stages.percepts.reader import PerceptStore
from stages.percepts.transforms import Standardisation

Floats = npt.NDArray[np.float32]
BLOCK_VIDEOS = 1024


@dataclass(frozen=True)
class Looks:
    """What some videos look like. Frames are read when they are compared: those of a hundred thousand would not fit."""

    store: PerceptStore
    videos: tuple[str, ...]
    """sha256."""
    standardise: Standardisation
    num_frames: int
    """K."""
    offset: float
    """Of the frames, in units of their distance; 0.5 lies in between those of 0."""

    @cached_property
    def means(self) -> Floats:
        """(N, D): means of the standardised frames, scaled to length 1."""
        found_ND = np.empty((len(self.videos), self.store.dim), np.float32)
        for row, video in enumerate(self.videos):
            found_ND[row] = self._frames(video).mean(0)
        return _unit(found_ND)

    def frames(self, rows: Iterable[int]) -> Floats:
        """(rows, K, D): frames of these videos, scaled to length 1."""
        return np.stack([_unit(self._frames(self.videos[row])) for row in rows])

    def _frames(self, video: str) -> Floats:
        percepts_FD = self.store.percepts(video)
        places = (np.arange(self.num_frames) + 0.25 + self.offset) / self.num_frames * len(percepts_FD)
        found_KD = percepts_FD[np.minimum(places.astype(int), len(percepts_FD) - 1)].astype(np.float32)
        return np.asarray((found_KD - self.standardise.mean_D) / self.standardise.scale_D, np.float32)


def looks(
    store: PerceptStore, videos: Sequence[str], standardise: Standardisation, *, num_frames: int, offset: float = 0.0
) -> Looks:
    """Evenly spaced frames of each video (`Looks`)."""
    return Looks(store, tuple(videos), standardise, num_frames, offset)


def _unit(x: Floats) -> Floats:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12), np.float32)


def best_matches(
    ours: Looks,
    theirs: Looks,
    *,
    num_candidates: int,
    excluded_NM: npt.NDArray[np.bool_] | None = None,
) -> tuple[npt.NDArray[np.int64], Floats]:
    """For each of our videos, the number of the one of theirs that is most like it, and the similarity (-1..1).

    excluded_NM: pairs that are not to be compared; a video with no other left has similarity -1.
    """
    num_candidates = min(num_candidates, len(theirs.videos))
    best_N = np.zeros(len(ours.videos), np.int64)
    similarity_N = np.full(len(ours.videos), -1.0, np.float32)
    for first in range(0, len(ours.videos), BLOCK_VIDEOS):
        cosine_BM = ours.means[first : first + BLOCK_VIDEOS] @ theirs.means.T
        if excluded_NM is not None:
            cosine_BM[excluded_NM[first : first + BLOCK_VIDEOS]] = -np.inf
        candidates_BC = np.argpartition(-cosine_BM, num_candidates - 1, axis=1)[:, :num_candidates]
        for row, candidates_C in enumerate(candidates_BC):
            allowed_C = candidates_C[np.isfinite(cosine_BM[row, candidates_C])]
            if not len(allowed_C):
                continue
            found_C = similarities(ours.frames([first + row])[0], theirs.frames(allowed_C.tolist()))
            best = int(found_C.argmax())
            best_N[first + row], similarity_N[first + row] = allowed_C[best], found_C[best]
    return best_N, similarity_N


def similarities(frames_KD: Floats, others_MKD: Floats) -> Floats:
    """(M,) similarity of a video to each of the others: the mean over its frames of the best cosine."""
    cosine_MKK = np.einsum("kd,mjd->mkj", frames_KD, others_MKD, optimize=True)
    return np.asarray(cosine_MKK.max(2).mean(1), np.float32)
