"""Does pretraining longer, or on more video, help? Accuracy of the demo's pretrained arm against both.

    python -m tests.experiments.pretraining_curve --store /tmp/curve --png docs/pretraining-curve.png

The demo's own recipe gives every config; the corpus is encoded and its percepts extracted once, and everything made is
reused when the script is run again. A point costs its pretraining and ten classifiers. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipeline.core.files import exists, join, read_json, write_json
from pipeline.core.stage import Artifact, Context
from pipeline.engine.plan import Node, Plan
from pipeline.recipes.demo import DemoOptions, build
from stages.percepts.artifacts import Percepts
from stages.percepts.shards import LEDGER_FILE, read_references, write_references
from stages.video.ledger import VideoRecord, write_records

LABELS = 5
STEPS = (50, 150, 500, 1500)
CLIPS = (25, 100, 400)
DONE = "done.json"


def made(store: str, node: Node) -> Any:
    """The artifact of a node, made in this process where it is missing."""
    inputs = {
        edge: tuple(made(store, n) for n in value)
        if isinstance(value, tuple)
        else made(store, value)
        if value is not None
        else None
        for edge, value in node.inputs.items()
    }
    return make(store, node.stage, node.config, node.key, inputs)


def make(store: str, stage: Any, config: Any, key: str, inputs: dict[str, Any]) -> Any:
    uri = join(store, stage.name, key)
    artifact: Artifact = stage.produces(uri, key)
    if not exists(join(uri, DONE)):
        context = Context(uri=uri, store_uri=store, key=key, source=stage.name)
        stage(config, context, **inputs)
        write_json(join(uri, DONE), context.facts)
    return artifact


def with_fewer(store: str, percepts: Percepts, num_clips: int) -> Percepts:
    """The same percepts; all but `num_clips` of the unlabelled videos are of a part that nobody reads."""
    uri = join(store, "extract", f"{percepts.key}-{num_clips}")
    records = percepts.records()
    unlabelled = [record.sha256 for record in records if record.part == "unlabelled"]
    kept = set(random.Random(0).sample(unlabelled, num_clips))

    def part(record: VideoRecord) -> VideoRecord:
        aside = record.part == "unlabelled" and record.sha256 not in kept
        return replace(record, part="left out") if aside else record

    write_references(uri, read_references(percepts.uri))
    write_records(join(uri, LEDGER_FILE), [part(record) for record in records], store_uri=store)
    return Percepts(uri, f"{percepts.key}-{num_clips}")


def accuracy(store: str, plan: Plan, percepts: Percepts, num_steps: int | None) -> dict[str, float]:
    """Mean accuracy at `LABELS` labels and half its 95% interval; `num_steps` None: the arm that is not pretrained."""
    nodes = {node.name: node for node in plan.nodes}
    standardize, pretrain = nodes["standardize"], nodes["pretrain"]
    arm = nodes["finetune scratch" if num_steps is None else "finetune pretrained"]
    statistics = make(
        store, standardize.stage, standardize.config, f"{standardize.key}-of-{percepts.key}", {"percepts": percepts}
    )
    edges: dict[str, Any] = {"percepts": percepts, "statistics": statistics}
    tag = f"{percepts.key}-{num_steps}"
    encoder = None
    if num_steps is not None:
        config = replace(pretrain.config, training=replace(pretrain.config.training, num_steps=num_steps))
        encoder = make(store, pretrain.stage, config, f"{pretrain.key}-of-{tag}", edges)
    config = replace(arm.config, labels_per_class=(LABELS,))
    classifiers = make(store, arm.stage, config, f"{arm.key}-of-{tag}", {**edges, "encoder": encoder})
    evaluate = nodes["evaluate"]
    scores = make(
        store,
        evaluate.stage,
        evaluate.config,
        f"{evaluate.key}-of-{tag}",
        {"percepts": percepts, "classifiers": (classifiers,)},
    )
    (row,) = read_json(scores.path("scores.json"))["summary"]
    return {"accuracy": row["mean"], "half_interval": (row["high"] - row["low"]) / 2}


def measure(store: str, options: DemoOptions, steps: Sequence[int], clips: Sequence[int]) -> dict[str, Any]:
    plan = build(options)
    percepts = made(store, next(node for node in plan.nodes if node.name == "extract"))
    every = sum(record.part == "unlabelled" for record in percepts.records())
    longest = max(steps)
    found = {
        "scratch": accuracy(store, plan, percepts, None),
        "by_steps": [{"num_steps": n, **accuracy(store, plan, percepts, n)} for n in steps],
        "by_clips": [{"num_clips": n, **accuracy(store, plan, with_fewer(store, percepts, n), longest)} for n in clips],
    }
    found["by_clips"].append({**found["by_steps"][list(steps).index(longest)], "num_clips": every})
    return {"num_clips": every, "num_steps": longest, **found}


def draw(found: dict[str, Any], png: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    scratch = 100 * found["scratch"]["accuracy"]
    sides = (
        (axes[0], "by_steps", "num_steps", f"pretraining steps, {found['num_clips']} clips"),
        (axes[1], "by_clips", "num_clips", f"unlabelled clips, {found['num_steps']} steps"),
    )
    for axis, rows, name, label in sides:
        xs = [row[name] for row in found[rows]]
        ys = [100 * row["accuracy"] for row in found[rows]]
        errors = [100 * row["half_interval"] for row in found[rows]]
        axis.errorbar(xs, ys, yerr=errors, marker="o", capsize=3, color="#1f6f8b", label="LSTM pretrained")
        axis.axhline(scratch, color="#8a8a8a", linestyle="--", label="LSTM from scratch")
        axis.set(xscale="log", xlabel=label)
        axis.set_xticks(xs, [str(x) for x in xs])
        axis.minorticks_off()
        axis.grid(alpha=0.25)
    axes[0].set_ylabel(f"accuracy, %, {LABELS} labels a class")
    axes[0].legend(frameon=False)
    figure.savefig(png, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", required=True, help="directory of what is made; reused")
    parser.add_argument("--png", type=Path, help="where to draw the curve")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--clips", type=int, nargs="+", default=CLIPS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(str(Path(given.store).absolute()), DemoOptions(), given.steps, given.clips)
    if given.png:
        draw(found, given.png)
    print(json.dumps({"experiment": "pretraining_curve", "labels_per_class": LABELS, **found}))


if __name__ == "__main__":
    main()
