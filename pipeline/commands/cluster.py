"""Files that start a cluster or a schedule, from one file of settings.

    percepts cluster settings > cluster.toml                 every setting with its default
    percepts cluster render ray-up > ray_cluster.yaml        one kind of file, from the settings
    percepts cluster render cronjob --settings cluster.toml --schedule '0 1 * * 1' --time-zone Europe/Berlin

Kinds: ray-up (EC2), raycluster, rayjob, cronjob, raycronjob (Kubernetes), slurm, systemd, local.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cluster.rendering.render import RENDERERS, SCHEDULED, Files
from cluster.rendering.settings import DEFAULTS, read_settings
from pipeline.core.error_words import did_you_mean
from pipeline.core.errors import UsageError
from pipeline.options.command_line import parse_options
from pipeline.options.flags import Word

PROG = "percepts cluster"
NUM_TIMES = 5
"""Number of coming times that a rendered schedule is shown with."""


@dataclass(frozen=True, kw_only=True)
class RenderOptions:
    """Write a file that starts a cluster or a schedule, from the settings of a cluster."""

    kind: Annotated[str, Word("KIND")]
    """Kind of file: ray-up, raycluster, rayjob, cronjob, raycronjob, slurm, systemd or local."""
    settings: str | None = None
    """TOML file or URL with the settings that differ from `percepts cluster settings`."""
    schedule: str | None = None
    """Cron expression (minute hour day month weekday, 0 is Sunday) that replaces the one of the settings."""
    time_zone: str | None = None
    """Time zone of the schedule, such as Europe/Berlin; it replaces the one of the settings."""
    directory: str | None = None
    """Existing directory into which the files are written instead of printed."""


def main(arguments: Sequence[str]) -> int:
    """Runs the subcommand and returns the exit status. Raises UsageError for what cannot be rendered."""
    given = list(arguments)
    subcommands = {"render": _render, "settings": _settings}
    if not given or given[0] in ("-h", "--help"):
        sys.stdout.write((__doc__ or "") + "\nOptions: percepts cluster render --help\n")
        return 0 if given else 2
    if given[0] not in subcommands:
        hint = did_you_mean(given[0], subcommands)
        raise UsageError(f"there is no `{PROG} {given[0]}`; {hint}give render or settings")
    return subcommands[given[0]](given[1:])


def _settings(arguments: list[str]) -> int:
    if arguments:
        raise UsageError(f"`{PROG} settings` takes no arguments, and was given {' '.join(arguments)!r}")
    sys.stdout.write(DEFAULTS.read_text())
    return 0


def _render(arguments: list[str]) -> int:
    options = parse_options(RenderOptions, arguments, prog=f"{PROG} render")
    if options.kind not in RENDERERS:
        hint = f"{did_you_mean(options.kind, RENDERERS)}the kinds are {', '.join(RENDERERS)}"
        raise UsageError(f"{options.kind!r} is no kind of file; {hint}")
    flags = {"cron": options.schedule, "time_zone": options.time_zone}
    changes = [("schedule", name, value) for name, value in flags.items() if value is not None]
    if changes and options.kind not in SCHEDULED:
        raise UsageError(
            f"{options.kind} starts nothing at a time, so that --schedule and --time-zone have no effect; "
            f"leave them out, or render one of {', '.join(sorted(SCHEDULED))}"
        )
    settings = read_settings(options.settings, changes)
    files = RENDERERS[options.kind](settings)
    if options.directory is None:
        sys.stdout.write(_joined(files))
    else:
        _write(files, Path(options.directory))
    if options.kind in SCHEDULED:
        schedule = settings.schedule.times
        times = ", ".join(f"{time:%a %Y-%m-%d %H:%M %Z}" for time in schedule.next_times(NUM_TIMES))
        sys.stderr.write(f"next times of {schedule.cron!r} in {schedule.time_zone}: {times}\n")
    return 0


def _joined(files: Files) -> str:
    if len(files) == 1:
        return next(iter(files.values()))
    return "\n".join(f"# ==> {name} <==\n{text}" for name, text in files.items())


def _write(files: Files, directory: Path) -> None:
    for name, text in files.items():
        path = directory / name
        try:
            path.write_text(text)
        except OSError as error:
            raise UsageError(
                f"{str(path)!r} cannot be written: {error.strerror}; give an existing --directory"
            ) from error
        sys.stderr.write(f"wrote {path}\n")
