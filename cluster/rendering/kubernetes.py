"""KubeRay's RayCluster, RayJob and RayCronJob, and the batch/v1 CronJob that submits, as YAML.

Pods run as the image's user without privileges. Ray's token comes from a secret: KubeRay hands it to every pod of a
cluster (authOptions), the CronJob's pod reads it itself.
"""

from __future__ import annotations

import json
import shlex
from importlib.metadata import version
from typing import Any, Final

import yaml

from cluster.rendering.commands import growing_nodes, run_command, submit_command
from cluster.rendering.schedule import SCHEDULE_VARIABLE
from cluster.rendering.settings import ClusterSettings, NodeSettings

USER_ID = 1000
"""The image's user: cluster/Dockerfile makes it."""
DASHBOARD_PORT = 8265
GPU_RESOURCE = "nvidia.com/gpu"
STAYS: Final = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}
"""Annotations of the head, with which every run would go: no autoscaler of machines moves it to save one."""
Manifest = dict[str, Any]

PREPARE = """\
# Once, before the first `kubectl apply`:
#   kubectl create namespace {namespace}
#   kubectl -n {namespace} create serviceaccount {service_account}
#   (let its cloud role read and write {store}, or put a bucket's keys into {environment_secret})
#   ray get-auth-token --generate > /dev/null
#   kubectl -n {namespace} create secret generic {token_secret} --from-file=auth_token=$HOME/.ray/auth_token
#   kubectl -n {namespace} create secret generic {environment_secret} --from-env-file=secrets.env   (optional)
"""


def ray_cluster(settings: ClusterSettings) -> str:
    """Returns a RayCluster that stays, scales by itself, and takes submitted jobs."""
    manifest = _manifest("ray.io/v1", "RayCluster", settings, _cluster_spec(settings))
    lines = (
        "A Ray cluster that stays: a head without work, and workers that come and go with the demand.",
        "Needs KubeRay 1.6 or later (secretName). Its head takes jobs at " + dashboard_url(settings) + ".",
    )
    return _yaml(settings, lines, manifest)


def ray_job(settings: ClusterSettings) -> str:
    """Returns a RayJob: a cluster for one run, removed after it."""
    lines = (
        "One run on a cluster of its own, which is removed afterwards. Submit it again to go on with what is missing.",
        "`kubectl create`, and not `apply`: each run gets a name of its own. Needs KubeRay 1.6 or later (secretName).",
    )
    manifest = _manifest("ray.io/v1", "RayJob", settings, _job_spec(settings))
    del manifest["metadata"]["name"]
    manifest["metadata"]["generateName"] = f"{settings.name}-"
    return _yaml(settings, lines, manifest)


def ray_cron_job(settings: ClusterSettings) -> str:
    """Returns a RayCronJob: a RayJob at every time of the schedule."""
    lines = (
        "ALPHA: RayCronJob needs KubeRay 1.6 or later and its feature gate, which is off by default:",
        "the operator's --feature-gates=RayCronJob=true, or {name: RayCronJob, enabled: true} in its chart.",
        "It has no concurrency policy and no deadline: a run that outlasts the interval gets a second one beside it.",
        "Prefer `percepts cluster render cronjob`, which submits to a RayCluster and never overlaps.",
    )
    runtime_env = {"env_vars": {SCHEDULE_VARIABLE: settings.schedule.times.line}}
    spec = {
        "schedule": settings.schedule.cron,
        "timeZone": settings.schedule.time_zone,
        "suspend": False,
        "jobTemplate": {**_job_spec(settings), "runtimeEnvYAML": yaml.safe_dump(runtime_env)},
    }
    return _yaml(settings, lines, _manifest("ray.io/v1", "RayCronJob", settings, spec))


