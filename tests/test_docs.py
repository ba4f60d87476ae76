"""The documents name files, commands and options that exist."""

import re
from pathlib import Path

import pytest

from pipeline.commands.table import COMMANDS
from pipeline.options.flags import list_options
from pipeline.recipes.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
WITHOUT_RECIPE = {"--help", "--help-all", "--config", "--preset", "--write-config"}
MENTIONED = re.compile(r"`((?:pipeline|stages|cluster|tests|docs)/[\w./]*\.(?:py|md|toml|yaml|png))`")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_files_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    missing = [link for link in links if not (document.parent / link).exists()]
    missing += [path for path in MENTIONED.findall(text) if not (ROOT / path).exists()]
    assert not missing


def percepts_lines(document: Path) -> list[list[str]]:
    """The words of every command line that begins with `percepts`."""
    blocks = re.findall(r"```sh\n(.*?)```", document.read_text(), re.DOTALL)
    lines = [line.partition(" #")[0].split() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [words for words in lines if words[:1] == ["percepts"]]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_exist(document: Path) -> None:
    assert not [words for words in percepts_lines(document) if words[1] not in COMMANDS]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_recipes_and_their_options_exist(document: Path) -> None:
    unknown = []
    for words in percepts_lines(document):
        if words[1] not in ("run", "plan") or words[2].isupper() or words[2] == "...":
            continue
        known = {f"--{option.name}" for option in list_options(load_recipe(words[2]).options)} | WITHOUT_RECIPE
        unknown += [f"{words[2]}: {word}" for word in words[3:] if word.startswith("--") and word not in known]
    assert not unknown
