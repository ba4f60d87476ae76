"""Recipe embed: embeddings of videos of your own, by a pretrained encoder.

(unpack ─) ingest ─ extract ─ embed
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.engine.plan import Plan
from pipeline.recipes.existing_models import ModelReadingOptions, add_encoder, extractor_of_encoder, percepts_of_model
from pipeline.recipes.recipe import Recipe
from pipeline.recipes.video_checks import WindowCheck
from pipeline.recipes.video_inputs import add_index, lists_first
from stages.embed import EmbedConfig, embed
from stages.extract import extract


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(ModelReadingOptions):
    """Embeddings of videos of your own by a pretrained encoder, as Parquet: a row a window, or a row a video."""

    encoder: str
    """Pretrained encoder: a key of the store (pretrain-...), models:/NAME@ALIAS, hf://OWNER/NAME, or a path or URL. It
    says which convnet makes its percepts, and how videos are decoded."""
    videos: tuple[str, ...]
    """Videos to embed: folders, archives (.zip, .tar*, .rar), globs, files, lists (.txt, .csv, .tsv, .jsonl, .json,
    .parquet) and bucket URLs."""
    embed: EmbedConfig = EmbedConfig()


def build(options: EmbedOptions) -> Plan:
    """Builds the plan.

    Raises:
        ConfigError, SourceError, CorruptArtifact, StoreError, UsageError: as `add_encoder`.
        ConfigError, DigestError: as `percepts_of_model`.
    """
    plan = Plan("embed")
    encoder, header = add_encoder(plan, options.encoder, flag="encoder", name="encoder", store_uri=options.store)
    config = percepts_of_model(extractor_of_encoder(header), options.encoder, flag="encoder", options=options)
    check = WindowCheck(
        num_frames=header["config"]["num_frames_in"],
        rate_fps=config.decode.rate_fps,
        remedy="give an encoder of shorter windows",
        of_short="they have no embedding",
    )
    index = add_index(plan, replace(options, limits=config.limits), lists_first(options.videos), check=check)
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