def cron_job(settings: ClusterSettings) -> str:
    """Returns the batch/v1 CronJob that submits the run to the RayCluster and ends with its status."""
    schedule, kubernetes = settings.schedule, settings.kubernetes
    token = {"secretKeyRef": {"name": kubernetes.token_secret, "key": "auth_token"}}
    container = {
        "name": "submit",
        "image": settings.image.cpu,
        "command": submit_command(settings, growing_nodes(settings)),
        "env": [
            {"name": "RAY_AUTH_MODE", "value": "token"},
            {"name": "RAY_AUTH_TOKEN", "valueFrom": token},
            {"name": "RAY_API_SERVER_ADDRESS", "value": dashboard_url(settings)},
            {"name": SCHEDULE_VARIABLE, "value": schedule.times.line},
        ],
        "envFrom": _environment(settings),
        "resources": {"requests": {"cpu": "500m", "memory": "2Gi"}, "limits": {"memory": "2Gi"}},
        "securityContext": _unprivileged(),
    }
    pod = {**_pod(settings), "restartPolicy": "Never", "containers": [container]}
    spec = {
        "schedule": schedule.cron,
        "timeZone": schedule.time_zone,
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": schedule.starting_deadline_s,
        "successfulJobsHistoryLimit": schedule.successes_kept,
        "failedJobsHistoryLimit": schedule.failures_kept,
        "jobTemplate": {
            "spec": {
                # No ttlSecondsAfterFinished: it would remove what the two limits keep, and with it Friday's failure.
                "backoffLimit": kubernetes.backoff_limit,
                "template": {"metadata": {"labels": _labels(settings)}, "spec": pod},
            }
        },
    }
    lines = (
        "Submits the run to the RayCluster (`percepts cluster render raycluster`) at every time of the schedule.",
        "A pod that is lost and started again joins the run that it submitted. Needs Kubernetes 1.27 or later.",
    )
    return _yaml(settings, lines, _manifest("batch/v1", "CronJob", settings, spec))


def dashboard_url(settings: ClusterSettings) -> str:
    """Returns the address, inside Kubernetes, at which the head of the RayCluster takes jobs."""
    return f"http://{settings.name}-head-svc.{settings.kubernetes.namespace}.svc:{DASHBOARD_PORT}"


def _yaml(settings: ClusterSettings, lines: tuple[str, ...], manifest: Manifest) -> str:
    prepare = PREPARE.format(
        namespace=settings.kubernetes.namespace,
        service_account=settings.kubernetes.service_account,
        token_secret=settings.kubernetes.token_secret,
        environment_secret=settings.kubernetes.environment_secret,
        store=settings.run.store,
    )
    comment = "".join(f"# {line}\n" for line in lines)
    text: str = yaml.safe_dump(manifest, sort_keys=False, width=120)
    return comment + prepare + text


def _manifest(api_version: str, kind: str, settings: ClusterSettings, spec: Manifest) -> Manifest:
    metadata = {"name": settings.name, "namespace": settings.kubernetes.namespace, "labels": _labels(settings)}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}


def _labels(settings: ClusterSettings) -> dict[str, str]:
    return {"app.kubernetes.io/name": "percepts", "app.kubernetes.io/instance": settings.name}


def _job_spec(settings: ClusterSettings) -> Manifest:
    kubernetes = settings.kubernetes
    return {
        "entrypoint": shlex.join(run_command(settings, growing_nodes(settings))),
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": kubernetes.ttl_s,
        "backoffLimit": kubernetes.backoff_limit,
        "submitterPodTemplate": _submitter_pod(settings),
        "rayClusterSpec": _cluster_spec(settings),
    }


