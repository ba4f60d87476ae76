"""Recipe embed: embeddings of videos of your own, by a pretrained encoder.

(unpack ─) ingest ─ extract ─ embed
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.core.errors import ConfigError
from pipeline.engine.plan import Plan
from pipeline.recipes.existing_models import add_encoder
from pipeline.recipes.recipe import Recipe
from pipeline.recipes.video_inputs import VideoOptions, add_index
from pipeline.recipes.window_check import WindowCheck
from stages.convnets.registry import import_plugin
from stages.embed import EmbedConfig, embed
from stages.extract import ExtractConfig, extract
from stages.extraction.config import check_convnet, config_of, extractor_of
from stages.percepts.schema import Extractor
from stages.video.limits import Limits


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(VideoOptions):
    """Embeddings of videos of your own by a pretrained encoder, as Parquet: a row a window, or a row a video."""

    encoder: str
    """Pretrained encoder: a key of the store (pretrain-...), models:/NAME@ALIAS, hf://OWNER/NAME, or a path or URL. It
    says which convnet makes its percepts, and how videos are decoded."""
    videos: tuple[str, ...]
    """Videos to embed: folders, archives (.zip, .tar*, .rar), globs, files, lists (.txt, .csv, .tsv, .jsonl, .json,
    .parquet) and bucket URLs."""
    weights: str | None = None
    """URI of the convnet's weights, where they are not those of an installed package."""
    plugin: str | None = None
    """Python module that registers the convnet, where it is one of yours."""
    embed: EmbedConfig = EmbedConfig()


def build(options: EmbedOptions) -> Plan:
    """Builds the plan.

    Raises:
        ConfigError: the encoder learned from pixels, or its convnet is none that can be built here.
        DigestError: the convnet here is another than the one that made what the encoder learned from.
        ConfigError, SourceError, CorruptArtifact, StoreError, UsageError: as `add_encoder`.
    """
    if options.plugin is not None:
        import_plugin(options.plugin)
    plan = Plan("embed")
    encoder, header = add_encoder(plan, options.encoder, flag="encoder", name="encoder", store_uri=options.store)
    made_by, model = header.get("extractor"), header["config"]
    if header.get("class") != "Composite" or made_by is None:
        raise ConfigError(
            f"--encoder {options.encoder} is no encoder of percepts ({header.get('class')}): give one that youtube, "
            "demo, ucf101 or hmdb51 pretrained"
        )
    learned = Extractor(made_by["settings"], model["dim"])
    extraction = config_of(learned, weights=options.weights)
    limits = extraction.limits if options.limits == Limits() else options.limits
    config = ExtractConfig(
        convnet=extraction.convnet, decode=extraction.decode, limits=limits, compression=extraction.compression
    )
    check_convnet(learned.settings["convnet"], extractor_of(config).settings["convnet"])
    check = WindowCheck(
        num_frames=model["num_frames_in"],
        rate_fps=extraction.decode.rate_fps,
        remedy="give an encoder of shorter windows",
        of_short="they have no embedding",
    )
    index = add_index(plan, replace(options, limits=limits), options.videos, check=check)
    percepts = plan.add(extract, config, resources=options.on_devices, index=index)
    plan.add(embed, options.embed, resources=options.on_devices, encoder=encoder, percepts=percepts)
    return plan


EMBED = Recipe(
    name="embed",
    options=EmbedOptions,
    build=build,
    shown={
        "videos": ("videos", "limits.max-duration-s"),
        "embeddings": ("encoder", "embed.per", "embed.window-stride", "weights"),
    },
    examples=(
        "percepts run embed --encoder models:/walks@best --videos clips/",
        "percepts run embed --encoder pretrain-0123456789abcdef --videos clips/ --embed.per video",
    ),
    refused=dict.fromkeys(("register", "if-better"), "this recipe trains no encoder"),
)
