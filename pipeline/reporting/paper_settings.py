"""The settings of a run that are not the paper's, to stand beside every column of its figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.reporting.claims import listed_words
from pipeline.reporting.paper_numbers import PAPER_CONVNET, PAPER_SETTINGS
from pipeline.reporting.results import Results
from stages.models.artifacts import Encoder


def other_than_the_papers(results: Results) -> str:
    """Returns a sentence that names each setting which differs from the paper's, with both values; empty if none does.

    Of several models, one that has the paper's value and one that has not count as a difference.
    """
    differences: dict[str, list[str]] = {}
    for node in results.view.nodes:
        if isinstance(node.artifact, Encoder):
            decided = {name: bool(node.facts[name]) for name in ("residual", "autoregressive") if name in node.facts}
            _compare(_flat(node.config) | decided, PAPER_SETTINGS, differences)
    for node in results.extractions:
        convnet = node.config.get("convnet")
        if isinstance(convnet, dict):
            _compare({f"percepts' {name}": value for name, value in convnet.items()}, _of_percepts(), differences)
    named = [f"{name} {listed_words(values, 'and')}" for name, values in differences.items()]
    return f"Not the paper's settings: {'; '.join(named)}." if named else ""


def _of_percepts() -> dict[str, Any]:
    return {f"percepts' {name}": value for name, value in PAPER_CONVNET.items()}


def _compare(settings: Mapping[str, Any], papers: Mapping[str, Any], differences: dict[str, list[str]]) -> None:
    for name, value in papers.items():
        if name in settings and settings[name] != value:
            said = differences.setdefault(name.replace("_", " ").replace(".", "'s "), [])
            text = f"{settings[name]} (there {value})"
            if text not in said:
                said.append(text)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns settings by their names, those of model and training without a prefix, as older manifests have them."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, "" if name in ("model", "training") else f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
