"""Ray's job API: one job a run, found again by its plan, followed through lost connections."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies

from cluster.ray_private import NO_AGENT
from pipeline.core.addresses.servers import why_no_connection
from pipeline.core.error_words import one_line
from pipeline.core.errors import RunError, UsageError
from pipeline.core.printable import printable_lines
from pipeline.core.secrets import masked

if TYPE_CHECKING:  # Ray takes a second to import
    from ray.job_submission import JobSubmissionClient

ADDRESS_VARIABLE: Final = "RAY_API_SERVER_ADDRESS"
DEFAULT_DASHBOARD: Final = "http://127.0.0.1:8265"
NO_HEAD: Final = (
    "no head takes jobs at {address} ({reason}); give --dashboard http://HOST:8265, reach it by `ray dashboard` or "
    "`ssh -L 8265:127.0.0.1:8265 HOST`"
)
PLAN, NAME, STORE = "percepts_plan", "percepts_name", "percepts_store"
"""Keys of a job's metadata."""
AGENT_TIMEOUT_S: Final = 90.0
"""Seconds for which a head that has just started may be without an agent that takes jobs."""
LOST_TIMEOUT_S: Final = 900.0
"""Seconds for which a head may be out of reach while its job is waited for."""
POLL_S: Final = 2.0

SUCCEEDED, FAILED, STOPPED = "SUCCEEDED", "FAILED", "STOPPED"
ENDED: Final = frozenset({SUCCEEDED, FAILED, STOPPED})


