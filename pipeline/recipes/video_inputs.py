"""The beginning of every recipe that reads videos: archives are unpacked, and everything is indexed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, TypeVar

from pipeline.core.errors import ConfigError
from pipeline.core.stage import Resources
from pipeline.engine.plan import Node, Plan
from stages.datasets.patch_cutting import CuttingConfig
from stages.extraction.config import ExtractionConfig
from stages.ingest import IngestConfig, ingest
from stages.unpack import UnpackConfig, unpack
from stages.video.container import Limits
from stages.video.sources import split_archives

Decoding = TypeVar("Decoding", bound=ExtractionConfig | CuttingConfig)


def within_limits(config: Decoding, limits: Limits) -> Decoding:
    """Returns the config of a stage that decodes, with the limits of the recipe.

    Raises:
        ConfigError: the config has limits of its own.
    """
    if config.limits not in (Limits(), limits):
        raise ConfigError("limits of a single stage cannot be given: --limits.* decides for every stage of the recipe")
    return replace(config, limits=limits)


def add_unpacked(plan: Plan, videos: Sequence[str]) -> tuple[Node | None, tuple[str, ...]]:
    """Adds a node that unpacks the archives among `videos`; returns it, or None, and the other videos."""
    archives, others = split_archives(videos)
    return (plan.add(unpack, UnpackConfig(archives=archives)) if archives else None), others


def add_index(plan: Plan, config: IngestConfig, resources: Resources, corpus: Node | None = None) -> Node:
    """Adds the index of `config.videos` (folders, archives, globs, manifests, buckets) and of a made `corpus`."""
    unpacked, others = add_unpacked(plan, config.videos)
    return plan.add(ingest, replace(config, videos=others), resources=resources, corpus=corpus, unpacked=unpacked)


ONE_LIMITS: Final = dict.fromkeys(("extract.limits.", "cut.limits."), "--limits decides it for every stage")
"""The limits of single stages, which recipes refuse as options."""
