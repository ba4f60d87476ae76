"""Tables 1 and 3 on a full-size stand-in for UCF-101: every clip of the official lists, three splits, on this machine.

    python -m tests.bench.full_size --lists ucfTrainTestlist/                 # 13,320 clips; tens of minutes on 2 cores
    python -m tests.bench.full_size --lists ucfTrainTestlist/ --share 0.05    # a quick look at the same

Percepts are made with a known degree of separability (`tests.stages.made_actions`); everything after them is what the
recipe `ucf101` runs: pretraining of the six models, a finetune node an arm with settings chosen on validation clips,
evaluation by the paper's protocol, on Ray. Prints a JSON line: seconds, peak memory of all processes, the accuracies,
and for the single-frame row what scikit-learn's LogisticRegression gets on the same percepts and splits, with the
difference and half of its 95% interval, over footages. `ratio` is our accuracy over scikit-learn's. The line says
skipped where the lists are not there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from sklearn.linear_model import LogisticRegression

from cluster.session import session
from pipeline.core.files import read_json
from pipeline.core.stage import Resources
from pipeline.engine.display import Display
from pipeline.engine.execute import Execution
from pipeline.engine.plan import Node, Plan
from pipeline.engine.status import look_up
from pipeline.engine.store import Store
from pipeline.engine.tracking.tracker import Tracker
from pipeline.engine.tracking.values import RunDescription
from pipeline.recipes.arms import SINGLE_FRAME, ArmConfigs, Measured, add_arms
from pipeline.recipes.model_variants import MODELS, variant
from stages.datasets.labelled import ALL_CLIPS
from stages.datasets.official.action_sets import ActionSetConfig
from stages.datasets.split_subsets import split_subsets_of
from stages.datasets.splits import Splits
from stages.finetune import FinetuneConfig
from stages.finetuning.arm import EnsembleTrainingConfig, SelectionConfig
from stages.models.config import ClassifierConfig, CompositeConfig
from stages.official_splits import AssignSplitsConfig, assign_splits
from stages.percepts.artifacts import Percepts, Statistics
from stages.percepts.transforms import Standardisation
from stages.pretrain import PretrainConfig, pretrain
from stages.pretraining.config import OptimizerConfig, TrainingConfig
from stages.standardize import StandardizeConfig, standardize
from stages.video.ledger import VideoRecord
from tests.stages.made_actions import MadeActionsConfig, World, made_index, made_percepts

ROOT = Path(__file__).parents[2]
LISTS = ROOT.parent / "shared" / "data" / "splits" / "ucf101"
SAMPLE_FRAMES = 4
"""Frames of a training clip that scikit-learn learns from, evenly spread: all 32 take it a quarter of an hour."""
CS = (0.003, 0.01, 0.03)
"""Its inverse strengths of regularisation to choose from."""

LSTM = FinetuneConfig(
    arm="LSTM",
    classifier=ClassifierConfig(num_units=64, forget_bias=1.0, dropout=0.3, input_dropout=0.6),
    training=EnsembleTrainingConfig(
        optimizer=OptimizerConfig(weight_decay=1.0, num_warmup_steps=0), num_steps=80, num_epochs=6, batch_clips=128
    ),
    num_samplings=1,
    allow_fewer=True,
    zero_output=True,
    selection=SelectionConfig(learning_rates=(1e-2, 3e-3), num_checks=2),
)
CONFIGS = ArmConfigs(
    single_frame=replace(
        LSTM,
        arm="frame",
        classifier=replace(LSTM.classifier, model="frame", dropout=0.0),
        training=replace(LSTM.training, optimizer=replace(LSTM.training.optimizer, weight_decay=0.3)),
        selection=SelectionConfig(learning_rates=(3e-3,), input_dropouts=(0.5, 0.8), num_checks=2),
    ),
    scratch=LSTM,
    pretrained=LSTM,
)
PRETRAIN = PretrainConfig(
    model=CompositeConfig(num_units=64, forget_bias=1.0, num_frames_in=16, num_frames_out=13),
    training=TrainingConfig(
        num_steps=200,
        optimizer=OptimizerConfig(learning_rate=5e-3, num_warmup_steps=20),
        validate_every_steps=100,
        checkpoint_every_steps=100,
    ),
    window_stride=1,
)


def build(config: MadeActionsConfig, num_workers: int) -> tuple[Plan, dict[str, Node]]:
    """The plan of the run, and the nodes that are looked at afterwards."""
    plan, resources = Plan("full-size"), Resources(num_workers=num_workers)
    index = plan.add(made_index, config)
    percepts = plan.add(made_percepts, config)
    splits = plan.add(
        assign_splits,
        AssignSplitsConfig(data=ActionSetConfig(dataset="ucf101", lists=config.lists, allow_missing=True)),
        index=index,
    )
    statistics = plan.add(standardize, StandardizeConfig(parts=("unlabelled",)), percepts=percepts)
    encoders = {
        model: plan.add(
            pretrain,
            variant(PRETRAIN, model),
            name=f"pretrain {model}",
            resources=Resources(num_workers=1),
            percepts=percepts,
            statistics=statistics,
        )
        for model in MODELS
    }
    arms = add_arms(
        plan,
        configs=CONFIGS,
        measured=Measured(tables=("1", "3"), small=10, curve=()),
        encoders=encoders,
        percepts=percepts,
        statistics=statistics,
        splits=splits,
        resources=resources,
    )
    return plan, {"percepts": percepts, "splits": splits, "statistics": statistics, "scores": arms.scores}


Named = dict[tuple[int, str], bool]
"""(split, sha256 of a test clip) -> whether it was named rightly."""


def scikit_learn(percepts: Percepts, splits: Splits, statistics: Statistics) -> Named:
    """LogisticRegression by the same protocol: a clip is the mean over its frames, and how much is regularised is
    chosen on the held-out training clips of each split."""
    store, standardise = percepts.open(), Standardisation.of(statistics.moments())
    take = np.linspace(0, store.rows(store.videos[0]).frame_N[-1], SAMPLE_FRAMES).astype(int)

    def frames(clip: VideoRecord) -> Any:
        return (store.percepts(clip.sha256).astype(np.float32) - standardise.mean_D) / standardise.scale_D

    def fitted(clips: Sequence[VideoRecord], c: float) -> LogisticRegression:
        x = np.concatenate([frames(clip)[take] for clip in clips])
        y = np.repeat([str(clip.label) for clip in clips], SAMPLE_FRAMES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Frames of a clip are no independent examples: C is that of one frame a clip.
            return LogisticRegression(C=c / SAMPLE_FRAMES, max_iter=60).fit(x, y)

    def named(model: LogisticRegression, clips: Sequence[VideoRecord]) -> Any:
        every_frame = model.predict_proba(np.concatenate([frames(clip) for clip in clips]))
        mean_NC = every_frame.reshape(len(clips), -1, every_frame.shape[1]).mean(1)
        return model.classes_[mean_NC.argmax(1)] == np.array([clip.label for clip in clips])

    found: Named = {}
    for number in splits.numbers():
        sides = split_subsets_of(percepts.records(), splits, number, part="train", with_validation=True)
        best = max(CS, key=lambda c: float(named(fitted(sides.fit, c), sides.validation).mean()))
        tested = [clip for clip in splits.assign(percepts.records(), number) if clip.part == "test"]
        rightly = named(fitted(sides.learn, best), tested)
        found |= {(number, clip.sha256): bool(right) for clip, right in zip(tested, rightly, strict=True)}
    return found


def our_single_frame(scores_uri: str) -> Named:
    """What `evaluate` wrote of the single-frame row with all labels."""
    rows = pq.ParquetFile(f"{scores_uri}/predictions.parquet").read().to_pylist()
    return {
        (row["split"], row["video"]): row["label"] == row["predicted"]
        for row in rows
        if row["model"] == SINGLE_FRAME and row["labels_per_class"] == ALL_CLIPS
    }


def compared(ours: Named, theirs: Named, group_of: Mapping[str, str]) -> dict[str, float]:
    """Both accuracies, means over splits, and their paired difference with half of its 95% interval. Clips of one
    footage succeed and fail together, so that footages are what is sampled."""
    assert ours.keys() == theirs.keys()
    num_clips = Counter(number for number, _ in ours)
    weight = {run: 1 / (num_clips[run[0]] * len(num_clips)) for run in ours}
    mean = {name: sum(weight[run] * found[run] for run in ours) for name, found in (("our", ours), ("their", theirs))}
    difference = mean["our"] - mean["their"]
    off: dict[str, float] = {}
    for run in ours:
        group = group_of[run[1]]
        off[group] = off.get(group, 0.0) + weight[run] * (ours[run] - theirs[run] - difference)
    return {
        "single_frame": round(mean["our"], 4),
        "scikit_learn": round(mean["their"], 4),
        "difference": round(difference, 4),
        "difference_95": round(1.96 * float(np.sqrt(np.square(list(off.values())).sum())), 4),
    }


class PeakMemory:
    """Memory of this process and all below it, Ray and its workers: their proportional share, summed."""

    def __init__(self) -> None:
        self.peak_bytes, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        own = Path("/proc/self")
        while not self._ended.wait(2.0):
            self.peak_bytes = max(self.peak_bytes, sum(_pss_bytes(path) for path in [own, *_descendants(own)]))


def _processes() -> list[Path]:
    return [path for path in Path("/proc").iterdir() if path.name.isdigit()]


def _descendants(root: Path) -> list[Path]:
    """Processes below this one."""
    parents: dict[int, list[Path]] = {}
    for path in _processes():
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue  # it has ended meanwhile
        parents.setdefault(parent, []).append(path)
    found, new = [], [int(root.resolve().name)]
    while new:
        children = [child for parent in new for child in parents.get(parent, [])]
        found += children
        new = [int(child.name) for child in children]
    return found


def _pss_bytes(process: Path) -> int:
    """Proportional set size: pages that processes share are counted once."""
    try:
        lines = (process / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0  # it has ended meanwhile
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def main() -> None:
    """Run it all, and print the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lists", default=str(LISTS), help="folder of UCF-101's official lists")
    parser.add_argument("--share", type=float, default=0.05, help="of the footage; 1 is the full size")
    parser.add_argument("--store", default="", help="where to keep what is made; default: a temporary folder")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    if not Path(given.lists).is_dir():
        print(json.dumps({"benchmark": "full_size", "skipped": f"no official lists at {given.lists}"}))
        return
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(measure(given.lists, given.share, given.store or temporary, given.workers)))


