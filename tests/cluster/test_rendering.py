"""Every rendered file passes the check of the program that reads it: Ray, KubeRay, Kubernetes, systemd, bash, Slurm."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from cluster.rendering.commands import allocated_nodes, growing_nodes, run_command, submit_command, systemd_line
from cluster.rendering.render import RENDERERS, SCHEDULED
from cluster.rendering.schedule import Schedule
from cluster.rendering.settings import ClusterSettings, read_settings
from pipeline.commands.cluster import NUM_TIMES, main
from pipeline.core.errors import UsageError
from tests.conftest import ROOT

TESTED_KUBERNETES = "1.30"
"""A version in use: every field of the CronJob is stable since 1.27."""
SCHEMAS = {"raycluster": "rayclusters.json", "rayjob": "rayjobs.json", "raycronjob": "raycronjobs.json"}


@pytest.fixture(scope="module")
def settings() -> ClusterSettings:
    """The defaults, with a schedule, an option that needs quotes, and a setting of every optional kind."""
    changes = [("schedule", "cron", "30 2 * * 1-5"), ("schedule", "time_zone", "Europe/Berlin")]
    changes += [("run", "on_failure", 'mail -s "100% failed" $USER'), ("image", "pull_secret", "registry")]
    return read_settings(None, changes)


def only_text(kind: str, settings: ClusterSettings) -> str:
    (text,) = RENDERERS[kind](settings).values()
    return text


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, in which fields that it does not name are errors, as for `kubectl apply --validate=strict`."""
    made = {key: closed(value) if isinstance(value, dict) else value for key, value in schema.items()}
    if "properties" in schema:
        made["properties"] = {name: closed(value) for name, value in schema["properties"].items()}
        if schema["properties"].keys() - {"apiVersion", "kind", "metadata"} and "additionalProperties" not in schema:
            made["additionalProperties"] = False
    return made


def test_the_cluster_file_at_the_top_is_the_default_rendering() -> None:
    assert (ROOT / "ray_cluster.yaml").read_text() == only_text("ray-up", read_settings())


def test_ray_accepts_the_cluster_file(settings: ClusterSettings) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(only_text("ray-up", settings))
    validate_config(prepare_config(config))


def test_ray_starts_the_workers_of_the_ray_cluster(settings: ClusterSettings) -> None:
    # Ray's own reader of a RayCluster: what its autoscaler would know of the groups.
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    config = _derive_autoscaling_config_from_ray_cr(yaml.safe_load(only_text("raycluster", settings)))
    kinds = config["available_node_types"]
    assert kinds["headgroup"]["resources"].items() >= {"CPU": 0, "run": 1}.items()
    for kind, node in settings.workers.items():
        assert kinds[kind]["max_workers"] == node.max_workers
        assert kinds[kind]["resources"].get("GPU", 0) == node.gpus
        assert kinds[kind]["resources"]["CPU"] == node.cpus - settings.kubernetes.reserved_cpus


@pytest.mark.parametrize("kind", SCHEMAS)
def test_kuberay_accepts(kind: str, settings: ClusterSettings, shared_data: Path) -> None:
    file = shared_data / "kubernetes" / SCHEMAS[kind]
    if not file.is_file():
        pytest.skip(f"needs KubeRay's schema {file}")
    published = json.loads(file.read_text())
    manifest = yaml.safe_load(only_text(kind, settings))
    assert manifest["kind"] == published["kind"]
    assert manifest["apiVersion"] == f"{published['group']}/v1"
    validator = jsonschema.Draft202012Validator(closed(published["versions"]["v1"]))
    validator.validate(manifest)
    manifest["spec"]["shutdownAfterJobFinish"] = True
    assert not validator.is_valid(manifest), "a field that does not exist would have passed"


def test_kubernetes_accepts_the_cron_job_and_the_pods(settings: ClusterSettings) -> None:
    cron_job = yaml.safe_load(only_text("cronjob", settings))
    kubernetes_validate.validate(cron_job, TESTED_KUBERNETES, strict=True)
    spec = yaml.safe_load(only_text("raycluster", settings))["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", **group["template"]}
        kubernetes_validate.validate(pod, TESTED_KUBERNETES, strict=True)


