"""`percepts submit` against a real head that asks for a token: joined, skipped, interrupted, failed, refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.run_records import RUN_ID_VARIABLE, RunRecord, read_records, write_record
from pipeline.commands.submit import SubmitOptions, identify, main, split
from pipeline.core.errors import ConfigError, UsageError
from pipeline.engine.provenance import commit
from pipeline.engine.store import Store
from pipeline.options.flags import list_options
from pipeline.recipes.recipe import RECIPES, load_recipe
from tests.conftest import ROOT
from tests.pipeline.left_behind import marked, ports_of

SMALL = [
    *("moving-mnist", "--num-test-sequences", "20", "--pretrain.num-units", "8", "--pretrain.num-steps", "4"),
    *("--pretrain.batch-size", "4", "--pretrain.max-validation-batches", "1", "--no-pictures"),
    "--no-tracking",
]
"""A recipe of few and short stages."""
SUBMIT = [sys.executable, "-m", "pipeline.commands", "submit"]


def test_no_option_of_a_recipe_has_the_name_of_one_of_the_submission() -> None:
    own = {option.name for option in list_options(SubmitOptions)}
    for name in RECIPES:
        assert not own & {option.name for option in list_options(load_recipe(name).options)}


def test_words_are_split_between_submission_and_recipe() -> None:
    words = [
        "--videos",
        "a",
        "b",
        "--wait",
        "--store=s3://x",
        "--if_running",
        "skip",
        "--name=x",
        "--no-queue",
        "--seed",
        "1",
    ]
    own, rest = split(words)
    assert own == ["--wait", "--if_running", "skip", "--name=x", "--no-queue"]
    assert rest == ["--videos", "a", "b", "--store=s3://x", "--seed", "1"]


def test_the_same_plan_is_the_same_run_and_another_is_not() -> None:
    options = SubmitOptions()
    first = identify("demo", ["--store", "/s"], options)
    assert identify("demo", ["--store=/s", "--workers", "1"], options).plan == first.plan, "workers change nothing"
    assert identify("demo", ["--store", "/s", "--pretrain.num-steps", "7"], options).plan != first.plan
    by_options = SubmitOptions(by_options=True)
    unseen = ["--store", "/s", "--videos", "/only/on/the/cluster"]
    assert identify("youtube", unseen, by_options).plan == identify("youtube", unseen, by_options).plan
    with pytest.raises(UsageError, match="/only/on/the/cluster"):
        identify("youtube", unseen, options)


def test_models_are_named_by_keys_and_by_the_mlflow_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `percepts run` finds them: a key of the store, and a name in the MLflow of --tracking-uri."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    words = ["--store", "/s", "--videos", "/v", "--encoder"]
    with pytest.raises(UsageError, match="pretrain-0123456789abcdef, which the store /s does not have"):
        identify("embed", [*words, "pretrain-0123456789abcdef"], SubmitOptions())
    team = f"sqlite:///{tmp_path}/team.db"
    with pytest.raises(UsageError, match=r"no model 'models:/walks@best': .*/team\.db does not exist"):
        identify("embed", [*words, "models:/walks@best", "--tracking-uri", team], SubmitOptions())
    assert "MLFLOW_TRACKING_URI" not in os.environ


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--if-running", "maybe"], "must be start, skip or wait"),
        (["demo", "--on-failure", "true"], "--on-failure needs --wait"),
        (["demo"], "pass --store a URL"),
        (["demo", "--store", "here"], "pass --store a URL"),
        (["youtube", "--store", "/s", "--videos", "s3://b/clips", "clips/"], "--videos has 'clips/'"),
        (["youtube", "--store", "/s", "--links", "list.csv"], "--links has 'list.csv'"),
        (["embed", "--store", "/s", "--videos", "/v", "--encoder", "model.safetensors"], "--encoder has 'model"),
        (["classify", "--store", "/s", "--videos", "/v", "--classifier", "finetune/"], "--classifier has 'finetune/'"),
        (["youtube", "--store", "/s", "--videos", "/v", "--extract.convnet.weights", "w.pt"], "weights has 'w.pt'"),
        (["demo", "--store", "/s", "--plan"], "percepts plan demo"),
        (
            ["demo", "--store", "/s", "--tracking-uri", "http://me:secret@mlflow"],
            r"^'http://mlflow' was given with a pass",
        ),
        (["dem", "--store", "/s"], "did you mean 'demo'"),
        (["demo", "--store", "/s", "--wokers", "2"], "--workers"),
        (["demo", "--store", "/s", "--dashboard", "http://127.0.0.1:9"], "no head takes jobs at http://127.0.0.1:9"),
        (["demo", "--store", "/s", "--dashboard", "127.0.0.1:9"], "'127.0.0.1:9'; it must be that of its dashboard"),
        (["demo", "--store", "/s", "--dashboard", "ray://127.0.0.1:9"], "it must be that of its dashboard"),
        (["demo", "--store", "/s", "--dashboard", "http://127.0.0.1:port"], "it must be that of its dashboard"),
    ],
)
def test_what_cannot_be_submitted_is_refused(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    with pytest.raises((UsageError, ConfigError), match=message) as caught:
        main(arguments)
    assert "\n" not in str(caught.value)


def test_a_config_with_a_secret_does_not_travel_with_a_job(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('store = "/s"\ntracking-uri = "http://me:secret@mlflow"\n')
    with pytest.raises(UsageError, match="was given with a password") as caught:
        main(["demo", "--config", str(path)])
    assert "secret@" not in str(caught.value)


def test_the_head_is_named_by_rays_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, address, named in (
        ("RAY_ADDRESS", "http://127.0.0.1:7", "127.0.0.1:7"),
        ("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:5", "127.0.0.1:5"),
    ):
        monkeypatch.setenv(name, address)
        with pytest.raises(UsageError, match=f"no head takes jobs at http://{named} "):
            main(["moving-mnist", "--store", "/s"])


def submit(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [*SUBMIT, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=800)


@contextmanager
def submitted(arguments: list[str], environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A submission that goes on, and the line that names its job."""
    quiet = subprocess.DEVNULL
    command = [*SUBMIT, *arguments]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=quiet, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stderr is not None
        while not (line := process.stderr.readline()).startswith(("submitted", "joining")):
            assert line, "the submission ended before it had a job"
        yield process, line
    finally:
        process.kill()
        process.communicate()


