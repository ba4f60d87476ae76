"""The status of a plan before it runs: *have* or *make* for each stage, the reason, and the expected size and time.

Estimates follow the graph. An artifact in the store counts as measured. A missing one is estimated by its stage from
the estimates of its inputs, and its seconds are scaled from the last artifact of that stage in this store.

An artifact that lacks videos for a cause that may pass (a network, credentials, a server) is looked at again by the
next run: a further artifact, with a key of its own, is made of it, and takes its place if anything could be read now.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from pipeline.core.printable import human_bytes, human_seconds, printable
from pipeline.core.rates import PROBED_VIDEOS_PER_S
from pipeline.core.stage import Estimate, config_dict
from pipeline.engine.plan import ExistingArtifactConfig, Inputs, Node, Plan, with_inputs
from pipeline.engine.store import Manifest, Store
from pipeline.engine.time_left import PRIOR_S, seconds_added

INDEX = "ingest"
"""The stage whose artifact holds the number of frames."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A node of a plan, looked up in the store."""

    node: Node
    manifest: Manifest | None
    reason: str
    estimate: Estimate
    num_to_look_at: int = 0
    """Videos of the complete artifact that are looked at again."""
    expected_s: float | None = None
    """The time that making it adds to the run: less than it takes, where other stages ran beside the one measured."""

    @property
    def have(self) -> bool:
        return self.manifest is not None


def look_up(
    plan: Plan, store: Store, assumed_index: Estimate | None = None, *, look_at_rejected: bool = False
) -> list[Step]:
    """Looks up every node of the plan in the store, in the plan's order.

    Args:
        assumed_index: the size of an index to assume; all nodes that depend on an index then count as missing.
        look_at_rejected: all rejected videos are to be looked at again, also those whose bytes were the reason.

    Raises:
        CorruptArtifact: a manifest cannot be read, or a file of an artifact has not the size that it promises.
    """
    steps: dict[str, Step] = {}
    histories = {name: list(store.manifests(name)) for name in {node.stage.name for node in plan.nodes}}
    added_s = seconds_added({m.key: _span(m) for history in histories.values() for m in history})
    for node in plan.nodes:
        node, manifest = _latest(_with_latest_inputs(node, steps), store)
        history = histories[node.stage.name]
        is_assumed = assumed_index is not None and (node.stage.name == INDEX or bool(node.parents))
        if is_assumed:
            manifest = None
        num_to_look_at = 0
        if manifest is not None:
            store.check_sizes(manifest)
            if all(steps[parent.name].have for parent in node.parents):
                num_to_look_at = _num_to_look_at(node, manifest, store, all_rejected=look_at_rejected)
        reason = "complete" if manifest else why_make(node, history, {n: s.have for n, s in steps.items()})
        estimates = {name: step.estimate for name, step in steps.items()}
        upstream = {edge: _joined(value, estimates) for edge, value in node.inputs.items()}
        if manifest is not None:
            estimate, expected_s = _from_manifest(manifest), None
        else:
            estimate, expected_s = _estimate(node, upstream, history, added_s)
        if num_to_look_at:
            which = "rejected videos" if look_at_rejected else "videos that could not be read"
            reason = f"complete but for {num_to_look_at:,} {which}"
            expected_s = num_to_look_at / PROBED_VIDEOS_PER_S
            estimate = replace(estimate, seconds=expected_s)
        if is_assumed:
            reason = "assumed"
            if assumed_index is not None and node.stage.name == INDEX:
                estimate = replace(assumed_index, seconds=_expected(node, {"listing": assumed_index}).seconds)
        steps[node.name] = Step(
            node=node,
            manifest=manifest,
            reason=reason,
            estimate=estimate,
            num_to_look_at=num_to_look_at,
            expected_s=expected_s,
        )
    return list(steps.values())


