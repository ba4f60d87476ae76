"""The settings of a cluster, from TOML: one place for what `percepts cluster render` writes in many forms.

`defaults.toml` beside this file holds every setting with its default; a file of one's own holds the differences.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.rendering.schedule import Schedule
from cluster.rendering.settings_file import layered, load, read_toml
from pipeline.core.errors import ConfigError

DEFAULTS = Path(__file__).with_name("defaults.toml")
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
"""A label of DNS (RFC 1035), as Kubernetes, EC2 and Slurm all accept it."""
MAX_NAME_CHARS = 40
"""Kubernetes appends suffixes to names and allows 63."""
WORD = re.compile(r"[A-Za-z0-9_.@:/+-]*")
"""A word that shells, YAML and systemd all read as it is."""
IMAGE = re.compile(r"[a-z0-9][a-z0-9._/:@-]*")
ECR = re.compile(r"(\d{12}\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com)/")


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """Container images, built from cluster/Dockerfile."""

    cpu: str
    """Image of nodes without a GPU."""
    cuda: str
    """Image of nodes with GPUs."""
    pull_secret: str = ""
    """Name of the Kubernetes secret with the registry's password; empty: the registry needs none."""

    def __post_init__(self) -> None:
        for name, image in (("cpu", self.cpu), ("cuda", self.cuda)):
            if not IMAGE.fullmatch(image):
                raise ConfigError(f"{name} is {image!r}; it must be an image's name, REGISTRY/percepts:TAG")

    @property
    def ecr_registries(self) -> dict[str, str]:
        """The registries of Amazon ECR that hold the images, each with its region."""
        matches = (ECR.match(image) for image in (self.cpu, self.cuda))
        return {match[1]: match[2] for match in matches if match}


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The run that is submitted and scheduled."""

    recipe: str
    """Recipe, as in `percepts run RECIPE`."""
    options: tuple[str, ...] = ()
    """Further options of the recipe, one word an item."""
    store: str
    """Store, a URL that every node reaches."""
    tracking_uri: str
    """MLflow tracking server; empty: the store's own database, which only a local store can hold."""
    on_failure: str = ""
    """Command that the submitter runs after a run that failed; empty: none."""

    def __post_init__(self) -> None:
        if not self.recipe or self.recipe.startswith("-"):
            raise ConfigError(f"recipe is {self.recipe!r}; it must name a recipe, such as youtube")
        if not all(word.isprintable() for word in (self.recipe, *self.options, self.store, self.tracking_uri)):
            raise ConfigError("the run holds a line break or another control character; leave it out")
        for option in ("--store", "--tracking-uri", "--address"):
            if option in self.options:
                raise ConfigError(f"options holds {option}, which has a setting of its own; leave it out")


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """Times at which the run is submitted."""

    cron: str = "0 1 * * *"
    """Cron expression: minute, hour, day of the month, month, weekday (0 is Sunday)."""
    time_zone: str = "UTC"
    """Time zone of the expression, such as Europe/Berlin."""
    starting_deadline_s: int = 3600
    """Seconds after which Kubernetes counts a start that was missed as failed, and waits for the next."""
    successes_kept: int = 3
    """Finished Kubernetes jobs that stay listed."""
    failures_kept: int = 5
    """Failed Kubernetes jobs that stay listed."""

    def __post_init__(self) -> None:
        _ = self.times
        _check_at_least("starting_deadline_s", self.starting_deadline_s, 10)
        _check_at_least("successes_kept", self.successes_kept, 0)
        _check_at_least("failures_kept", self.failures_kept, 0)

    @property
    def times(self) -> Schedule:
        """The checked expression."""
        return Schedule(cron=self.cron, time_zone=self.time_zone)


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    """One kind of machine."""

    instance_type: str
    """Type of the machine, in the words of the cloud."""
    cpus: int
    """Cores of the machine."""
    memory_gib: int
    """Memory of the machine, GiB."""
    gpus: int = 0
    """GPUs of the machine."""
    disk_gib: int = 100
    """Disk of the machine, GiB: images, Ray's spilled objects and the node's cache of percepts."""
    spot: bool = False
    """The machine is preemptible: cheaper, and lost at any time."""
    min_workers: int = 0
    """Machines of this kind that are always there."""
    max_workers: int = 0
    """Machines of this kind at most."""

    def __post_init__(self) -> None:
        _check_word("instance_type", self.instance_type)
        for name in ("cpus", "memory_gib", "disk_gib"):
            _check_at_least(name, getattr(self, name), 1)
        for name in ("gpus", "min_workers"):
            _check_at_least(name, getattr(self, name), 0)
        if self.max_workers < self.min_workers:
            raise ConfigError(
                f"max_workers is {self.max_workers} and min_workers {self.min_workers}; max_workers must not be less"
            )


