"""Authorities: NumPy's norms; Pillow on the bytes."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from stages.figures.plots import feature_pictures, largest, trace_sheet


def test_the_largest_rows_come_first() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((50, 7)).astype(np.float32)
    weight[[3, 30]] *= 100
    found = largest(weight, 10)
    norms = np.sqrt((weight**2).sum(1))
    np.testing.assert_array_equal(norms[found], np.sort(norms)[::-1][:10])
    assert set(found[:2]) == {3, 30}
    assert len(largest(weight, 200)) == 50


def test_features_are_grey_where_a_weight_is_zero() -> None:
    weight = np.zeros((2, 2, 3, 1), np.float32)
    weight[0, 0, 0], weight[0, 1, 2], weight[1, 0, 0] = 0.5, -0.25, -7
    pictures = feature_pictures(weight)
    assert pictures.shape == (2, 2, 3, 3)
    assert pictures[0, 0, 0].tolist() == [255] * 3
    assert pictures[0, 1, 2].tolist() == [64] * 3
    assert pictures[1, 0, 0].tolist() == [0] * 3
    assert pictures[1, 1, 1].tolist() == [128] * 3


def test_trace_sheets_repeat_without_metadata() -> None:
    rng = np.random.default_rng(0)
    traces = {name: {"input gate": rng.random((30, 9), dtype=np.float32)} for name in ("trained", "untrained")}
    data = trace_sheet(traces)
    assert data == trace_sheet(traces)
    assert "Software" not in Image.open(io.BytesIO(data)).info
