"""The facts of a run that its report needs besides the artifacts: the run itself and one entry a node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pipeline.core.secrets import public
from pipeline.core.stage import Artifact
from pipeline.engine.status import Step
from pipeline.engine.store import Manifest, Store

LOCAL_MLFLOW = "http://127.0.0.1:5000"
"""Address at which `percepts ui` serves MLflow, unless it is given another port."""


@dataclass(frozen=True, kw_only=True)
class NodeView:
    """One node of the run's plan."""

    name: str
    stage: str
    key: str
    state: Literal["have", "made"]
    reason: str
    """Reason for which it was made, or that it was complete."""
    artifact: Artifact
    seconds: float
    """Seconds that it took when it was made, in this run or an earlier one."""
    num_bytes: int
    num_files: int
    facts: dict[str, int | float | str]
    mlflow_run_id: str | None
    """The run that made it."""
    config: dict[str, Any]
    parents: tuple[str, ...] = ()
    """Names of the nodes that it reads."""

    @classmethod
    def of(cls, step: Step, manifest: Manifest, store: Store) -> NodeView:
        """Builds the view of a step that is complete; `manifest` is the one of the finished artifact."""
        return cls(
            name=step.node.name,
            stage=step.node.stage.name,
            key=manifest.key,
            state="have" if step.have else "made",
            reason=step.reason,
            artifact=step.node.stage.produces(store.directory(manifest.stage, manifest.key), manifest.key),
            seconds=manifest.seconds,
            num_bytes=manifest.num_bytes_made,
            num_files=len(manifest.outputs),
            facts=dict(manifest.facts),
            mlflow_run_id=manifest.mlflow_run_id,
            config=dict(manifest.config),
            parents=tuple(dict.fromkeys(parent.name for parent in step.node.parents)),
        )

    @property
    def uri(self) -> str:
        """The artifact's directory."""
        return self.artifact.uri


@dataclass(frozen=True, kw_only=True)
class RunView:
    """One run of a recipe."""

    recipe: str
    title: str
    command: str
    started_at: str
    """Time of the start, ISO 8601."""
    seconds: float
    commit: str | None
    dirty: bool | None
    """True if the tree had uncommitted changes; None if that is not known."""
    store_uri: str
    tracking_uri: str
    mlflow_page: str = ""
    """Page of the run, to be put behind the address at which MLflow's pages are served; empty: not tracked."""
    nodes: tuple[NodeView, ...]
    """Parents before children."""

    @property
    def has_mlflow_server(self) -> bool:
        """True if runs are tracked by a server, and not in a file that `percepts ui` serves."""
        return self.tracking_uri.startswith(("http://", "https://"))

    @property
    def tracking_address(self) -> str:
        """The tracking address without the secrets that it may hold."""
        return public(self.tracking_uri)

    @property
    def mlflow_url(self) -> str:
        """The address of the run's page in MLflow; empty where the run was not tracked."""
        if not self.mlflow_page:
            return ""
        server = self.tracking_address if self.has_mlflow_server else LOCAL_MLFLOW
        return f"{server.rstrip('/')}/{self.mlflow_page}"