@dataclass(frozen=True, kw_only=True)
class RaySettings:
    """Settings of Ray's own processes."""

    health_check_period_ms: int = 2000
    """Pause between two health checks of a node, milliseconds."""
    health_check_timeout_ms: int = 5000
    """Time that a node has to answer, milliseconds."""
    health_check_failure_threshold: int = 4
    """Health checks without answer after which a node is given up."""
    job_start_timeout_s: int = 86400
    """Seconds that a submitted job may wait for its turn."""
    idle_minutes: int = 10
    """Minutes without work after which a worker's machine is returned."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            _check_at_least(name, getattr(self, name), 1)

    @property
    def seconds_to_give_up(self) -> float:
        """The time after which a node without a sign of life is given up, seconds."""
        each_ms = self.health_check_period_ms + self.health_check_timeout_ms
        return self.health_check_failure_threshold * each_ms / 1000


@dataclass(frozen=True, kw_only=True)
class AwsSettings:
    """Settings of `ray up` on EC2."""

    region: str
    """Region of all machines."""
    zones: tuple[str, ...]
    """Availability zones, tried in this order: several, since spot capacity runs out zone by zone."""
    machine_image: str
    """Machine image with Docker and NVIDIA's driver and container toolkit: ami-..., or resolve:ssm:PARAMETER."""
    instance_profile: str
    """Instance profile of every machine; its role is what reaches the store."""
    ssh_user: str = "ubuntu"
    """User of the machine image."""

    def __post_init__(self) -> None:
        for name in ("region", "machine_image", "instance_profile", "ssh_user"):
            _check_word(name, getattr(self, name))
        if not self.zones:
            raise ConfigError("zones is empty; name at least one availability zone of the region")
        for zone in self.zones:
            _check_word("zones", zone)
            if not zone.startswith(self.region):
                raise ConfigError(f"zones holds {zone!r}, which is not in the region {self.region!r}")
        if not self.machine_image.startswith(("ami-", "resolve:ssm:/")):
            raise ConfigError(
                f"machine_image is {self.machine_image!r}; it must be ami-... or resolve:ssm:/PARAMETER: Ray's "
                "default has Python 3.6"
            )


@dataclass(frozen=True, kw_only=True)
class KubernetesSettings:
    """Settings of RayCluster, RayJob, RayCronJob and CronJob."""

    namespace: str
    """Namespace of everything."""
    service_account: str
    """Service account of every pod; its cloud role is what reaches the store."""
    token_secret: str
    """Secret whose key auth_token holds Ray's token."""
    environment_secret: str
    """Secret whose keys become environment variables of every pod (passwords, keys of a bucket); it may be absent."""
    reserved_cpus: int = 1
    """Cores of a machine that pods leave to Kubernetes."""
    reserved_memory_gib: int = 2
    """Memory of a machine that pods leave to Kubernetes, GiB, beside the tenth that firmware and kernel may take."""
    ttl_s: int = 86400
    """Seconds after which a finished RayJob is removed, and its cluster with it."""
    backoff_limit: int = 2
    """Times that a failed job is started again; a run resumes where it was."""
    spot_labels: dict[str, str] = field(default_factory=dict)
    """Labels of preemptible machines, to which kinds with spot = true are bound."""

    def __post_init__(self) -> None:
        for name in ("namespace", "service_account", "token_secret", "environment_secret"):
            check_name(name, getattr(self, name))
        for name in ("reserved_cpus", "reserved_memory_gib", "ttl_s", "backoff_limit"):
            _check_at_least(name, getattr(self, name), 0)

    def pod_memory_gib(self, node: NodeSettings) -> int:
        """Returns the memory request of a pod that has a machine to itself, GiB."""
        return node.memory_gib * 9 // 10 - self.reserved_memory_gib


@dataclass(frozen=True, kw_only=True)
class SlurmSettings:
    """Settings of the sbatch script."""

    partition: str = ""
    """Partition; empty: Slurm's default."""
    nodes: int = 2
    """Nodes that are allocated."""
    cpus_per_node: int = 16
    """Cores of each node."""
    gpus_per_node: int = 1
    """GPUs of each node."""
    time_limit: str = "24:00:00"
    """Time limit, in Slurm's words."""

    def __post_init__(self) -> None:
        _check_word("partition", self.partition)
        _check_at_least("nodes", self.nodes, 1)
        _check_at_least("cpus_per_node", self.cpus_per_node, 1)
        _check_at_least("gpus_per_node", self.gpus_per_node, 0)
        if not re.fullmatch(r"(\d+-)?\d+(:\d{2}){0,2}", self.time_limit):
            raise ConfigError(f"time_limit is {self.time_limit!r}; it must be [DAYS-]HOURS:MINUTES:SECONDS")