def _cluster_spec(settings: ClusterSettings) -> Manifest:
    ray = settings.ray
    head_environment = {
        "RAY_health_check_period_ms": ray.health_check_period_ms,
        "RAY_health_check_timeout_ms": ray.health_check_timeout_ms,
        "RAY_health_check_failure_threshold": ray.health_check_failure_threshold,
        "RAY_JOB_START_TIMEOUT_SECONDS": ray.job_start_timeout_s,
    }
    head = _ray_container("ray-head", settings, settings.head, head_environment)
    head["ports"] = [
        {"name": name, "containerPort": port}
        for name, port in {"gcs": 6379, "dashboard": DASHBOARD_PORT, "client": 10001, "metrics": 8080}.items()
    ]
    pod = _ray_pod(settings, settings.head, head)
    pod["metadata"]["annotations"] = dict(STAYS)
    return {
        "rayVersion": version("ray"),
        "authOptions": {"mode": "token", "secretName": settings.kubernetes.token_secret},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "idleTimeoutSeconds": 60 * ray.idle_minutes,
            "securityContext": _unprivileged(),
        },
        "headGroupSpec": {
            # No CPU of the head is lent to workers. `run` is a queue: a job that asks for one waits for its turn.
            "rayStartParams": {"num-cpus": "0", "resources": "'" + json.dumps({"run": 1}) + "'"},
            "template": pod,
        },
        "workerGroupSpecs": [_worker_group(settings, kind, node) for kind, node in settings.workers.items()],
    }


def _submitter_pod(settings: ClusterSettings) -> Manifest:
    """Returns the pod that submits a RayJob: KubeRay's own would not know the secret of the registry."""
    container = {
        "name": "ray-job-submitter",
        "image": settings.image.cpu,
        "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
        "securityContext": _unprivileged(),
    }
    pod = {**_pod(settings), "restartPolicy": "Never", "containers": [container]}
    return {"metadata": {"labels": _labels(settings)}, "spec": pod}


def _worker_group(settings: ClusterSettings, kind: str, node: NodeSettings) -> Manifest:
    return {
        "groupName": kind,
        "replicas": node.min_workers,
        "minReplicas": node.min_workers,
        "maxReplicas": node.max_workers,
        "rayStartParams": {},
        "template": _ray_pod(settings, node, _ray_container("ray-worker", settings, node, {})),
    }


def _ray_container(name: str, settings: ClusterSettings, node: NodeSettings, environment: dict[str, int]) -> Manifest:
    kubernetes = settings.kubernetes
    resources = {
        "cpu": str(node.cpus - kubernetes.reserved_cpus),
        "memory": f"{kubernetes.pod_memory_gib(node)}Gi",
        **({GPU_RESOURCE: str(node.gpus)} if node.gpus else {}),
    }
    return {
        "name": name,
        "image": settings.image.cuda if node.gpus else settings.image.cpu,
        "env": [{"name": key, "value": str(value)} for key, value in environment.items()],
        "envFrom": _environment(settings),
        "resources": {"requests": resources, "limits": dict(resources)},
        "securityContext": _unprivileged(),
        "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
    }


def _ray_pod(settings: ClusterSettings, node: NodeSettings, container: Manifest) -> Manifest:
    selector = {"node.kubernetes.io/instance-type": node.instance_type}
    if node.spot:
        selector |= settings.kubernetes.spot_labels
    pod = {
        **_pod(settings),
        "restartPolicy": "Never",  # the autoscaler replaces pods: one that restarts would join as another node
        "nodeSelector": selector,
        "containers": [container],
        # Ray's logs and spilled objects, and the node's cache of percepts.
        "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": f"{node.disk_gib}Gi"}}],
    }
    if node.gpus:
        pod["tolerations"] = [{"key": GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}]
    return {"metadata": {"labels": _labels(settings)}, "spec": pod}


def _pod(settings: ClusterSettings) -> Manifest:
    secret = settings.image.pull_secret
    return {
        "serviceAccountName": settings.kubernetes.service_account,
        "securityContext": {
            "runAsNonRoot": True,
            **dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), USER_ID),
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **({"imagePullSecrets": [{"name": secret}]} if secret else {}),
    }


def _environment(settings: ClusterSettings) -> list[Manifest]:
    return [{"secretRef": {"name": settings.kubernetes.environment_secret, "optional": True}}]


def _unprivileged() -> Manifest:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
