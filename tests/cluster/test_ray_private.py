"""The assumptions of cluster/ray_private.py about Ray's private parts, one a test, against the installed Ray."""

from __future__ import annotations

import inspect
import mmap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import ray_private

# Ray reads its authentication mode when it is first imported: the session comes first, and Ray is imported in tests.
pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def binary_holds(path: str, text: str) -> bool:
    import ray

    with (
        (Path(ray.__file__).parent / path).open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        return data.find(text.encode()) >= 0


def test_a_job_is_known_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

    assert RAY_JOB_CONFIG_JSON_ENV_VAR == ray_private.JOB_VARIABLE, "Ray renamed the variable that marks a job"
    from ray.dashboard.modules.job import job_supervisor

    assert "RAY_JOB_CONFIG_JSON_ENV_VAR" in inspect.getsource(job_supervisor), "Ray's jobs no longer set the variable"
    monkeypatch.delenv(ray_private.JOB_VARIABLE, raising=False)
    assert not ray_private.is_ray_job()
    monkeypatch.setenv(ray_private.JOB_VARIABLE, "{}")
    assert ray_private.is_ray_job()


def test_the_coordinator_is_an_actor_that_cancels_requests() -> None:
    import ray
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
        get_or_create_autoscaling_coordinator,
    )

    get_or_create_autoscaling_coordinator()
    name = ray_private.COORDINATOR
    coordinator = ray.get_actor(name, namespace=name)  # a ValueError here: Ray renamed the actor
    assert hasattr(coordinator, "cancel_request"), "Ray's coordinator has no cancel_request(requester_id) any more"
    ray_private.cancel_reservation("a run that was never registered")


