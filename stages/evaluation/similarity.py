"""Similarity of the videos of one set to those of another, by their percepts.

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
    """Evenly spaced frames of some videos, read when they are compared: those of a hundred thousand do not fit."""

    store: PerceptStore
    videos: Sequence[str]
    """sha256 of the videos."""
    standardise: Standardisation
    num_frames: int
    """K, the frames of a video."""
    offset: float = 0.0
    """Shift of the frames, in units of their distance; frames of 0.5 lie between those of 0."""

    @cached_property
    def means(self) -> Floats:
        """(N, D): means of the standardised frames, scaled to length 1."""
        mean_ND = np.empty((len(self.videos), self.store.dim), np.float32)
        for row, video in enumerate(self.videos):
            mean_ND[row] = self._frames(video).mean(0)
        return _unit(mean_ND)

    def frames(self, rows: Iterable[int]) -> Floats:
        """Reads the frames of these videos, (rows, K, D) float32, scaled to length 1."""
        return np.stack([_unit(self._frames(self.videos[row])) for row in rows])

    def _frames(self, video: str) -> Floats:
        percepts_FD = self.store.percepts(video)
        places = (np.arange(self.num_frames) + 0.25 + self.offset) / self.num_frames * len(percepts_FD)
        frames_KD = percepts_FD[np.minimum(places.astype(int), len(percepts_FD) - 1)].astype(np.float32)
        return np.asarray((frames_KD - self.standardise.mean_D) / self.standardise.scale_D, np.float32)


def _unit(x: Floats) -> Floats:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12), np.float32)


def best_matches(
    queries: Looks,
    others: Looks,
    *,
    num_candidates: int,
    excluded_NM: npt.NDArray[np.bool_] | None = None,
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Returns, for each video of `queries`, the number of the most similar of `others`, and the similarity (-1..1).

    excluded_NM: pairs that are not to be compared; a video with no other left has similarity -1.
    """
    num_candidates = min(num_candidates, len(others.videos))
    best_N = np.zeros(len(queries.videos), np.int64)
    similarity_N = np.full(len(queries.videos), -1.0, np.float32)
    for first in range(0, len(queries.videos), BLOCK_VIDEOS):
        cosine_BM = queries.means[first : first + BLOCK_VIDEOS] @ others.means.T
        if excluded_NM is not None:
            cosine_BM[excluded_NM[first : first + BLOCK_VIDEOS]] = -np.inf
        candidates_BC = np.argpartition(-cosine_BM, num_candidates - 1, axis=1)[:, :num_candidates]
        for row, candidates_C in enumerate(candidates_BC):
            allowed_C = candidates_C[np.isfinite(cosine_BM[row, candidates_C])]
            if not len(allowed_C):
                continue
            similarity_C = similarities(queries.frames([first + row])[0], others.frames(allowed_C.tolist()))
            best = int(similarity_C.argmax())
            best_N[first + row], similarity_N[first + row] = allowed_C[best], similarity_C[best]
    return best_N, similarity_N


def similarities(frames_KD: Floats, others_MKD: Floats) -> Floats:
    """Computes (M,) similarities of a video to each of the others: the mean over its frames of the best cosine."""
    cosine_MKK = np.einsum("kd,mjd->mkj", frames_KD, others_MKD, optimize=True)
    return np.asarray(cosine_MKK.max(2).mean(1), np.float32)