def _with_latest_inputs(node: Node, steps: Mapping[str, Step]) -> Node:
    """Returns the node with the nodes of `steps` as inputs."""

    def latest(value: Node | tuple[Node, ...] | None) -> Node | tuple[Node, ...] | None:
        if isinstance(value, tuple):
            return tuple(steps[parent.name].node for parent in value)
        return value and steps[value.name].node

    inputs: Inputs = {edge: latest(value) for edge, value in node.inputs.items()}
    is_same = all(steps[parent.name].node.key == parent.key for parent in node.parents)
    return replace(node, inputs=inputs) if is_same else with_inputs(node, inputs)


def _latest(node: Node, store: Store) -> tuple[Node, Manifest | None]:
    """Returns the node at its last look that the store has an artifact of, and that artifact's manifest."""
    manifest = store.find(node.stage.name, node.key)
    while manifest is not None and _num_to_look_at(node, manifest, store, all_rejected=True):
        later = with_inputs(node, node.inputs, node.look + 1)
        later_manifest = store.find(later.stage.name, later.key)
        if later_manifest is None:
            break
        node, manifest = later, later_manifest
    return node, manifest


def _num_to_look_at(node: Node, manifest: Manifest, store: Store, *, all_rejected: bool) -> int:
    if isinstance(node.config, ExistingArtifactConfig):
        return 0
    artifact = node.stage.produces(store.directory(node.stage.name, node.key), node.key)
    return artifact.num_to_look_at(manifest.facts, all_rejected=all_rejected)


def why_make(node: Node, history: list[Manifest], have: Mapping[str, bool]) -> str:
    """Returns why `node` is not in the store, compared with the latest artifact of the same stage and name."""
    same = [m for m in history if m.name == node.name] or history
    if not same:
        return "never made"
    last = max(same, key=lambda manifest: manifest.finished_at)
    changes = _differences(last.config, config_dict(node.config))
    if last.version != node.stage.version:
        return f"code version changed: {last.version} -> {node.stage.version}"
    if changes:
        return "config changed: " + ", ".join(changes[:3]) + (f" and {len(changes) - 3} more" if changes[3:] else "")
    if last.snapshot != node.snapshot:
        return "input changed: the files behind its URI"
    edges = [edge for edge, keys in node.input_keys().items() if last.inputs.get(edge) != keys]
    if edges:
        return "input changed: " + ", ".join(edges)
    return "its artifact was removed"