@pytest.mark.ray
def test_a_run_is_submitted_once_joined_left_skipped_and_stopped(head: dict[str, str], tmp_path: Path) -> None:
    root, temporary = str(tmp_path / "store"), tmp_path / "temporary"
    temporary.mkdir()
    head = head | {"TMPDIR": str(temporary)}
    run, other = [*SMALL, "--store", root], [*SMALL, "--store", root]
    run[run.index("--pretrain.num-steps") + 1] = "1000000"  # trains for as long as this test takes
    other[other.index("--pretrain.num-steps") + 1] = "13"
    with submitted([*run, "--wait"], head) as (first, line):
        (record,) = read_records(root)
        assert line.startswith(f"submitted {record.id} to {head['RAY_API_SERVER_ADDRESS']}")
        assert (record.name, record.dashboard) == ("moving-mnist", head["RAY_API_SERVER_ADDRESS"])

        refused = submit(other, head)
        assert refused.returncode == 2, refused.stderr
        assert f"'moving-mnist' with another plan goes on, {record.id}" in refused.stderr
        skipped = submit([*other, "--name", "another", "--wait", "--if-running", "skip"], head)
        assert skipped.returncode == 0, skipped.stderr
        assert f"skipped: {record.id} goes on" in skipped.stderr
        assert [record.id for record in read_records(root)] == [record.id]

        with submitted(run, head) as (joined, line):
            assert line.startswith(f"joining {record.id} ")
            time.sleep(1)
            joined.send_signal(signal.SIGINT)
            _, said = joined.communicate(timeout=240)
        assert joined.returncode == 130, said
        stop = next(line for line in said.splitlines() if "ray job stop" in line).split("stop it")[1]
        assert first.poll() is None, "leaving one follower ended the other"
        assert ports_of(marked(RUN_ID_VARIABLE, record.id)), "the job's processes are not seen"
        subprocess.run(stop, shell=True, env=head, check=True, capture_output=True, timeout=240)
        _, said = first.communicate(timeout=240)
    assert first.returncode == 1, said
    assert f"{record.id} stopped" in said
    # Neither the submissions nor the job left a process, and with it a port, or a file.
    deadline = time.monotonic() + 240
    while (left := marked(RUN_ID_VARIABLE, record.id)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left == []
    assert [path for path in temporary.rglob("*") if path.is_file()] == []


@pytest.mark.ray
def test_a_submitted_run_brings_code_and_commit_and_ends_with_its_status(head: dict[str, str], tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    (tmp_path / "small.toml").write_text("workers = '1'\n")
    run = [*SMALL, "--store", root, "--config", str(tmp_path / "small.toml")]
    done = submit([*run, "--wait"], head)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    (record,) = read_records(root)
    assert record.status == "succeeded"
    assert "report.html" in done.stdout
    assert f"{record.id} succeeded" in done.stderr
    assert "WebSocket" not in done.stderr
    assert "left out: " in done.stderr
    head_commit, is_dirty = commit()
    manifests = list(Store.open(root).manifests())
    assert {(manifest.commit, manifest.dirty) for manifest in manifests} == {(head_commit, is_dirty)}
    assert head["RAY_AUTH_TOKEN"] not in done.stdout + done.stderr


@pytest.mark.ray
def test_a_run_that_fails_is_noticed_and_reported(head: dict[str, str], tmp_path: Path) -> None:
    root, report = str(tmp_path / "store"), tmp_path / "report"
    # A run of another head that is out of reach and gives no sign of life does not stop this one.
    Store.open(root, create=True)
    write_record(
        root, RunRecord(id="old", name="moving-mnist", dashboard="http://127.0.0.1:9", submitted_at="2026-01-01")
    )
    run = [*SMALL, "--store", root, "--address", "127.0.0.1:9"]
    on_failure = ["--on-failure", f'echo "$PERCEPTS_STATUS $PERCEPTS_STORE" > {report}']
    done = submit([*run, "--wait", *on_failure], head)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "failed: moving-mnist-" in done.stderr
    assert "heartbeat decides" in done.stderr
    assert report.read_text() == f"FAILED {root}\n"
    assert [record.status for record in read_records(root)] == ["submitted", "failed"]


@pytest.mark.ray
def test_a_wrong_token_is_refused_in_one_line(head: dict[str, str], tmp_path: Path) -> None:
    stranger = head | {"RAY_AUTH_TOKEN": "0" * 64}
    done = submit([*SMALL, "--store", str(tmp_path)], stranger)
    assert done.returncode == 2, done.stderr
    assert "refuses the token" in done.stderr
    without = {name: value for name, value in head.items() if name != "RAY_AUTH_TOKEN"} | {"HOME": str(tmp_path)}
    said = submit([*SMALL, "--store", str(tmp_path)], without).stderr.splitlines()
    assert "asks for a token, and this user has none" in said[-1]
    assert head["RAY_AUTH_TOKEN"] not in done.stdout + done.stderr
    assert os.listdir(tmp_path) == []
