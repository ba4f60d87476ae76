"""The documents name files, commands and options that exist."""

import re
from pathlib import Path

import pytest

from pipeline.commands.table import COMMANDS
from pipeline.recipes.registry import RECIPES

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
MENTIONED = re.compile(r"`((?:pipeline|stages|cluster|tests|docs)/[\w./]*\.(?:py|md|toml|yaml|png))`")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_files_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    missing = [link for link in links if not (document.parent / link).exists()]
    missing += [path for path in MENTIONED.findall(text) if not (ROOT / path).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_exist(document: Path) -> None:
    lines = [
        line.strip()
        for block in re.findall(r"```sh\n(.*?)```", document.read_text(), re.S)
        for line in block.splitlines()
    ]
    commands = [line.split()[1:3] for line in lines if line.startswith("percepts ")]
    assert not [words for words in commands if words[0] not in COMMANDS]
    recipes = [words[1] for words in commands if words[0] in ("run", "plan")]
    assert not [name for name in recipes if name not in RECIPES]