def plan_table(recipe: str, steps: list[Step]) -> Table:
    """Returns the plan as a table for the terminal."""
    table = Table(title=f"{recipe}: {sum(s.have for s in steps)} have, {sum(not s.have for s in steps)} to make")
    for heading in ("stage", "", "why", "key"):
        table.add_column(heading, overflow="fold")
    for heading in ("frames", "bytes", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    for step in steps:
        frames, num_bytes = step.estimate.num_frames, step.estimate.num_bytes
        table.add_row(
            Text(printable(step.node.name)),
            "[yellow]look[/]" if step.num_to_look_at else "[green]have[/]" if step.have else "[yellow]make[/]",
            Text(printable(step.reason)),
            step.node.key,
            "" if frames is None else f"{frames:,}",
            "" if num_bytes is None else human_bytes(num_bytes),
            "not known" if step.estimate.seconds is None else human_seconds(step.estimate.seconds),
        )
    if any(step.estimate.seconds is None for step in steps):
        table.caption = "A time that is not known is known once this store has made such an artifact."
    return table


def plan_notes(steps: list[Step]) -> list[str]:
    """Returns a line for each stage of which there is more to say than its row has, and what listings left out."""
    listings = [step.node.listing for step in steps if step.node.listing is not None]
    notes = [f"{step.node.name}: {step.estimate.note}" for step in steps if step.estimate.note and not step.have]
    notes += [
        f"{step.node.name}: {step.num_to_look_at:,} videos to look at again; what follows is made again if that helps"
        for step in steps
        if step.num_to_look_at
    ]
    notes += [f"warning: {note}" for listing in listings for note in listing.notes]
    return [printable(note) for note in notes]


def _differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted({*old, *new})
        return [line for name in names for line in _differences(old.get(name), new.get(name), f"{prefix}.{name}")]
    return [] if old == new else [f"{prefix.lstrip('.')} {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    text = "unset" if value is None else str(value)
    return text if len(text) <= 24 else text[:21] + "..."


def _joined(value: Node | tuple[Node, ...] | None, estimates: Mapping[str, Estimate]) -> Estimate:
    nodes = value if isinstance(value, tuple) else (value,) if value is not None else ()
    videos, frames, num_bytes = (
        [count for node in nodes if (count := getattr(estimates[node.name], name)) is not None]
        for name in ("num_videos", "num_frames", "num_bytes")
    )
    return Estimate(
        num_videos=sum(videos) if videos else None,
        num_frames=sum(frames) if frames else None,
        num_bytes=sum(num_bytes) if num_bytes else None,
    )


def _from_manifest(manifest: Manifest) -> Estimate:
    videos, frames = manifest.facts.get("num_videos"), manifest.facts.get("num_frames")
    num_bytes = manifest.facts.get("num_bytes", manifest.num_bytes)
    return Estimate(
        num_videos=int(videos) if videos is not None else None,
        num_frames=int(frames) if frames is not None else None,
        num_bytes=int(num_bytes),
        seconds=manifest.seconds,
    )


def _span(manifest: Manifest) -> tuple[float, float]:
    """Returns when the making of an artifact began and ended, in seconds of the epoch."""
    end = datetime.fromisoformat(manifest.finished_at).timestamp() if manifest.finished_at else 0.0
    return end - manifest.seconds, end


def expected_seconds(node: Node, complete: Mapping[str, Manifest]) -> float | None:
    """Returns the stage's own estimate of its duration, by the sizes of its inputs' artifacts; None: it has none."""
    made = {name: _from_manifest(manifest) for name, manifest in complete.items()}
    upstream = {edge: _joined(value, made) for edge, value in node.inputs.items()}
    return _expected(node, upstream).duration_s(node.resources)


def _expected(node: Node, upstream: Mapping[str, Estimate]) -> Estimate:
    inputs = dict(upstream) if node.listing is None else {"listing": node.listing.estimate, **upstream}
    return node.stage.estimate(node.config, inputs) if node.stage.estimate else Estimate()


def _estimate(
    node: Node, upstream: Mapping[str, Estimate], history: list[Manifest], added_s: Mapping[str, float]
) -> tuple[Estimate, float | None]:
    """Returns the estimate of a stage, and the time that it adds to the run. added_s: key -> that of earlier ones."""
    expected = _expected(node, upstream)
    seconds = expected.duration_s(node.resources)
    # What others' servers take says nothing about other links.
    of_same_kind = [] if expected.is_waiting else history
    for last in sorted(of_same_kind, key=lambda manifest: manifest.finished_at, reverse=True):
        num_cores, num_gpus = (last.facts.get(name, 0.0) for name in ("num_cores", "num_gpus"))
        if (seconds is None) != (last.expected_s is None):
            continue  # such as an extraction with a convnet that was never measured, and one with a convnet that was
        if not num_cores or bool(num_gpus) == bool(node.resources.gpus_per_worker):
            growth = _growth(last, seconds)
            return replace(expected, seconds=last.seconds * growth, is_measured=True), added_s[last.key] * growth
    return replace(expected, seconds=seconds), seconds


def _growth(last: Manifest, expected_s: float | None) -> float:
    """Returns how many times as long as an earlier one an artifact will take, whose own estimate is `expected_s`.

    The start of workers is most of a short stage, and says little about the speed of the work in a longer one.
    """
    if not (expected_s and last.expected_s and last.seconds):
        return 1.0
    if expected_s <= last.expected_s:
        return expected_s / last.expected_s
    speed = (last.seconds + PRIOR_S) / (last.expected_s + PRIOR_S)
    return 1 + (expected_s - last.expected_s) * speed / last.seconds
