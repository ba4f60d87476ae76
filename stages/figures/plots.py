"""Drawings with axes, by matplotlib, as PNG bytes without time or software in them.

Shapes: T steps, U units, R features of R x C pixels and channels.
"""

import io
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Sheet

from stages.figures.canvas import Frames

Trace = npt.NDArray[np.float32]

STYLE: Any = {"font.size": 8, "axes.titlesize": 9, "font.family": "DejaVu Sans", "axes.linewidth": 0.5}
DPI = 110


def trace_sheet(
    traces: Mapping[str, Mapping[str, Trace]],
    *,
    row_word: str = "unit",
    column_word: str = "frames ahead",
    boundary: int | None = None,
) -> bytes:
    """Draws heat maps of units over steps, (T, U) each: one line of panels a model, one column a gate or state.

    The panels of a column share their colours, which leave out the outermost hundredth of values at either end.
    A white line stands before step `boundary`.
    """
    columns = list(next(iter(traces.values())))
    with mpl.rc_context(STYLE):
        sheet = Sheet(figsize=(2.4 * len(columns), 2.6 * len(traces) + 0.3), dpi=DPI, layout="constrained")
        panels = sheet.subplots(len(traces), len(columns), squeeze=False, sharex=True, sharey=True)
        for c, column in enumerate(columns):
            shown = np.concatenate([model[column].ravel() for model in traces.values()])
            low, high = np.nanpercentile(shown, [1, 99]).tolist()
            for r, (name, model) in enumerate(traces.items()):
                panel = panels[r, c]
                drawn = panel.imshow(
                    model[column].T, aspect="auto", interpolation="nearest", cmap="viridis", vmin=low, vmax=high
                )
                if boundary is not None:
                    panel.axvline(boundary - 0.5, color="white", linestyle="--")
                panel.set_title(column if r == 0 else "")
                panel.set_ylabel(f"{name}\n{row_word}" if c == 0 else "")
                panel.set_xlabel(column_word if r == len(traces) - 1 else "")
            sheet.colorbar(drawn, ax=list(panels[:, c]), location="bottom", shrink=0.9)
        return sheet_png(sheet)


def feature_pictures(weight_RHWC: npt.NDArray[np.float32]) -> Frames:
    """Draws features (R, H, W, 1 or 3) as bytes (R, H, W, 3): zero is mid-grey, each is scaled to its own largest."""
    largest_weight = np.abs(weight_RHWC).max(axis=(1, 2, 3), keepdims=True)
    grey = 127.5 + 127.5 * weight_RHWC / np.maximum(largest_weight, 1e-12)
    pictures = np.asarray(grey.round(), np.uint8)
    return np.repeat(pictures, 3, axis=-1) if pictures.shape[-1] == 1 else pictures


def largest(weight_RD: npt.NDArray[np.float32], num: int) -> npt.NDArray[np.intp]:
    """Returns the numbers of the `num` rows of largest Euclidean norm, largest first."""
    norms = np.linalg.norm(weight_RD, axis=1)
    return np.argsort(-norms, kind="stable")[:num]


def sheet_png(sheet: Sheet) -> bytes:
    """Draws the sheet as a PNG file, without time or software in it."""
    FigureCanvasAgg(sheet)
    file = io.BytesIO()
    sheet.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
