"""The model that holds an alias, measured by the test of a run that may take it over (`--if-better`).

Where data grow, each run has another test, and figures of two tests say nothing of each other. So the stages that
measure the run's encoder are made once more with the holder in its place, on the same data, with the same settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.core.result_metrics import ResultMetrics
from pipeline.engine.display import Display
from pipeline.engine.execute import Execution
from pipeline.engine.plan import Node, Plan, with_inputs
from pipeline.engine.status import look_up
from pipeline.engine.store import Manifest, Store
from pipeline.engine.tracking.no_tracking import NoTracker
from pipeline.engine.tracking.registry import result_names, test_digests
from pipeline.engine.tracking.values import HolderResults, allowed_name
from pipeline.recipes.existing_models import ENCODERS


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The artifact whose model holds an alias that a run may take over."""

    key: str
    target: str
    """The alias, as NAME@ALIAS."""
    metric: str
    """The metric by which the two are compared."""
    encoder: str
    """The run's node that makes the other model."""


def measure_holder(
    execution: Execution, display: Display, holder: Holder, run: Callable[[Execution], dict[str, Manifest]]
) -> HolderResults | None:
    """Measures the holder as the finished `execution` measured its own encoder.

    Returns None if no stage measures the metric, or the store lacks the holder. No record of a run names what is made:
    `percepts prune` removes it with the holder.

    run: makes what an execution lacks.

    Raises:
        StageFailed: the holder cannot be measured so, such as one that learned from other percepts.
    """
    store, complete = execution.store, execution.complete
    manifest = next((m for stage in ENCODERS if (m := store.find(stage.name, holder.key)) is not None), None)
    if manifest is None:
        return None
    nodes = [step.node for step in execution.steps]
    results = {node.name: _results(store, node, complete[node.name]) for node in nodes}
    measuring = {name for name, one in results.items() if _has(one, holder.metric)}
    twins = _twins(nodes, holder, manifest, measuring)
    if len(twins) == 1:
        return None
    display.add([twin.name for twin in twins.values()])
    steps = look_up(Plan(execution.recipe, [*nodes, *twins.values()]), store)
    names = {twin.name for twin in twins.values()}
    second = Execution(
        execution.recipe,
        [step for step in steps if step.node.name in names],
        store,
        NoTracker,
        display,
        complete=dict(complete),
    )
    made = run(second)
    measured = [
        (node, made[twin.name], _results(store, twin, made[twin.name]))
        if (twin := twins.get(node.name)) is not None and node.name != holder.encoder
        else (node, complete[node.name], results[node.name])
        for node in nodes
    ]
    named = result_names((node, one) for node, _, one in measured if node.content is None)
    values = {allowed_name(named(name, node)): value for node, _, one in measured for name, value in one.values.items()}
    return HolderResults(key=holder.key, metrics=values, tests=test_digests(measured))


def _results(store: Store, node: Node, manifest: Manifest) -> ResultMetrics:
    artifact = node.stage.produces(store.directory(manifest.stage, manifest.key), manifest.key)
    return artifact.metrics(manifest.facts)


def _has(results: ResultMetrics, metric: str) -> bool:
    quantity = metric.partition("/")[0]
    return any(name.partition("/")[0] == quantity for name in results.values)


def _twins(nodes: Sequence[Node], holder: Holder, manifest: Manifest, measuring: set[str]) -> Mapping[str, Node]:
    """Returns node name -> the node with the holder in the encoder's place, of those that measure and lead there."""
    stage = next(stage for stage in ENCODERS if stage.name == manifest.stage)
    twins = {holder.encoder: Plan("").add_existing(stage, manifest.key, name=holder.target)}
    for node in nodes:
        if node.name != holder.encoder and any(parent.name in twins for parent in node.parents):
            inputs = {edge: _swapped(value, twins) for edge, value in node.inputs.items()}
            twins[node.name] = replace(with_inputs(node, inputs), name=f"{node.name} of {holder.target}")
    wanted: set[str] = {holder.encoder}
    for node in reversed(nodes):  # children before parents
        if node.name in twins and node.name in measuring | wanted:
            wanted |= {node.name, *(parent.name for parent in node.parents if parent.name in twins)}
    return {name: twin for name, twin in twins.items() if name in wanted}


def _swapped(value: Node | tuple[Node, ...] | None, twins: Mapping[str, Node]) -> Node | tuple[Node, ...] | None:
    if isinstance(value, tuple):
        return tuple(twins.get(node.name, node) for node in value)
    return None if value is None else twins.get(value.name, value)
