"""A validation part of the training clips, so that no setting is selected on test clips.

Whole sources move: no footage is in both training and validation, whatever the class. They are ranked by a hash of
(seed, source) and taken in that order while no class gives more than its share; then every class that gave nothing
gives its smallest source, if it has two. The choice depends on the official lists alone and not on the clips that are
there, so that it is the same for every copy of the whole data set and nearly the same where clips are missing.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from stages.datasets.official.clips import OfficialClip


def hold_out_sources(clips: Sequence[OfficialClip], *, fraction: float, seed: int) -> frozenset[str]:
    """Returns the names of validation clips, about `fraction` of each class of `clips` (those of a training subset)."""
    by_source: defaultdict[str, list[OfficialClip]] = defaultdict(list)
    for clip in clips:
        by_source[clip.source].append(clip)
    totals = Counter(clip.label for clip in clips)
    ranked = sorted(by_source, key=lambda source: hashlib.sha256(f"{seed} {source}".encode()).digest())
    out: set[str] = set()
    num_held_out: Counter[str] = Counter()

    def take(source: str) -> None:
        out.add(source)
        num_held_out.update(clip.label for clip in by_source[source])

    for source in ranked:
        wanted = Counter(clip.label for clip in by_source[source])
        if all(num_held_out[label] + num <= fraction * totals[label] for label, num in wanted.items()):
            take(source)
    for label in sorted(totals):
        if num_held_out[label] or not fraction:
            continue
        fitting = [s for s in ranked if s not in out and _leaves_some(by_source[s], num_held_out, totals)]
        of_label = [source for source in fitting if any(clip.label == label for clip in by_source[source])]
        if of_label:
            take(min(of_label, key=lambda source: len(by_source[source])))
    return frozenset(clip.name for clip in clips if clip.source in out)


def _leaves_some(moved: Sequence[OfficialClip], num_held_out: Counter[str], totals: Counter[str]) -> bool:
    """Returns True if every class keeps at least half of its clips for training."""
    return all(
        2 * (num_held_out[label] + num) <= totals[label] for label, num in Counter(c.label for c in moved).items()
    )