@dataclass(frozen=True, kw_only=True)
class SubmittedJob:
    """A job as its head knows it."""

    id: str
    """The submission id."""
    status: str
    """One of PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED."""
    metadata: dict[str, str] = field(default_factory=dict)
    """The plan, name and store that it was submitted with."""
    message: str = ""
    """The cause of a failure, in Ray's words."""

    @property
    def has_ended(self) -> bool:
        """Returns whether nothing more will happen."""
        return self.status in ENDED


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A run to be submitted."""

    id: str
    """The submission id."""
    entrypoint: str
    """The shell line that is the run."""
    working_dir: str
    """The directory to send; empty: none."""
    environment: dict[str, str]
    """Environment variables of the run. No secrets: the job API shows them."""
    metadata: dict[str, str]
    """The plan, name and store, by which the job is found again."""
    resources: dict[str, float] = field(default_factory=dict)
    """Resources that the driver waits for."""


@dataclass(frozen=True)
class JobServer:
    """The head of a cluster, which takes jobs at the address of its dashboard."""

    client: JobSubmissionClient
    address: str

    @classmethod
    def connect(cls, address: str | None) -> JobServer:
        """Connects to `address`, else `RAY_API_SERVER_ADDRESS`, `RAY_ADDRESS` (http), or this machine's dashboard.

        Token authentication is on unless `RAY_AUTH_MODE` says otherwise.

        Raises:
            UsageError: it is no address of a web page, nothing answers there, or it refuses the token.
        """
        address = address or os.environ.get(ADDRESS_VARIABLE) or _web_address(os.environ.get("RAY_ADDRESS"))
        _check_web(address)
        _check_listens(address)
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        logging.getLogger(JobSubmissionClient.__module__).setLevel(logging.WARNING)  # it tells of every closed log
        try:
            with _variable(ADDRESS_VARIABLE, address):  # Ray takes the variable before the argument
                return cls(JobSubmissionClient(address), address)
        except AuthenticationError as error:
            if not _has_token():
                raise UsageError(
                    f"the head at {address} asks for a token, and this user has none: copy the head's into "
                    "~/.ray/auth_token or RAY_AUTH_TOKEN"
                ) from error
            raise UsageError(
                f"the head at {address} refuses the token ({one_line(error)}); copy the head's token into "
                "~/.ray/auth_token or RAY_AUTH_TOKEN"
            ) from error
        except (RuntimeError, OSError) as error:
            raise UsageError(NO_HEAD.format(address=address, reason=one_line(error))) from error

    def jobs(self) -> list[SubmittedJob]:
        """Returns every job that was submitted to the head. Raises RunError where the head does not answer any more."""
        try:
            listed = self.client.list_jobs()
        except (RuntimeError, OSError) as error:
            raise RunError(
                f"the head at {self.address} does not answer any more ({one_line(error)}); the same command again "
                "joins what it had begun"
            ) from error
        return [_job(details) for details in listed if details.submission_id]

    def job(self, job_id: str) -> SubmittedJob | None:
        """Returns one job, or None where the head does not know it."""
        return next((job for job in self.jobs() if job.id == job_id), None)

    def submit(self, submission: Submission) -> SubmittedJob:
        """Submits the run. Where a job of this id exists already, returns it: two submitters at a time make one job.

        Raises:
            RunError: the head does not take the job.
        """
        runtime_env: dict[str, Any] = {"env_vars": submission.environment}
        if submission.working_dir:
            runtime_env["working_dir"] = submission.working_dir
        deadline = time.monotonic() + AGENT_TIMEOUT_S
        while True:
            try:
                self.client.submit_job(
                    entrypoint=submission.entrypoint,
                    submission_id=submission.id,
                    runtime_env=runtime_env,
                    metadata=submission.metadata,
                    entrypoint_resources=submission.resources or None,
                )
            except (RuntimeError, OSError) as error:
                # The head listens some seconds before it has an agent for jobs.
                if NO_AGENT in str(error) and time.monotonic() < deadline:
                    time.sleep(POLL_S)
                    continue
                existing = self.job(submission.id)
                if existing is None:
                    raise RunError(f"{self.address} does not take the job: {one_line(error)}") from error
                return existing
            return SubmittedJob(id=submission.id, status="PENDING", metadata=submission.metadata)

    def follow(self, job_id: str, write: Callable[[str], object], *, through_losses: bool) -> SubmittedJob:
        """Hands the log of a job to `write` until the job has ended, and returns the job.

        With `through_losses`, a head out of reach is tried again for `LOST_TIMEOUT_S` seconds; the log then goes on
        where it was.

        Raises:
            RunError: the head does not answer any more, or does not know the job any more.
        """
        num_written, lost_at = 0, 0.0
        while True:
            log = _LogFrom(write, num_written)
            try:
                asyncio.run(self._tail(job_id, log))
                job = self.job(job_id)
            except Exception as error:  # aiohttp, requests and Ray each raise their own of a lost connection
                num_written = log.num_written
                if not lost_at or log.num_seen:  # the log of a job is followed for hours: it was lost just now
                    lost_at = time.monotonic()
                if not through_losses or time.monotonic() - lost_at > LOST_TIMEOUT_S:
                    raise RunError(
                        f"the head at {self.address} does not answer ({one_line(error.__cause__ or error)}); the run "
                        f"may go on: {self.attach(job_id)}"
                    ) from error
                time.sleep(POLL_S)
                continue
            num_written, lost_at = log.num_written, 0.0
            if job is None:
                raise RunError(f"the head at {self.address} does not know {job_id} any more: was it started anew?")
            if job.has_ended:
                return job
            time.sleep(POLL_S)

    def attach(self, job_id: str) -> str:
        """Returns the command that follows the log of a job."""
        return f"RAY_AUTH_MODE={os.environ['RAY_AUTH_MODE']} ray job logs --follow --address {self.address} {job_id}"

    def stop(self, job_id: str) -> str:
        """Returns the command that stops a job."""
        return f"RAY_AUTH_MODE={os.environ['RAY_AUTH_MODE']} ray job stop --address {self.address} {job_id}"

    async def _tail(self, job_id: str, log: _LogFrom) -> None:
        async for lines in self.client.tail_job_logs(job_id):
            log.add(lines)


@dataclass
class _LogFrom:
    """A log that begins again with every connection, of which the first `num_written` characters are known."""

    write: Callable[[str], object]
    num_written: int
    num_seen: int = 0

    def add(self, text: str) -> None:
        new = text[max(0, self.num_written - self.num_seen) :]
        self.num_seen += len(text)
        if new:
            self.write(new)
            self.num_written = self.num_seen


def _web_address(address: str | None) -> str:
    """Returns the address if it is a dashboard's. RAY_ADDRESS may also name the port that drivers join."""
    return address if address and address.startswith(("http://", "https://")) else DEFAULT_DASHBOARD


def _check_web(address: str) -> None:
    """Raises UsageError where Ray would take the address for another kind, or end this process because of it."""
    try:
        parts = urlsplit(address)
        is_web = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        is_web = False
    if not is_web:
        raise UsageError(
            f"the head's address is {masked(address)!r}; it must be that of its dashboard, http://HOST:8265 "
            "(--dashboard, or RAY_API_SERVER_ADDRESS)"
        )


def _check_listens(address: str) -> None:
    """Raises UsageError where no connection comes about, before Ray is imported; of what a proxy reaches nothing."""
    parts = urlsplit(address)
    host, port = str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80)
    if not getproxies().get(parts.scheme) and (reason := why_no_connection(host, port)):
        raise UsageError(NO_HEAD.format(address=address, reason=reason))


def _has_token() -> bool:
    """Returns whether Ray finds a token in one of its three places."""
    place = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or place.is_file()


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    earlier = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if earlier is None:
            del os.environ[name]
        else:
            os.environ[name] = earlier


def say(line: str) -> None:
    """Writes a line of our own, beside the log, to stderr."""
    sys.stderr.write(printable_lines(line) + "\n")
    sys.stderr.flush()


def _job(details: Any) -> SubmittedJob:
    return SubmittedJob(
        id=details.submission_id,
        status=str(details.status.value),
        metadata=dict(details.metadata or {}),
        message=details.message or "",
    )