def test_the_cron_job_never_overlaps_and_carries_the_token_as_a_secret(settings: ClusterSettings) -> None:
    spec = yaml.safe_load(only_text("cronjob", settings))["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert (spec["schedule"], spec["timeZone"]) == ("30 2 * * 1-5", "Europe/Berlin")
    assert (spec["successfulJobsHistoryLimit"], spec["failedJobsHistoryLimit"]) == (3, 5)
    assert "ttlSecondsAfterFinished" not in spec["jobTemplate"]["spec"], "it would undo the limits after a day"
    (container,) = spec["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == submit_command(settings, growing_nodes(settings))
    token = next(variable for variable in container["env"] if variable["name"] == "RAY_AUTH_TOKEN")
    assert "value" not in token
    assert token["valueFrom"]["secretKeyRef"]["name"] == settings.kubernetes.token_secret


@pytest.mark.parametrize("kind", sorted(SCHEDULED))
def test_runs_of_a_schedule_are_told_which_one(kind: str, settings: ClusterSettings) -> None:
    text = "".join(RENDERERS[kind](settings).values())
    (found,) = re.findall(r"PERCEPTS_SCHEDULE(?:=|: |\n *value: )'?(.*Europe/Berlin)", text)
    assert Schedule.of_line(found) == settings.schedule.times


def test_the_alpha_kind_says_that_it_is_alpha(settings: ClusterSettings) -> None:
    text = only_text("raycronjob", settings)
    assert "ALPHA" in text
    assert "--feature-gates=RayCronJob=true" in text


def test_gpu_nodes_are_tolerated_and_the_head_takes_no_work(settings: ClusterSettings) -> None:
    spec = yaml.safe_load(only_text("rayjob", settings))["spec"]["rayClusterSpec"]
    assert spec["authOptions"] == {"mode": "token", "secretName": settings.kubernetes.token_secret}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = {group["groupName"]: group["template"]["spec"] for group in spec["workerGroupSpecs"]}
    assert {kind for kind, pod in groups.items() if "tolerations" in pod} == {"gpu", "gpu8"}
    assert groups["gpu8"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"


def test_pods_fit_on_the_machines_that_they_ask_for(settings: ClusterSettings) -> None:
    spec = yaml.safe_load(only_text("raycluster", settings))["spec"]
    nodes = {"headgroup": settings.head, **settings.workers}
    groups = [{"groupName": "headgroup", **spec["headGroupSpec"]}, *spec["workerGroupSpecs"]]
    for node, group in ((nodes[group["groupName"]], group) for group in groups):
        asked = group["template"]["spec"]["containers"][0]["resources"]["requests"]["memory"]
        # Karpenter takes 7.5% for firmware and kernel, EKS 255 MiB and 11 MiB for each of at most 737 pods, and both
        # 0.1 GiB for eviction.
        num_pods = 737 if node.cpus > 64 else 234
        free_gib = node.memory_gib * 0.925 - (255 + 11 * num_pods) / 1024 - 0.1
        assert int(asked.removesuffix("Gi")) <= free_gib, group["groupName"]


def test_only_machines_move_the_workers_and_nothing_the_head(settings: ClusterSettings) -> None:
    spec = yaml.safe_load(only_text("raycluster", settings))["spec"]
    assert spec["headGroupSpec"]["template"]["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "true"
    assert all("annotations" not in group["template"]["metadata"] for group in spec["workerGroupSpecs"])


def test_whatever_pulls_the_image_knows_the_secret_of_the_registry(settings: ClusterSettings) -> None:
    job = yaml.safe_load(only_text("rayjob", settings))["spec"]
    cluster = job["rayClusterSpec"]
    pods = [job["submitterPodTemplate"], cluster["headGroupSpec"]["template"]]
    pods += [group["template"] for group in cluster["workerGroupSpecs"]]
    for pod in pods:
        kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", **pod}, TESTED_KUBERNETES, strict=True)
        assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def test_containers_of_gpu_machines_are_shown_their_gpus(settings: ClusterSettings) -> None:
    config = yaml.safe_load(only_text("ray-up", settings))
    for kind, node in settings.workers.items():
        docker = config["available_node_types"][kind].get("docker", {})
        assert ("--gpus=all" in docker.get("worker_run_options", [])) == (node.gpus > 0), kind


def test_docker_has_the_password_of_an_ecr_before_it_pulls() -> None:
    registry = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
    changes = [("image", kind, f"{registry}/percepts:0.1.0-{kind}") for kind in ("cpu", "cuda")]
    config = yaml.safe_load(only_text("ray-up", read_settings(None, changes)))
    assert config["initialization_commands"] == [
        f"aws ecr get-login-password --region eu-central-1 | docker login --username AWS --password-stdin {registry}"
    ]
    assert "initialization_commands" not in yaml.safe_load(only_text("ray-up", read_settings()))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    program = tmp_path / "percepts/.venv/bin/percepts"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    changes = [("machine", "directory", str(tmp_path / "percepts")), ("machine", "user", "root")]
    changes += [("run", "on_failure", 'mail -s "100% failed" $USER')]
    for name, text in RENDERERS["systemd"](read_settings(None, changes)).items():
        (tmp_path / name).write_text(text)
    units = [str(tmp_path / "percepts.service"), str(tmp_path / "percepts.timer")]
    # Units of this machine that ours wait for may be broken: only what is said of ours counts.
    answer = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert [line for line in answer.stderr.splitlines() if "percepts" in line] == []
    (tmp_path / "percepts.service").write_text("[Service]\nTypo=oneshot\nExecStart=/none/percepts\n")
    answer = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert answer.returncode != 0, "a wrong unit would have passed"


def test_systemd_reads_each_word_as_it_was(settings: ClusterSettings) -> None:
    line = systemd_line(["percepts", "a b", "100%", "$HOME", 'say "no"', ""])
    assert line == 'percepts "a b" "100%%" "$$HOME" "say \\"no\\"" ""'


@pytest.mark.parametrize("kind", ["slurm", "local"])
def test_bash_and_shellcheck_accept(kind: str, settings: ClusterSettings, tmp_path: Path) -> None:
    script = tmp_path / "script.sh"
    script.write_text(only_text(kind, settings))
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", script], check=True)


def test_the_recipe_of_the_default_settings_exists_with_these_options() -> None:
    from pipeline.commands.running.recipe_options import parse
    from pipeline.recipes.recipe import load_recipe

    recipe, *flags = run_command(read_settings(), growing_nodes(read_settings()))[3:]
    options = parse(load_recipe(recipe), flags)
    assert options.store == read_settings().run.store


@pytest.mark.parametrize("kind", sorted(RENDERERS))
def test_the_command_renders_every_kind(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    schedule = ["--schedule", "0 1 * * 1", "--time-zone", "Europe/Berlin"] if kind in SCHEDULED else []
    assert main(["render", kind, *schedule]) == 0
    captured = capsys.readouterr()
    assert "youtube" in captured.out or kind == "raycluster"
    assert captured.err.count(" 01:00 CE") == (NUM_TIMES if schedule else 0)


def test_files_are_written_into_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", "systemd", "--directory", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"percepts.service", "percepts.timer"}
    assert capsys.readouterr().out == ""
    with pytest.raises(UsageError, match="existing --directory"):
        main(["render", "systemd", "--directory", str(tmp_path / "none")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["render", "cronjo"], "did you mean 'cronjob'"),
        (["rendr", "cronjob"], "did you mean 'render'"),
        (["render", "raycluster", "--schedule", "0 1 * * 1"], "have no effect"),
        (["render", "cronjob", "--schedule", "0 1 * *"], "five fields"),
        (["render", "cronjob", "--settings", "/none.toml"], "cannot be read"),
        (["settings", "all"], "takes no arguments"),
    ],
)
def test_what_cannot_be_rendered_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        main(arguments)


def test_printed_settings_render_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings"]) == 0
    path = tmp_path / "cluster.toml"
    path.write_text(capsys.readouterr().out)
    assert read_settings(str(path)) == read_settings()


RECORD = """#!/usr/bin/env bash
printf '%s\\n' "$(basename "$0") $*" >> "$RECORD"
printf '%s\\n' "$RAY_AUTH_MODE ${#RAY_AUTH_TOKEN}" >> "$RECORD.token"
"""
STUBS = {
    # A step of Slurm: its own options away, the rest is run, as on the node.
    "srun": RECORD + 'while [[ $1 == --* ]]; do shift; done\nexec "$@"\n',
    "scontrol": RECORD + "echo node7; echo node8; echo node9\n",
    # As on a Debian whose /etc/hosts has a line of its own name.
    "hostname": '#!/bin/sh\n[ "$1" = --ip-address ] && echo 127.0.1.1 || echo 10.0.0.7 fe80::1\n',
    # `--block` stays until it is stopped; the head answers at the second question.
    "ray": RECORD
    + 'case "$1" in start) exec sleep 60;; esac\n[ -e "$RECORD.up" ] || { touch "$RECORD.up"; exit 1; }\n',
    # The run goes on until every node has joined.
    "python": """#!/bin/sh
[ "$1" = -c ] && exec REAL "$@"
until [ "$(grep -c '^ray start' "$RECORD")" = 2 ]; do sleep 0.1; done
printf '%s\\n' "python $*" >> "$RECORD"
exit "$RUN_STATUS"
""",
    "sleep": '#!/bin/sh\nexec /bin/sleep "$(echo "$1" | sed s/^2$/0.1/)"\n',
}


@pytest.mark.parametrize("status", [0, 3])
def test_the_sbatch_script_starts_ray_on_every_node_and_ends_with_the_runs_status(tmp_path: Path, status: int) -> None:
    bin_directory = tmp_path / "checkout/.venv/bin"
    bin_directory.mkdir(parents=True)
    for name, text in STUBS.items():
        (bin_directory / name).write_text(text.replace("REAL", shutil.which("python3") or "python3"))
        (bin_directory / name).chmod(0o755)
    settings = read_settings(None, [("machine", "directory", str(tmp_path / "checkout"))])
    script = tmp_path / "percepts.sbatch"
    script.write_text(only_text("slurm", settings))
    environment = {
        "PATH": os.environ["PATH"],
        "RECORD": str(tmp_path / "record"),
        "RUN_STATUS": str(status),
        "SLURM_JOB_NODELIST": "node[7-9]",
        "SLURM_JOB_NUM_NODES": "3",
        "SLURM_JOB_ID": "42",
    }
    answer = subprocess.run(["bash", script], env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert answer.returncode == status, answer.stderr
    record = (tmp_path / "record").read_text().splitlines()
    steps = [shlex.split(line.removeprefix("srun ")) for line in record if line.startswith("srun ")]
    started = [step[step.index("ray") :] for step in steps if "ray" in step]
    assert started[0][:5] == ["ray", "start", "--head", "--node-ip-address=10.0.0.7", "--port=6379"]
    assert started[1][:3] == ["ray", "start", "--address=10.0.0.7:6379"]
    assert all({"--num-cpus=16", "--num-gpus=1", "--block"} <= set(step) for step in started)
    head, others = (step for step in steps if "ray" in step)
    assert {"--nodelist=node7", "--nodes=1", "--cpus-per-task=16", "--gpus-per-node=1"} <= set(head)
    assert {"--exclude=node7", "--nodes=2", "--ntasks=2", "--cpus-per-task=16", "--gpus-per-node=1"} <= set(others)
    assert record.count("ray health-check --address 10.0.0.7:6379") == 2
    assert record[-1] == " ".join([*run_command(settings, allocated_nodes(settings)), "--address", "10.0.0.7:6379"])
    assert set((tmp_path / "record.token").read_text().splitlines()) == {"token 64"}
