"""The wheel: what `pip install .` copies into an environment, where no checkout lies around it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = ("pipeline", "stages", "cluster")
FOR_PEOPLE = {"cluster/Dockerfile", "cluster/watching/alerts.yaml", "cluster/watching/grafana_dashboard.json"}
"""Files that no code reads: they are taken from the repository."""


def files(root: Path) -> set[str]:
    """Returns the files of the packages below a directory, relative to it."""
    paths = (path for package in PACKAGES for path in (root / package).rglob("*"))
    return {str(path.relative_to(root)) for path in paths if path.is_file() and "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds the wheel and unpacks it in a directory that another project's repository ignores, as it does `.venv`."""
    directory = tmp_path_factory.mktemp("installed")
    source = directory / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools.build_meta import build_wheel; build_wheel('..')"
    subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True, check=True)
    (wheel,) = directory.glob("*.whl")
    project = directory / "project"
    site = project / ".venv" / "site-packages"
    shutil.unpack_archive(wheel, site, "zip")
    (project / ".gitignore").write_text(".venv\n")
    for arguments in (
        ["init", "--quiet"],
        ["add", ".gitignore"],
        ["-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "--message", "Another project"],
    ):
        subprocess.run(["git", *arguments], cwd=project, check=True)
    return site


def python(site: Path, *arguments: str) -> str:
    """Runs Python with the installed packages, away from the checkout, and returns what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PERCEPTS_COMMIT"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=site.parent,
        env=environment | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_every_file_that_code_reads(installed: Path) -> None:
    assert files(installed) == files(ROOT) - FOR_PEOPLE
    scripts = next(installed.glob("percepts-*.dist-info")) / "entry_points.txt"
    assert "percepts = pipeline.commands.__main__:entry" in scripts.read_text()


def test_an_installed_percepts_renders_what_a_checkout_renders(installed: Path) -> None:
    rendered = python(installed, "-m", "pipeline.commands", "cluster", "render", "ray-up")
    assert rendered == (ROOT / "ray_cluster.yaml").read_text()


def test_the_commit_of_another_project_around_it_is_not_its_own(installed: Path) -> None:
    code = "import json; from pipeline.engine import provenance as p; print(json.dumps([p.SOURCE_ROOT, *p.commit()]))"
    assert json.loads(python(installed, "-c", code)) == [str(installed), None, None]


def test_another_build_of_torch_is_taken_from_the_index_that_the_image_names(tmp_path: Path) -> None:
    def pip(*arguments: str) -> str:
        command = ["make", "--dry-run", "setup", f"VENV={tmp_path / 'venv'}", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    index = "--extra-index-url https://download.pytorch.org/whl/cpu "
    assert index in pip("TORCH=cpu")
    assert "--extra-index-url" not in pip()
    assert index.split()[1] in (ROOT / "cluster" / "Dockerfile").read_text()
