"""A run that no MLflow records: `--no-tracking`, or a machine without MLflow."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

from pipeline.core.errors import UsageError
from pipeline.engine.plan import Node
from pipeline.engine.store import Manifest
from pipeline.engine.tracking.values import Registration, RunDescription


class NoTracker:
    """A tracker that records nothing; it has the methods of `tracker.Tracker` that a run calls."""

    uri = ""

    def __init__(self) -> None:
        self.parent_id = uuid.uuid4().hex

    page = ""

    def start(self, description: RunDescription) -> str:
        return self.parent_id

    def start_stage(self, node: Node, inputs: Sequence[Manifest], commit: str | None) -> None:
        return None

    def reuse(self, node: Node, manifest: Manifest, inputs: Sequence[Manifest] = ()) -> None:
        return None

    def metrics(self, run_id: str | None, step: int, values: Mapping[str, float]) -> None:
        return None

    def node_usage(self, node: str, values: Mapping[str, float]) -> None:
        return None

    def finish_stage(self, node: Node, manifest: Manifest, run_id: str | None) -> None:
        return None

    def fail_stage(self, run_id: str | None, reason: str) -> None:
        return None

    def end_stage(self, run_id: str | None, status: str) -> None:
        return None

    def log_results(self, seconds: float) -> dict[str, float]:
        return {}

    def describe(self, note: str) -> None:
        return None

    def register(self, registration: Registration) -> str:
        """Raises UsageError: without MLflow there is no registry."""
        raise UsageError(f"--register {registration.target} needs MLflow")

    def report(self, directory_uri: str, name: str) -> None:
        return None

    def end(self, status: str) -> str:
        return ""