@dataclass(frozen=True, kw_only=True)
class MachineSettings:
    """Settings of machines of one's own: where percepts is installed, and which head a timer submits to."""

    directory: str = "/opt/percepts"
    """Directory of the checkout, with its environment in .venv; the same on all machines."""
    user: str = "percepts"
    """User of the systemd service."""
    dashboard: str = "http://127.0.0.1:8265"
    """Address of the head's dashboard, which takes jobs."""
    environment_file: str = "/etc/percepts.env"
    """File of NAME=VALUE lines for the service (passwords, keys); readable for root alone, and it may be absent."""

    def __post_init__(self) -> None:
        for name in ("directory", "user", "dashboard", "environment_file"):
            _check_word(name, getattr(self, name))
        if not self.directory.startswith("/"):
            raise ConfigError(f"directory is {self.directory!r}; it must be an absolute path")
        if not self.dashboard.startswith(("http://", "https://")):
            raise ConfigError(f"dashboard is {self.dashboard!r}; it must be http://HOST:8265")


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """Everything that is known of a cluster."""

    name: str
    """Name of the cluster and of what runs on it."""
    image: ImageSettings
    """Container images of all nodes."""
    run: RunSettings
    """The run that is submitted."""
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    """Times at which it is submitted."""
    head: NodeSettings
    """The machine that coordinates; it takes no work."""
    workers: dict[str, NodeSettings]
    """Kinds of machines that work, by name."""
    ray: RaySettings = field(default_factory=RaySettings)
    """Ray's own processes."""
    aws: AwsSettings
    """`ray up` on EC2."""
    kubernetes: KubernetesSettings
    """Kubernetes with KubeRay."""
    slurm: SlurmSettings = field(default_factory=SlurmSettings)
    """An allocation of Slurm."""
    machine: MachineSettings = field(default_factory=MachineSettings)
    """Machines of one's own."""

    def __post_init__(self) -> None:
        check_name("name", self.name)
        if self.head.spot:
            raise ConfigError("head.spot is true; losing the head ends every run: set it to false")
        if not any(node.max_workers for node in self.workers.values()):
            raise ConfigError("no kind of [workers] has max_workers above 0, and the head takes no work; add one")
        for kind, node in self.workers.items():
            check_name(f"workers.{kind}", kind)
            if node.cpus <= self.kubernetes.reserved_cpus or self.kubernetes.pod_memory_gib(node) < 1:
                raise ConfigError(
                    f"workers.{kind} has {node.cpus} cores and {node.memory_gib} GiB; it must have more than "
                    "kubernetes.reserved_cpus and reserved_memory_gib"
                )


def read_settings(uri: str | None = None, changes: Sequence[tuple[str, str, str]] = ()) -> ClusterSettings:
    """Returns the default settings with those of the TOML file at `uri` and then `changes` put over them.

    Args:
        uri: a path or fsspec URL.
        changes: (table, key, value) triples, such as ("schedule", "cron", "0 1 * * 1").

    Raises:
        SourceError: the file cannot be read.
        ConfigError: a setting is unknown or breaks its rule.
    """
    tables = read_toml(str(DEFAULTS))
    if uri is not None:
        own = read_toml(uri)
        if "workers" in own:  # a file that names its kinds of workers means those alone
            del tables["workers"]
        tables = layered(tables, own)
    for table, key, value in changes:
        tables = layered(tables, {table: {key: value}})
    return load(ClusterSettings, tables)


def check_name(where: str, name: str) -> None:
    """Raises ConfigError where `name` is no label of DNS, which names of pods, secrets and clusters must be."""
    if not NAME.fullmatch(name) or len(name) > MAX_NAME_CHARS:
        raise ConfigError(
            f"{where} is {name!r}; it must be lower-case letters, digits and '-', {MAX_NAME_CHARS} at most"
        )


def _check_word(where: str, word: str) -> None:
    if not WORD.fullmatch(word):
        raise ConfigError(f"{where} is {word!r}; it must be letters, digits and any of _.@:/+- (no space)")


def _check_at_least(where: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{where} is {value}; it must be at least {least}")