def test_the_coordinator_files_a_training_under_its_run_id(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy, scaling_policy
    from ray.train.v2.api.config import ScalingConfig

    requesters: list[str] = []

    class Client:
        def __init__(self, requester_id: str) -> None:
            requesters.append(requester_id)

        def __getattr__(self, name: str) -> Any:
            return lambda *arguments, **options: None

    monkeypatch.setattr(scaling_policy, "TrainAutoscalingCoordinatorClient", Client)
    FixedScalingPolicy(ScalingConfig(num_workers=1)).after_controller_start(SimpleNamespace(run_id="5e"))  # type: ignore[arg-type]
    assert requesters == [ray_private.requester_id("5e")], "Ray Train requests resources under another name"


def test_a_training_worker_knows_its_run_id() -> None:
    from ray.train.v2._internal.execution.context import TrainContext, TrainRunContext

    assert "train_run_context" in TrainContext.__dataclass_fields__, "Ray Train's context no longer holds the run"
    assert "run_id" in TrainRunContext.__dataclass_fields__, "Ray Train's run has no run_id any more"


def test_the_public_configs_are_those_of_version_2() -> None:
    import ray.train
    from ray.train.v2.api import config

    public = (ray.train.ScalingConfig, ray.train.FailureConfig)
    assert public == (config.ScalingConfig, config.FailureConfig), "ray.train.v2.api.config is no longer ray.train's"


def test_the_controller_calls_our_callback_with_each_state(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.train import RunConfig
    from ray.train.v2._internal.execution import callback
    from ray.train.v2._internal.execution.controller import controller
    from ray.train.v2._internal.execution.controller.state import InitializingState, RunningState

    hook = callback.ControllerCallback.after_controller_state_update
    parameters = list(inspect.signature(hook).parameters)
    assert parameters == ["self", "previous_state", "current_state"], "Ray Train's callback has other parameters"
    assert "after_controller_state_update" in inspect.getsource(controller), "the controller no longer calls it"
    pauses: list[float] = []
    monkeypatch.setattr(ray_private.time, "sleep", pauses.append)
    backoff, first, second, running = (
        ray_private.backoff_callback(0.5),
        InitializingState(),
        InitializingState(),
        RunningState(),
    )
    assert RunConfig(callbacks=[backoff]).callbacks == [backoff], "RunConfig refuses a ControllerCallback"  # type: ignore[list-item]
    backoff.after_controller_state_update(first, second)
    backoff.after_controller_state_update(second, running)
    backoff.after_controller_state_update(running, running)
    assert pauses == []
    backoff.after_controller_state_update(first, first)
    assert pauses == [0.5], "the controller pauses where a search for resources had no result"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Data is surprised by its own defaults
def test_a_trainer_without_datasets_lacks_their_callback_alone() -> None:
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.execution.worker_group.worker import RayTrainWorker

    trainer = TorchTrainer(print)
    before = [type(callback) for callback in trainer._create_default_callbacks()]
    after = [type(callback) for callback in ray_private.without_datasets(trainer)._create_default_callbacks()]
    assert after == [kind for kind in before if kind is not DatasetsCallback]
    assert len(after) == len(before) - 1, "Ray Train begins the process for data sets elsewhere"
    parameters = inspect.signature(RayTrainWorker.init_train_context).parameters
    assert parameters["dataset_shard_provider"].default is None, "a worker needs what hands out data sets"


def test_the_settings_are_variables_that_ray_train_reads() -> None:
    from ray.train import constants
    from ray.train.v2._internal import constants as constants_v2

    known = {value for module in (constants, constants_v2) for value in vars(module).values() if isinstance(value, str)}
    unknown = {*ray_private.TRAIN_SETTINGS, *ray_private.LOCAL_TRAIN_SETTINGS} - known
    assert not unknown, f"Ray Train has no such settings any more: {unknown}"
    polled = {name for name in ray_private.TRAIN_SETTINGS if "HEALTH_CHECK" in name or "START_TIMEOUT" in name}
    assert polled <= set(constants_v2.ENV_VARS_TO_PROPAGATE), "the controller no longer inherits the health settings"


def test_a_generator_task_takes_the_stream_options() -> None:
    import ray

    def values() -> Iterator[int]:
        yield 1

    # An unknown option, or one without a lower bound, means that Ray changed its backpressure.
    ray.remote(**ray_private.stream_options(2))(values)
    with pytest.raises(ValueError, match="_generator_backpressure_num_objects"):
        ray.remote(**ray_private.stream_options(0))(values)


def test_errors_about_lost_workers_come_from_rays_own_modules() -> None:
    from ray.exceptions import RayActorError
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError

    for kind in (RayActorError, WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError):
        assert kind.__module__.startswith("ray."), f"{kind} lies outside the package ray"
    assert ray_private.is_from_ray(RayActorError(error_msg="killed"))
    assert not ray_private.is_from_ray(RuntimeError("killed"))


def test_the_texts_of_losses_are_rays() -> None:
    from ray.core.generated.common_pb2 import ActorDiedErrorContext
    from ray.exceptions import ActorDiedError
    from ray.train.v2._internal.execution.worker_group import worker, worker_group

    context = ActorDiedErrorContext(
        actor_id=bytes(16), node_ip_address="10.99.0.2", pid=7, error_message="The worker exited."
    )
    message = " ".join(str(ActorDiedError(context)).split())
    assert ray_private.loss_cause(message) == "its process died", f"Ray's message of a dead actor is: {message}"
    assert ray_private.node_address(message) == "10.99.0.2", f"Ray writes the node's address otherwise: {message}"
    assert "has been hanging" in inspect.getsource(worker_group), "Ray Train words a hanging worker otherwise"
    assert "node_ip=" in inspect.getsource(worker), "Ray Train's description of a worker has no node_ip"
    for text in ("node has died", "node was terminated"):
        assert binary_holds("core/src/ray/gcs/gcs_server", text), f"Ray's head no longer says {text!r} of a lost node"
    covered = {"node has died", "node was terminated", "has been hanging", "actor died"}
    assert set(ray_private.LOSS_TEXTS) == covered, "a text without a test"


def test_the_head_reads_the_health_check_settings_of_the_manifests() -> None:
    for name in ("period_ms", "timeout_ms", "failure_threshold"):
        variable = f"RAY_health_check_{name}"
        assert binary_holds("core/src/ray/gcs/gcs_server", variable), f"Ray's head no longer reads {variable}"


def test_a_head_without_an_agent_for_jobs_says_so() -> None:
    import ray

    source = Path(ray.__file__).parent / "dashboard" / "modules" / "job" / "job_head.py"
    assert ray_private.NO_AGENT in source.read_text(), "Ray words a head that has no agent for jobs yet otherwise"


def test_the_module_names_the_version_that_it_was_checked_against() -> None:
    import ray

    series = ".".join(ray.__version__.split(".")[:2])
    assert f"Ray {series}" in (ray_private.__doc__ or ""), "name the new version in cluster/ray_private.py"


def test_messages_of_raylets_are_printed_where_a_variable_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    from ray._private import worker

    message = {"lines": ["A worker died or was killed"], "pid": "raylet", "ip": "10.0.0.1", "is_err": False}
    printed = []
    for is_enabled in (True, False):
        monkeypatch.setattr(worker, "_worker_logs_enabled", is_enabled)
        worker.print_worker_logs(message, sys.stdout)
        printed.append("A worker died" in capsys.readouterr().out)
    assert printed == [True, False], "Ray prints what its raylets say by another switch"
    monkeypatch.setattr(worker, "_worker_logs_enabled", True)
    ray_private.silence_raylets()
    assert worker._worker_logs_enabled is False


def test_nothing_watches_a_private_ray() -> None:
    """The processes that its head has started are those without which no task runs."""
    from ray._private.worker import _global_node

    assert _global_node is not None
    assert set(_global_node.all_processes) == {"gcs_server", "raylet"}
