"""Batches of clips: passes, windows, and independence of what trains beside them."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.datasets.labelled import ClipWindows
from stages.finetuning.ensemble_training import clip_batches
from stages.percepts.transforms import Standardisation

NUM_FRAMES = 3


def windows_of(num_windows: list[int]) -> ClipWindows:
    """Clips with so many windows at stride 1; a frame's single value is its row."""
    rows = sum(count + NUM_FRAMES - 1 for count in num_windows)
    firsts = np.cumsum([0, *(count + NUM_FRAMES - 1 for count in num_windows[:-1])])
    starts = tuple(first + np.arange(count) for first, count in zip(firsts, num_windows, strict=True))
    frames = np.arange(rows, dtype=np.float16)[:, None]
    clips = tuple(np.split(frames, firsts[1:]))
    plain = Standardisation(np.zeros(1, np.float32), np.ones(1, np.float32))
    return ClipWindows(clips, starts, plain, NUM_FRAMES)


@settings(max_examples=50)
@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=7), st.integers(1, 9), st.integers(1, 12), st.integers(0, 2**62)
)
def test_every_pass_sees_every_clip_once(counts: list[int], batch_clips: int, num_steps: int, seed: int) -> None:
    windows = windows_of(counts)
    clips = np.arange(len(counts))
    batches = clip_batches(
        windows, clips[None], clips[None] * 10, seeds=[seed], num_steps=num_steps, batch_clips=batch_clips
    )
    assert len(batches) == num_steps
    seen: list[int] = []
    for step in range(num_steps):
        x_GTBD, labels_GB = batches.step(step)
        assert x_GTBD.shape == (1, NUM_FRAMES, min(batch_clips, len(counts)), 1)
        assert labels_GB.dtype == torch.int64
        for first, label in zip(x_GTBD[0, 0, :, 0].tolist(), labels_GB[0].tolist(), strict=True):
            assert first in windows.starts_N[label // 10]
            seen.append(label // 10)
        assert torch.equal(x_GTBD[0, 1], x_GTBD[0, 0] + 1)
    for first in range(0, len(seen), len(counts)):
        one_pass = seen[first : first + len(counts)]
        assert len(set(one_pass)) == len(one_pass)


def test_a_classifier_sees_the_same_whoever_trains_beside_it() -> None:
    windows = windows_of([4, 5, 1, 2, 3])
    members, labels = np.array([[0, 1, 2], [4, 3, 0]]), np.array([[0, 1, 2], [2, 1, 0]])
    both = clip_batches(windows, members, labels, seeds=[5, 6], num_steps=7, batch_clips=2)
    for group in range(2):
        alone = clip_batches(windows, members[[group]], labels[[group]], seeds=[5 + group], num_steps=7, batch_clips=2)
        np.testing.assert_array_equal(both.starts_SGB[:, [group]], alone.starts_SGB)
        np.testing.assert_array_equal(both.labels_SGB[:, [group]], alone.labels_SGB)


def test_all_windows_of_a_clip_are_used() -> None:
    windows = windows_of([6])
    batches = clip_batches(
        windows, np.zeros((1, 1), int), np.zeros((1, 1), int), seeds=[1], num_steps=200, batch_clips=1
    )
    assert set(batches.starts_SGB.ravel().tolist()) == set(range(6))
