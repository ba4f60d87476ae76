"""A plan: the stages of a recipe, joined by checked edges and named by their keys. Building a plan runs nothing.

plan = Plan("demo")
corpus = plan.add(synthesize, SynthesizeConfig())
index = plan.add(ingest, IngestConfig(), corpus=corpus)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.core.errors import PlanError
from pipeline.core.stage import Edge, Listing, Resources, Stage
from pipeline.engine.keys import digest_of, key_of

Inputs = Mapping[str, "Node | tuple[Node, ...] | None"]
Check = Callable[[Any], Iterable[str]]


@dataclass(frozen=True, eq=False)
class Node:
    """One stage of a plan, with its config and the nodes it reads."""

    name: str
    """The name in displays, unique in the plan."""
    stage: Stage[Any, ..., Any]
    config: Any
    inputs: Inputs
    resources: Resources
    key: str
    snapshot: str | None = None
    listing: Listing | None = None
    """The listing whose digest is `snapshot`, where the stage reads one."""
    content: str | None = None
    """Digest that stands for the artifact, instead of its key, in the keys of what reads it: equal bytes that came by
    different ways then make one artifact."""
    look: int = 0
    """Number of the renewed looks at what could not be read before; each makes an artifact of its own."""
    check: Check | None = None
    """(artifact) -> warnings about what else is planned for it. It may raise UsageError, which ends the run before that
    is begun; it is no part of the key."""

    @property
    def parents(self) -> tuple[Node, ...]:
        """All nodes that this one reads, in the order of the edges."""
        parents: list[Node] = []
        for value in self.inputs.values():
            parents.extend(value if isinstance(value, tuple) else (value,) if value is not None else ())
        return tuple(parents)

    def input_keys(self) -> dict[str, Any]:
        """Returns edge name -> key, list of keys, or None for an open edge."""
        return {name: _each(value, lambda node: node.key) for name, value in self.inputs.items()}


@dataclass(frozen=True)
class ExistingArtifactConfig:
    """The config of a node whose artifact is given by its key: the manifest has the real one."""


@dataclass
class Plan:
    """The nodes of one recipe, parents before children."""

    recipe: str
    nodes: list[Node] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """The digest of all keys, by which two runs are known to make the same."""
        return digest_of(node.key for node in self.nodes)

    def add(
        self,
        stage: Stage[Any, ..., Any],
        config: Any,
        *,
        name: str | None = None,
        resources: Resources | None = None,
        **inputs: Node | Sequence[Node] | None,
    ) -> Node:
        """Adds a stage. Its inputs are nodes of this plan, named as the stage's keyword parameters.

        Raises:
            PlanError: an edge is missing, unknown, or joins an artifact to a parameter of another type; the message
                names both ends and what to do.
        """
        name = name or stage.name
        if not isinstance(config, stage.config_type):
            expected = stage.config_type.__name__
            raise PlanError(f"{name}: config is a {type(config).__name__}; stage {stage.name!r} takes a {expected}")
        checked = {edge: self._check(name, stage, edge, inputs.pop(edge, None)) for edge in stage.edges}
        if inputs:
            known = ", ".join(stage.edges) or "none"
            raise PlanError(f"{name}: stage {stage.name!r} has no input {min(inputs)!r}; its inputs are: {known}")
        outside = stage.snapshot(config) if stage.snapshot else None
        listing = outside if isinstance(outside, Listing) else None
        snapshot = outside.digest if isinstance(outside, Listing) else outside
        key = key_of(stage, config, snapshot, _known_by(stage, checked))
        return self._append(Node(name, stage, config, checked, resources or Resources(), key, snapshot, listing))

    def add_existing(self, stage: Stage[Any, ..., Any], key: str, *, name: str) -> Node:
        """Adds an artifact of the store by its key. Its config and inputs are in its manifest."""
        return self._append(Node(name, stage, ExistingArtifactConfig(), {}, Resources(), key))

    def replaced(self, node: Node, *, check: Check | None = None, content: str | None = None) -> Node:
        """Returns `node`, which nothing reads yet, with a check or a content, in the place of the one without."""
        changed = replace(node, check=check, content=content)
        self.nodes[self.nodes.index(node)] = changed
        return changed

    def _append(self, node: Node) -> Node:
        if any(other.name == node.name for other in self.nodes):
            raise PlanError(
                f"recipe {self.recipe!r} has two nodes named {node.name!r}; pass another name= to one of them"
            )
        self.nodes.append(node)
        return node

    def _check(self, name: str, stage: Stage[Any, ..., Any], edge_name: str, value: Any) -> Any:
        edge = stage.edges[edge_name]
        end = f"{name}.{edge_name} ({edge})"
        if value is None:
            if edge.optional:
                return None
            fix = f"pass {edge_name}=<a node that makes {edge.artifact.__name__}>"
            raise PlanError(f"{end} is not connected; {fix}")
        if edge.many != isinstance(value, Sequence):
            raise PlanError(f"{end} takes {'a sequence of nodes' if edge.many else 'one node'}; pass that instead")
        nodes = tuple(value) if edge.many else (value,)
        for node in nodes:
            self._check_end(end, edge, node)
        return nodes if edge.many else value

    def _check_end(self, end: str, edge: Edge, node: Any) -> None:
        if not isinstance(node, Node) or not any(node is known for known in self.nodes):
            raise PlanError(f"{end} was given {node!r}, which is no node of this plan; add it with plan.add first")
        if not issubclass(node.stage.produces, edge.artifact):
            made = node.stage.produces.__name__
            raise PlanError(
                f"{end} was given {node.name!r}, which makes {made}; connect a node that makes {edge.artifact.__name__}"
            )


def with_inputs(node: Node, inputs: Inputs, look: int = 0) -> Node:
    """Returns the node with the key that it has with other inputs, or at a renewed look."""
    if isinstance(node.config, ExistingArtifactConfig):
        return node
    key = key_of(node.stage, node.config, node.snapshot, _known_by(node.stage, inputs), look)
    return replace(node, inputs=inputs, key=key, look=look)


def _known_by(stage: Stage[Any, ..., Any], inputs: Inputs) -> dict[str, Any]:
    """Returns edge name -> what stands for its node, or nodes, in a key."""
    return {
        edge: _each(value, lambda node: node.content or node.key)
        for edge, value in inputs.items()
        if value is not None or edge not in stage.late_edges
    }


def _each(value: Node | tuple[Node, ...] | None, name: Callable[[Node], str]) -> Any:
    if isinstance(value, tuple):
        return [name(node) for node in value]
    return name(value) if value is not None else None
