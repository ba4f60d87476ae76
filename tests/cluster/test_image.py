"""The image: linted, its steps run in order outside of a container, and the wheel that they install imported.

No container engine is needed. What changes the system (apt-get, useradd, rm) and what downloads (pip with the
dependencies) is recorded and not run; the install of percepts itself is real, from the files that the image is given.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

DOCKERFILE = ROOT / "cluster" / "Dockerfile"
RECORDED = ("apt-get", "useradd", "install", "rm")
RECORD = '#!/bin/sh\nprintf "%s\\n" "$(basename "$0") $*" >> "$RECORD"\n'
PIP = f"""{RECORD}
case " $* " in
*" . "*) exec "{sys.executable}" -m pip install --quiet --no-deps --no-build-isolation --target "$TARGET" . ;;
esac
"""


def instructions() -> Iterator[tuple[str, str]]:
    """(instruction, arguments) of each line of the Dockerfile, continued lines joined, comments left out."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        name, _, arguments = line.partition(" ")
        if name:
            yield name, arguments


def let_through() -> list[str]:
    """Names at the root that .dockerignore lets into the build's context."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert rules[0] == "*"
    return [rule.removeprefix("!") for rule in rules if rule.startswith("!")]


def shell_of(step: str) -> str:
    """The command of a RUN step without its mounts."""
    return re.sub(r"^(--mount=\S+\s+)+", "", step.strip())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every step run for DEVICE=cpu: the directory of the build, the record of what was called, the installed files."""
    root = tmp_path_factory.mktemp("image")
    places = {"build": root / "build", "record": root / "record", "target": root / "site", "bin": root / "bin"}
    for name in ("build", "bin"):
        places[name].mkdir()
    scripts = {"pip": PIP, "python": f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'} | dict.fromkeys(RECORDED, RECORD)
    for name, text in scripts.items():
        (places["bin"] / name).write_text(text)
        (places["bin"] / name).chmod(0o755)
    environment = {
        "PATH": f"{places['bin']}{os.pathsep}{os.environ['PATH']}",
        "RECORD": str(places["record"]),
        "TARGET": str(places["target"]),
        "HOME": str(root),
        "DEVICE": "cpu",
    }
    for name, arguments in instructions():
        if name == "COPY":
            *sources, to = arguments.split()
            for source in sources:
                assert source in let_through(), f".dockerignore keeps {source} out"
                copy(ROOT / source, places["build"] / to / (source if to == "./" else ""))
        elif name == "RUN":
            command = ["bash", "-euc", shell_of(arguments)]
            done = subprocess.run(
                command, cwd=places["build"], env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{shell_of(arguments)}: {done.stderr}"
    return places


def copy(source: Path, to: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, to, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, to)


def test_hadolint_accepts_the_dockerfile() -> None:
    program = shutil.which("hadolint") or str(Path(sys.executable).with_name("hadolint"))
    done = subprocess.run([program, "--no-color", DOCKERFILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_steps_install_the_pinned_dependencies_without_developer_tools(built: dict[str, Path]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = (built["build"] / "dependencies.txt").read_text().split()
    extras = [line for extra in ("aws", "youtube", "zoo") for line in project["optional-dependencies"][extra]]
    assert listed == [*project["dependencies"], *extras]
    developer_tools = set(project["optional-dependencies"]["dev"]) - set(extras)
    assert not developer_tools & set(listed)
    record = built["record"].read_text().splitlines()
    (dependencies,) = (shlex.split(line) for line in record if "dependencies.txt" in line)
    assert dependencies[:4] == ["pip", "install", "--extra-index-url", "https://download.pytorch.org/whl/cpu"]
    assert "--constraint" in dependencies
    assert "apt-get install --yes --no-install-recommends libarchive13 openssh-client rsync wget" in record


def test_what_is_installed_renders_and_runs_without_the_repository(built: dict[str, Path], tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(built["target"]), *sys.path[1:]])}
    command = [sys.executable, "-m"]
    rendered = subprocess.run(
        [*command, "pipeline.commands", "cluster", "render", "slurm"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "#SBATCH" in rendered.stdout, rendered.stderr
    where = (
        "import pipeline, stages, cluster; print(*pipeline.__path__, *stages.__path__, *cluster.__path__, sep='\\n')"
    )
    found = subprocess.run(
        [sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert all(Path(line).parent == built["target"] for line in found.stdout.split())
    helped = subprocess.run(
        [*command, "pipeline.commands", "--help"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "youtube" in helped.stdout, helped.stderr


def test_every_file_of_the_packages_is_in_the_wheel(built: dict[str, Path]) -> None:
    for package in ("pipeline", "stages", "cluster"):
        files = {
            path.relative_to(ROOT) for path in (ROOT / package).rglob("*") if path.suffix in (".py", ".j2", ".toml")
        }
        missing = [str(path) for path in files if not (built["target"] / path).is_file()]
        assert not missing, "package-data of pyproject.toml leaves them out"


@pytest.mark.parametrize(("device", "status"), [("cpu", 0), ("cuda", 0), ("tpu", 2)])
def test_a_device_is_cpu_or_cuda_which_has_the_compiler_that_triton_calls(
    built: dict[str, Path], device: str, status: int, tmp_path: Path
) -> None:
    steps = [shell_of(arguments) for name, arguments in instructions() if name == "RUN" and "DEVICE" in arguments]
    environment = {"PATH": f"{built['bin']}{os.pathsep}{os.environ['PATH']}", "DEVICE": device}
    environment["RECORD"] = str(tmp_path / "record")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    done = subprocess.run(
        ["bash", "-euc", "; ".join(steps)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    if status == 0:
        record = (tmp_path / "record").read_text()
        assert (" gcc libc6-dev" in record) == (device == "cuda")
        assert ("--extra-index-url https://download.pytorch.org/whl/cpu" in record) == (device == "cpu")


def test_the_image_runs_as_a_user_without_rights() -> None:
    last = dict(instructions())
    assert last["USER"] == "1000"
