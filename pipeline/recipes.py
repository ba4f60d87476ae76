"""THE DAGs. Each recipe is one function from typed options to a plan; every option is a flag of `pipeline/run.py`.

    demo     synthesize ─ ingest ─ extract ─ standardize ─ pretrain ─┬─ forecast, visualize
                                      └── finetune (3 arms) ─────────┴─ evaluate
    youtube  the same without labels, on videos of your own
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
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
    plan.add(visualize, VisualizeConfig(), encoder=encoder, index=index, **seen)
    _compare(plan, options.finetune, encoder, seen, run)
    return plan
