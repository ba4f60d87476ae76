"""visualize: pictures of what a pretrained model remembers and expects, for the report.

    gallery = visualize(VisualizeConfig(), context, encoder=encoder, percepts=percepts)

A model of percepts is shown through a linear read-out of small pictures (`stages.figures.percepts`), a model of pixels
as it is (`stages.figures.pixels`).
"""

from __future__ import annotations

from pipeline.core.errors import ConfigError
from pipeline.core.rates import VISUALIZE_S
from pipeline.core.stage import Context, Estimate, stage
from stages.datasets.artifacts import Digits, Patches
from stages.figures.config import VisualizeConfig
from stages.figures.gallery import Gallery, write_gallery
from stages.models.artifacts import Encoder
from stages.percepts.artifacts import Percepts
from stages.video.artifacts import TO_LOOK_AT


@stage(version=1, estimate=lambda config, inputs: Estimate(seconds=VISUALIZE_S))
def visualize(
    config: VisualizeConfig,
    context: Context,
    *,
    encoder: Encoder,
    percepts: Percepts | None = None,
    digits: Digits | None = None,
    patches: Patches | None = None,
) -> Gallery:
    """Writes `gallery.json` and its pictures; none where no video is long enough to be shown, which is said.

    One kind of data is needed, the one that the encoder was trained on: percepts, digits, or patches.

    Raises:
        ConfigError: none or several of them, or one whose frames have another size than the model's.
    """
    from stages.figures.model_figures import figures_of_digits, figures_of_patches, figures_of_percepts
    from stages.models.pretrained import Pretrained

    pretrained = Pretrained.load(encoder.uri)
    unseen: list[str] = []
    left_out = ""
    model = pretrained.composite
    if percepts is not None and digits is None and patches is None:
        figures, unseen, left_out = figures_of_percepts(config, pretrained, percepts)
    elif digits is not None and percepts is None and patches is None:
        figures = figures_of_digits(config, model, digits)
    elif patches is not None and percepts is None and digits is None:
        figures = figures_of_patches(config, model, patches)
    else:
        raise ConfigError("visualize needs one kind of data: percepts, or digits, or patches")
    write_gallery(context.uri, figures)
    context.record(num_pictures=len(figures))
    if unseen:
        context.record(**{TO_LOOK_AT: len(unseen)})
        context.log(f"{len(unseen):,} videos can no longer be read, and are not shown: {unseen[0]}")
    if left_out:
        context.record(left_out=f"nothing is drawn: {left_out}")
        context.log(f"warning: nothing is drawn: {left_out}")
    context.progress(len(figures), len(figures), "pictures")
    return Gallery(context.uri, context.key)
