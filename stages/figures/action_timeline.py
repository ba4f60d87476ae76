"""A classifier's answer over time, as a small picture and as lines for a terminal.

Shapes: W windows, C classes, K classes that are shown.
"""

from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure as Sheet

from stages.figures.plots import DPI, STYLE, sheet_png
from stages.serving.video_answer import VideoAnswer

WIDTH_CHARACTERS: Final = 60
BLOCKS: Final = " ▁▂▃▄▅▆▇█"


def timeline_picture(answer: VideoAnswer, *, num_top: int = 3) -> bytes:
    """Draws the probabilities of the video's best actions over time, one point a window; returns a PNG."""
    middle_s = (answer.start_us_W + answer.end_us_W) / 2e6
    with mpl.rc_context(STYLE):
        sheet = Sheet(figsize=(6, 2.2), dpi=DPI, layout="constrained")
        axes = sheet.subplots()
        for number in answer.top(num_top):
            label = f"{answer.class_names[number]} ({answer.overall[number]:.0%})"
            axes.plot(middle_s, answer.probabilities_WC[:, number], marker=".", linewidth=1.2, label=label)
        axes.set_xlim(answer.start_us_W[0] / 1e6, max(answer.end_us_W[-1] / 1e6, answer.start_us_W[0] / 1e6 + 0.001))
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("seconds")
        axes.set_ylabel("probability")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.28), ncols=num_top, frameon=False, fontsize=7)
        return sheet_png(sheet)


def timeline_lines(answer: VideoAnswer, *, num_top: int = 3, width: int = WIDTH_CHARACTERS) -> list[str]:
    """Returns a line for each of the video's best actions: probability, name, a bar for each moment; then the scale."""
    first_us, last_us = int(answer.start_us_W[0]), int(answer.end_us_W[-1])
    middle_us_W = (answer.start_us_W + answer.end_us_W) / 2
    moments_us = [first_us + (last_us - first_us) * (k + 0.5) / width for k in range(width)]
    nearest = [int(abs(middle_us_W - moment).argmin()) for moment in moments_us]
    longest = max(len(answer.class_names[number]) for number in answer.top(num_top))
    lines = []
    for number in answer.top(num_top):
        levels = [answer.probabilities_WC[window, number] for window in nearest]
        bars = "".join(BLOCKS[min(len(BLOCKS) - 1, round(float(level) * (len(BLOCKS) - 1)))] for level in levels)
        lines.append(f"{answer.overall[number]:6.1%}  {answer.class_names[number]:<{longest}}  {bars}")
    scale = f"{first_us / 1e6:.1f} s"
    lines.append(f"{'':8}{'':<{longest}}  {scale}{last_us / 1e6:>{width - len(scale) - 2}.1f} s")
    return lines
