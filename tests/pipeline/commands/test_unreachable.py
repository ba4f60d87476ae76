"""Every command that takes an address, against buckets and servers that refuse: one line, exit status 2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs

from pipeline.commands.table import COMMANDS, main
from pipeline.engine.store import Store
from pipeline.options.command_line import run_command
from tests.pipeline.refusing_bucket import ANSWERS, RefusingBucket, refusing_bucket
from tests.stages.video.clips import encode, moving_square

BUCKET = "s3://some-bucket/place"
RECIPE = ("youtube", "--in-process", "--no-tracking")
WITH_ADDRESS = {
    "run": (*RECIPE, "--videos", "{clips}", "--store", "{bucket}"),
    "run on videos": (*RECIPE, "--videos", "{bucket}", "--store", "{store}"),
    "plan": (*RECIPE, "--videos", "{clips}", "--store", "{bucket}"),
    "plan of videos": (*RECIPE, "--videos", "{bucket}"),
    "plan of a list": (*RECIPE, "--videos", "{bucket}/list.csv"),
    "plan of an archive": (*RECIPE, "--videos", "{bucket}/clips.zip"),
    "plan of official lists": ("ucf101", "--videos", "{clips}", "--lists", "{bucket}"),
    "plan of digits": ("moving-mnist", "--digits.mnist", "{bucket}"),
    "plan with options": ("youtube", "--config", "{bucket}/options.toml"),
    "ledger": ("--store", "{bucket}"),
    "verify": ("--store", "{bucket}"),
    "verify to repair": ("--store", "{bucket}", "--repair"),
    "compact": ("--store", "{bucket}"),
    "prune": ("--store", "{bucket}"),
    "status": ("--store", "{bucket}"),
    "takedown": ("0" * 64, "--store", "{bucket}"),
    "takedown of a video": ("{bucket}/a.mp4", "--store", "{store}"),
    "predict": ("{bucket}/pretrain-1", "moving-mnist:1"),
    "classify": ("{bucket}/finetune-1", "{clips}/a.mp4"),
    "compare": ("latest~1", "latest", "--store", "{bucket}"),
    "ui": ("--store", "{bucket}", "--no-browser"),
    "publish": ("pretrain-1", "{store}-published", "--store", "{bucket}"),
    "track": ("--store", "{bucket}"),
    "submit": ("youtube", "--videos", "{bucket}", "--store", "{bucket}", "--dashboard", "http://127.0.0.1:9"),
}
"""Command, and what is reached -> its arguments."""
NO_ADDRESS = {"cluster"}
NOT_REACHED = ("compare", "ui")
"""Commands to which a bucket says nothing: their MLflow lies elsewhere."""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("places")
    (root / "clips").mkdir()
    for number, name in enumerate("abc"):
        encode(root / "clips" / f"{name}.mp4", moving_square(40 + number))
    Store.open(str(root / "store"), create=True)
    return {"clips": str(root / "clips"), "store": str(root / "store")}


@pytest.fixture
def answer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[RefusingBucket]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with refusing_bucket(request.param) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        s3fs.S3FileSystem.clear_instance_cache()
        yield server
    s3fs.S3FileSystem.clear_instance_cache()


def said(command: str, bucket: str, places: dict[str, str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says before it ends with status 2."""
    arguments = [word.format(bucket=bucket, **places) for word in WITH_ADDRESS[command]]
    if command.startswith("plan") and "--store" not in arguments:
        arguments += ["--store", places["store"]]
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        run_command(lambda: main([command.partition(" ")[0], *arguments]))
    line = capsys.readouterr().err
    assert end.value.code == 2, line
    assert line.startswith("error: ")
    assert line.count("\n") == 1, line
    return line


def test_no_command_is_forgotten() -> None:
    assert {name.partition(" ")[0] for name in WITH_ADDRESS} | NO_ADDRESS == set(COMMANDS)


@pytest.mark.parametrize("answer", ["wrong key"], indirect=True)
@pytest.mark.parametrize("command", WITH_ADDRESS)
def test_every_command(
    answer: RefusingBucket, command: str, places: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    line = said(command, BUCKET, places, capsys)
    assert BUCKET in line
    if command not in NOT_REACHED:
        assert "Forbidden" in line or "Access Key Id" in line


@pytest.mark.parametrize("answer", ANSWERS, indirect=True)
def test_every_answer(answer: RefusingBucket, places: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert BUCKET in said("ledger", BUCKET, places, capsys)


@pytest.mark.parametrize("wrong", ["no credentials", "no endpoint", "no profile"])
@pytest.mark.parametrize("answer", ["no rights"], indirect=True)
def test_a_bucket_that_cannot_even_be_asked(
    answer: RefusingBucket,
    wrong: str,
    places: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    if wrong == "no endpoint":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    elif wrong == "no profile":
        monkeypatch.setenv("AWS_PROFILE", "nobody")
    else:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
            monkeypatch.setenv(name, str(tmp_path / "none"))
    words = {"no credentials": "credentials", "no endpoint": "endpoint", "no profile": "nobody"}
    assert words[wrong] in said("plan of videos", BUCKET, places, capsys)


@pytest.mark.parametrize("answer", ["no rights"], indirect=True)
def test_other_schemes(answer: RefusingBucket, places: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """gs and az come with packages of their own; http has a server that refuses, and an address without one."""
    for address in ("gs://bucket/place", "az://container/place", f"{answer.url}/place", "http://127.0.0.1:9/place"):
        for command in ("plan", "ledger", "plan of videos", "plan of official lists", "takedown"):
            assert address in said(command, address, places, capsys)
