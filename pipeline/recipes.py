"""THE DAGs. Each recipe is one function from typed options to a plan; every option is a flag of `pipeline/run.py`.

    demo     synthesize ─ ingest ─ extract ─ standardize ─ pretrain ─┬─ forecast, visualize
                                      └── finetune (3 arms) ─────────┴─ evaluate
    youtube  the same without labels, on videos of your own
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.plan import Node, Plan
from pipeline.stage import Resources
from stages.evaluate import EvaluateConfig, evaluate
from stages.extract import ExtractConfig, extract
from stages.finetune import FinetuneConfig, finetune
from stages.forecast import ForecastConfig, forecast
from stages.ingest import IngestConfig, ingest
from stages.percepts.convnets import ConvnetConfig
from stages.pretrain import PretrainConfig, pretrain
from stages.standardize import StandardizeConfig, standardize
from stages.synthesize import SynthesizeConfig, synthesize
from stages.visualize import VisualizeConfig, visualize


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of every recipe. Those of this class never change what is made, only where and how."""

    plan: bool = False
    """Print what is there, what would be made and why, with estimates; start nothing."""
    store: str = ".percepts"
    """Directory or fsspec URL (s3://...) that holds everything made; begun where there is none."""
    tracking_uri: str | None = None
    """MLflow tracking server or database; default: SQLite in the store."""
    address: str | None = None
    """Ray cluster to join, HOST:PORT; default: RAY_ADDRESS, else a local Ray."""
    num_cpus: int | None = None
    """Cores of a local Ray; default: all of this machine's."""
    workers: int = 2
    """Worker processes of each stage: extractors, members of the training group."""
    gpus_per_worker: float = 0.0
    """GPUs of each worker of the stages that use one (extract, pretrain); 0 runs on CPUs."""

    @property
    def on_cpus(self) -> Resources:
        """For stages that need no GPU."""
        return Resources(num_workers=self.workers)

    @property
    def on_devices(self) -> Resources:
        """For stages that use a GPU where there is one."""
        return Resources(num_workers=self.workers, gpus_per_worker=self.gpus_per_worker)


@dataclass(frozen=True, kw_only=True)
class DemoOptions(RunOptions):
    """A corpus of moving digits, encoded here; eight motions to tell apart, half of them the other half reversed."""

    videos: tuple[str, ...] = ()
    """More unlabelled video to learn from: folders, globs, manifests, buckets."""
    corpus: SynthesizeConfig = SynthesizeConfig()
    extract: ExtractConfig = ExtractConfig()
    pretrain: PretrainConfig = PretrainConfig()
    finetune: FinetuneConfig = FinetuneConfig(arm="LSTM")
    """Of the two LSTM arms; the single-frame arm takes what applies to it."""


def demo(options: DemoOptions) -> Plan:
    """From video files to a comparison table."""
    plan = Plan("demo")
    run, run_gpu = options.on_cpus, options.on_devices
    corpus = plan.add(synthesize, options.corpus, resources=run)
    index = plan.add(ingest, IngestConfig(), resources=run, corpus=corpus)
    percepts = plan.add(extract, options.extract, resources=run_gpu, index=index)
    statistics = plan.add(standardize, StandardizeConfig(parts=("unlabelled",)), percepts=percepts)
    encoder = plan.add(pretrain, options.pretrain, resources=run_gpu, percepts=percepts, statistics=statistics)
    seen = {"percepts": percepts, "statistics": statistics}
    plan.add(forecast, ForecastConfig(), encoder=encoder, **seen)
    plan.add(visualize, VisualizeConfig(fit_part="unlabelled"), encoder=encoder, percepts=percepts)
    _compare(plan, options.finetune, encoder, seen, run)
    return plan


def _compare(plan: Plan, config: FinetuneConfig, encoder: Node, seen: Mapping[str, Node], resources: Resources) -> Node:
    """Three arms over the same samplings: single frames, an LSTM from scratch, an LSTM that starts pretrained."""
    frame = replace(config, arm="single frame", model="frame")
    arms = [
        plan.add(finetune, frame, name="finetune single frame", resources=resources, **seen),
        plan.add(finetune, replace(config, arm="LSTM from scratch"), name="finetune scratch", resources=resources, **seen),
        plan.add(
            finetune,
            replace(config, arm="LSTM pretrained"),
            name="finetune pretrained",
            resources=resources,
            encoder=encoder,
            **seen,
        ),
    ]
    return plan.add(evaluate, EvaluateConfig(), resources=resources, classifiers=arms, **seen)


@dataclass(frozen=True, kw_only=True)
class YoutubeOptions(RunOptions):
    """Unlabelled videos of your own: index, extract, pretrain, and see what the model expects next."""

    videos: tuple[str, ...]
    """Folders, globs, video files, manifests (.txt, .csv, .jsonl, .parquet) or bucket URLs."""
    extract: ExtractConfig = ExtractConfig()
    pretrain: PretrainConfig = PretrainConfig()


def youtube(options: YoutubeOptions) -> Plan:
    """Representations of unlabelled video."""
    plan = Plan("youtube")
    run, run_gpu = options.on_cpus, options.on_devices
    index = plan.add(ingest, IngestConfig(videos=options.videos), resources=run)
    percepts = plan.add(extract, options.extract, resources=run_gpu, index=index)
    statistics = plan.add(standardize, StandardizeConfig(parts=("unlabelled",)), percepts=percepts)
    encoder = plan.add(pretrain, options.pretrain, resources=run_gpu, percepts=percepts, statistics=statistics)
    plan.add(visualize, VisualizeConfig(fit_part=None, show_part=None), encoder=encoder, percepts=percepts)
    return plan


@dataclass(frozen=True)
class Recipe:
    """A name on the command line."""

    name: str
    summary: str
    options: type[Any]
    build: Callable[[Any], Plan]


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("demo", "moving digits on photographs: from video files to a comparison table", DemoOptions, demo),
        Recipe("youtube", "unlabelled videos of your own: percepts and a pretrained encoder", YoutubeOptions, youtube),
    )
}