def measure(lists: str, share: float, store_uri: str, num_workers: int) -> dict[str, Any]:
    """The line."""
    config = MadeActionsConfig(lists=lists, share=share, num_unlabelled=max(64, round(4000 * share)))
    plan, nodes = build(config, num_workers)
    store = Store.open(store_uri, create=True)
    tracker = Tracker(store, store.default_tracking_uri, plan.recipe)
    tracker.start(RunDescription(command="python -m tests.bench.full_size", params={"share": share}))
    started = time.monotonic()
    with PeakMemory() as memory, Display(plan.recipe, [n.name for n in plan.nodes], Console(stderr=True)) as display:
        execution = Execution(plan.recipe, look_up(plan, store), store, lambda: tracker, display)
        complete = execution.run(partial(session, None, str(ROOT)))
    seconds = time.monotonic() - started
    tracker.end("FINISHED")
    uri = {name: store.directory(node.stage.name, node.key) for name, node in nodes.items()}
    scores = read_json(f"{uri['scores']}/scores.json")
    peer_started = time.monotonic()
    percepts, splits = Percepts(uri["percepts"]), Splits(uri["splits"])
    peer = scikit_learn(percepts, splits, Statistics(uri["statistics"]))
    peer_seconds = time.monotonic() - peer_started
    assigned = (record for number in splits.numbers() for record in splits.assign(percepts.records(), number))
    agreement = compared(our_single_frame(uri["scores"]), peer, {clip.sha256: str(clip.group) for clip in assigned})
    cells = {f"{row['model']}, {row['labels_per_class'] or 'all'}": row for row in scores["summary"]}
    return {
        "benchmark": "full_size",
        "clips": scores["coverage"][0]["num_train"] + scores["coverage"][0]["num_test"],
        "classifiers": len(scores["rows"]),
        "seconds": round(seconds, 1),
        "seconds_by_stage": {name: manifest.seconds for name, manifest in complete.items()},
        "peak_memory_bytes": memory.peak_bytes,
        "ceiling_of_single_frames": World(config, tuple(scores["class_names"])).ceiling,
        "accuracy": {name: round(row["mean"], 4) for name, row in cells.items()},
        **agreement,
        "ratio": round(agreement["single_frame"] / agreement["scikit_learn"], 4),
        "scikit_learn_seconds": round(peer_seconds, 1),
        "store": store_uri,
        "key": nodes["scores"].key,
    }


if __name__ == "__main__":
    main()
