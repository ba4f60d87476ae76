"""All code that leans on private parts of Ray 2.60: internal modules, names of actors and variables, message texts.

Every assumption has a test of its own in tests/cluster/test_ray_private.py, which says what an upgrade of Ray broke.
Ray is imported inside the functions: importing this module costs nothing.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ray.train.v2._internal.execution.callback import ControllerCallback

JOB_VARIABLE: Final = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Environment variable that Ray's job supervisor sets for the entry point of a job."""
COORDINATOR: Final = "AutoscalingCoordinator"
"""Name and namespace of the detached actor that holds the resource requests of elastic training groups."""

WATCHERS: Final = ("start_api_server", "start_monitor", "start_log_monitor")
"""Methods of a head that start processes which a Ray of one's own does without."""
AUTOSCALER_STATUS: Final = b"__autoscaling_status"
"""Key under which the head's monitor keeps what its autoscaler sees, as JSON."""
FIXED_NODE: Final = re.compile(r"node_[0-9a-f]{56}")
"""The type that a monitor without an autoscaler reports a node as."""
NO_AGENT: Final = "No available agent"
"""Text in the answer of a head that has no agent for jobs yet."""

LOSS_TEXTS: Final = {
    "node has died": "its node is gone",
    "node was terminated": "its node is gone",
    "has been hanging": "it does not answer",
    "actor died": "its process died",
}
"""Text in Ray's message about a lost worker -> cause in a few words. Nodes come first: Ray's message about a process
on a dead node says that the process died, too."""
NODE_ADDRESS: Final = re.compile(r"(?:node_ip='|\bip: )([0-9a-fA-F.:]+)")
"""Address of the node in Ray's messages about lost workers."""

TRAIN_SETTINGS: Final = {
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # Interval of the controller's polls: the default, 2 s, is a long wait after a short training.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",
    # A group that begins after the loss of a node is planned by a list of nodes that is up to 20 s old, and waits for
    # the lost one as long as this (default 60 s, all workers idle) before it is planned anew. It waits for no process.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
}
"""Environment variables of Ray Train."""
LOCAL_TRAIN_SETTINGS: Final = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
"""Variables on a Ray of one's own: no cloud takes this machine back, and each group has a process less."""


def is_ray_job() -> bool:
    """Returns whether this process is the entry point of a Ray job, whose working directory Ray has uploaded."""
    return bool(os.environ.get(JOB_VARIABLE))


def may_grow() -> bool:
    """Returns whether an autoscaler may add nodes to the cluster; True where the head does not say."""
    from ray.experimental.internal_kv import _internal_kv_get

    report = json.loads(_internal_kv_get(AUTOSCALER_STATUS) or b"{}").get("autoscaler_report") or {}
    types = report.get("active_nodes", {})
    return not types or not all(FIXED_NODE.fullmatch(name) for name in types)


@contextmanager
def private_ray() -> Iterator[None]:
    """Makes the Ray that is started meanwhile one for this process alone, on the loopback address and unwatched.

    Ray takes that address by itself on macOS and Windows, and has a variable against it, which is read when Ray is
    imported. A dashboard without pages, a monitor without an autoscaler and a reader of logs that are printed nowhere
    would be three processes that start before the work does.
    """
    from ray._private import ray_constants
    from ray._private.node import Node

    variable = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    set_before, os.environ[variable] = os.environ.get(variable), "0"
    starts = {name: getattr(Node, name) for name in WATCHERS}
    for name in starts:
        setattr(Node, name, lambda self, **_: None)
    try:
        yield
    finally:
        for name, start in starts.items():
            setattr(Node, name, start)
        ray_constants.ENABLE_RAY_CLUSTER = before
        os.environ.pop(variable)
        if set_before is not None:
            os.environ[variable] = set_before


def silence_raylets() -> None:
    """Keeps what Ray prints to stdout about lost processes, in colours, out of the driver's output.

    `log_to_driver=False` does not. Stages log the loss of their workers themselves, and stdout may hold JSON alone.
    """
    from ray._private import worker

    worker._worker_logs_enabled = False


def apply_train_settings() -> None:
    """Sets `TRAIN_SETTINGS` in this process's environment. Variables that the user has set keep their values."""
    for variable, value in TRAIN_SETTINGS.items():
        os.environ.setdefault(variable, value)


def without_datasets(trainer: Any) -> Any:
    """Returns the TorchTrainer, whose groups hold nothing that hands out data sets of `ray.data`.

    Otherwise every group starts a process for them, and every worker imports `ray.data`. Loops read what they need.
    """
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback

    make = trainer._create_default_callbacks

    def make_others() -> list[Any]:
        return [callback for callback in make() if not isinstance(callback, DatasetsCallback)]

    trainer._create_default_callbacks = make_others
    return trainer


def stream_options(num_waiting: int) -> dict[str, Any]:
    """Returns options of a generator task that pauses while `num_waiting` values have not been consumed."""
    return {"num_returns": "streaming", "_generator_backpressure_num_objects": num_waiting}


def is_from_ray(error: BaseException) -> bool:
    """Returns whether Ray itself raised `error`. Ray Train's classes of such errors are private."""
    return type(error).__module__.partition(".")[0] == "ray"


def loss_cause(message: str) -> str | None:
    """Returns the cause of a worker's loss in a few words, or None for a message that matches no known text."""
    return next((cause for text, cause in LOSS_TEXTS.items() if text in message), None)


def node_address(message: str) -> str | None:
    """Returns the address of the node that Ray's message names, or None."""
    match = NODE_ADDRESS.search(message)
    return match[1].rstrip(".") if match else None


def training_run_id() -> str:
    """Returns Ray Train's id of the run that this training worker belongs to; the reservation is filed under it."""
    from ray.train.v2._internal.execution.context import get_train_context

    return get_train_context().train_run_context.run_id


def requester_id(run_id: str) -> str:
    """Returns the name under which a run of Ray Train requests resources of the coordinator."""
    return f"train-{run_id}"


def cancel_reservation(run_id: str) -> None:
    """Cancels the resource request of a training run whose driver was killed.

    The coordinator outlives the driver and keeps the request of an elastic group for three minutes. The same job,
    submitted again, would wait for the resources of its predecessor.
    """
    import ray

    try:
        coordinator = ray.get_actor(COORDINATOR, namespace=COORDINATOR)
    except ValueError:  # no training has run on this cluster
        return
    ray.get(coordinator.cancel_request.remote(requester_id(run_id)))


def backoff_callback(pause_s: float) -> ControllerCallback:
    """Returns a callback that pauses Ray Train's controller after each search for free resources without result.

    The controller of an elastic group searches again at once and keeps a core busy for as long as it waits. Several
    trainings that queue for one machine would take that core from the training that runs.
    """
    from ray.train.v2._internal.execution.callback import ControllerCallback
    from ray.train.v2._internal.execution.controller.state import (
        InitializingState,
        ReschedulingState,
        RestartingState,
        TrainControllerState,
    )

    class Backoff(ControllerCallback):
        def after_controller_state_update(
            self, previous_state: TrainControllerState, current_state: TrainControllerState
        ) -> None:
            is_waiting = isinstance(current_state, (InitializingState, ReschedulingState, RestartingState))
            if is_waiting and current_state is previous_state:
                time.sleep(pause_s)

    return Backoff()
