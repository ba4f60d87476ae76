"""Rules of the house that import-linter cannot state, read from the source code of the three packages."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache

from cluster.ray_private import COORDINATOR, JOB_VARIABLE, LOSS_TEXTS
from tests.conftest import ROOT

PACKAGES = ("pipeline", "stages", "cluster")
RAY_PRIVATE = "cluster/ray_private.py"
RAY_TEXTS = (COORDINATOR, JOB_VARIABLE, *LOSS_TEXTS)
RAY_PRIVATE_MODULE = re.compile(r"ray\.(\w+\.)*_\w+")
MOST_FILES = 20
MOST_LINES = 400


@cache
def sources() -> dict[str, ast.Module]:
    """Returns every file of the packages, relative to the root -> its syntax tree."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in paths}


def imports(tree: ast.Module) -> Iterator[str]:
    """Yields the dotted name of every module or member that a file imports, at its top or in a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def texts(tree: ast.Module) -> Iterator[str]:
    """Yields every string of a file, docstrings included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_a_folder_of_source_has_no_more_files_than_one_can_look_over() -> None:
    numbers = Counter(name.rpartition("/")[0] for name in sources())
    assert {"stages", "pipeline/recipes"} <= numbers.keys()
    assert not {folder: number for folder, number in numbers.items() if number > MOST_FILES}


def test_no_file_of_source_or_tests_is_longer_than_its_limit() -> None:
    files = [path for folder in (*PACKAGES, "tests") for path in (ROOT / folder).rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {"stages/extract.py", "tests/test_rooms.py"} <= lengths.keys()
    assert not {name: length for name, length in lengths.items() if length > MOST_LINES}


def test_private_parts_of_ray_are_named_in_one_file() -> None:
    offenders = [
        f"{name}: {wrong}"
        for name, tree in sources().items()
        if name != RAY_PRIVATE
        for wrong in (
            *(module for module in imports(tree) if RAY_PRIVATE_MODULE.match(module)),
            *(text for literal in texts(tree) for text in RAY_TEXTS if text in literal),
            *(literal for literal in texts(tree) if RAY_PRIVATE_MODULE.match(literal)),
        )
    ]
    assert not offenders, f"move it into {RAY_PRIVATE}, with a test of the assumption"
    assert any(RAY_PRIVATE_MODULE.match(module) for module in imports(sources()[RAY_PRIVATE]))


def test_only_recipes_import_stages_own_verbs() -> None:
    verbs = {f"stages.{path.stem}" for path in (ROOT / "stages").glob("*.py")} - {"stages.__init__"}
    assert len(verbs) > 10
    offenders = [
        f"{name} imports {module}"
        for name, tree in sources().items()
        if not name.startswith("pipeline/recipes/")
        for module in imports(tree)
        if any(module == verb or module.startswith(f"{verb}.") for verb in verbs)
    ]
    assert not offenders, "a verb is for recipes alone; what two stages share lies in a room below them"


def test_mlflow_is_imported_by_the_tracker_and_the_addresses_of_models_alone() -> None:
    importers = {
        name for name, tree in sources().items() for module in imports(tree) if module.split(".")[0] == "mlflow"
    }
    elsewhere = {name for name in importers if not name.startswith("pipeline/engine/tracking/")}
    assert elsewhere == {"pipeline/core/addresses/model_uris.py"}
    assert "pipeline/engine/tracking/no_tracking.py" not in importers, "a run without MLflow needs none"
    assert importers - elsewhere
