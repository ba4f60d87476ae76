"""A validation part of the training clips, so that no choice needs a test clip.

Whole sources move: no footage is in both training and validation, whatever the class. They are ranked by a hash of
(seed, source) and taken in that order while no class gives more than its share; then every class that gave nothing
gives its smallest source, if it has two. The choice depends on the official lists alone and not on the clips that are
there, so that it is the same for everybody who has the whole data set and nearly the same for those who lack clips.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from stages.datasets.official import OfficialClip


def hold_out_sources(clips: Sequence[OfficialClip], *, fraction: float, seed: int) -> frozenset[str]:
    """Names of the clips to validate on, about `fraction` of each class of `clips` (those of a training side)."""
    by_source: defaultdict[str, list[OfficialClip]] = defaultdict(list)
    for clip in clips:
        by_source[clip.source].append(clip)
    totals = Counter(clip.label for clip in clips)
    ranked = sorted(by_source, key=lambda source: hashlib.sha256(f"{seed} {source}".encode()).digest())
    out: set[str] = set()
    held: Counter[str] = Counter()

    def take(source: str) -> None:
        out.add(source)
        held.update(clip.label for clip in by_source[source])

    for source in ranked:
        wanted = Counter(clip.label for clip in by_source[source])
        if all(held[label] + num <= fraction * totals[label] for label, num in wanted.items()):
            take(source)
    for label in sorted(totals):
        if held[label] or not fraction:
            continue
        fitting = [s for s in ranked if s not in out and _leaves_some(by_source[s], held, totals)]
        mine = [source for source in fitting if any(clip.label == label for clip in by_source[source])]
        if mine:
            take(min(mine, key=lambda source: len(by_source[source])))
    return frozenset(clip.name for clip in clips if clip.source in out)


def _leaves_some(moved: Sequence[OfficialClip], held: Counter[str], totals: Counter[str]) -> bool:
    """Whether every class keeps at least half of its clips for training."""
    return all(2 * (held[label] + num) <= totals[label] for label, num in Counter(c.label for c in moved).items())
