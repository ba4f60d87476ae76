"""Compares runs of recipes: the settings that differ, and the results side by side.

percepts compare latest~1 latest
percepts compare 1a2b3c4d evaluate-0123456789abcdef --out comparison.html
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

from pipeline.core.addresses.model_uris import store_tracking_uri
from pipeline.core.addresses.servers import check_mlflow
from pipeline.core.errors import ConfigError
from pipeline.core.files import absolute, write_bytes
from pipeline.engine.store import DEFAULT_STORE
from pipeline.options.command_line import parse_options
from pipeline.options.flags import Word

if TYPE_CHECKING:  # MLflow takes seconds to import
    from pipeline.engine.tracking.values import ComparedRun
    from pipeline.reporting.comparison import Comparison

PLAIN_COLUMNS = 150


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Compare runs in the terminal, and as one HTML page."""

    runs: Annotated[tuple[str, ...], Word("RUN")]
    """The runs: MLflow's run ids or their beginnings, keys of artifacts, latest, or latest~1 for the one before."""
    store: str = DEFAULT_STORE
    """Directory of the store whose MLflow has the runs."""
    tracking_uri: str | None = None
    """MLflow tracking server or database; default: MLFLOW_TRACKING_URI, else that of --store."""
    out: str | None = None
    """File or fsspec URL that the HTML page is written to; default: no page is written."""

    def __post_init__(self) -> None:
        if len(self.runs) < 2:
            raise ConfigError(f"{len(self.runs)} run was given; a comparison takes at least 2, such as latest~1 latest")


def comparison_of(tracking_uri: str, runs: Sequence[ComparedRun]) -> Comparison:
    """Compares runs of one MLflow, with the accuracies of each sampling that their stages logged.

    Raises:
        UsageError: MLflow does not answer.
        CorruptArtifact: a file of scores does not hold what its name promises.
    """
    from pipeline.engine.tracking.runs import download_results
    from pipeline.reporting.comparison import compare
    from stages.evaluation.artifacts import SCORES_FILE
    from stages.evaluation.score_table import ScoreTable

    with TemporaryDirectory(prefix="percepts-") as directory:
        paths = [download_results(tracking_uri, run.run_id, SCORES_FILE, f"{directory}/{run.run_id}") for run in runs]
        scores = [tuple(map(ScoreTable.read, of_run)) for of_run in paths]
    return compare([replace(run, scores=tables) for run, tables in zip(runs, scores, strict=True)])


def main(arguments: Sequence[str]) -> int:
    """Runs `percepts compare`. Returns the exit status."""
    options = parse_options(CompareOptions, arguments, prog="percepts compare")
    if options.tracking_uri is not None:
        check_mlflow(options.tracking_uri)
    uri = options.tracking_uri or store_tracking_uri(options.store)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pipeline.engine.tracking.runs import find_results
    from rich.console import Console

    from pipeline.reporting.comparison import comparison_page, comparison_tables

    comparison = comparison_of(uri, find_results(uri, options.runs))
    console = Console(width=None if sys.stdout.isatty() else PLAIN_COLUMNS)
    for table in comparison_tables(comparison):
        console.print(table)
    if options.out is not None:
        write_bytes(absolute(options.out), comparison_page(comparison).encode())
        console.print(absolute(options.out), highlight=False, soft_wrap=True)
    return 0
