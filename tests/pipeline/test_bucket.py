"""The small demo with its store in a bucket that breaks connections off and is busy for a while, beside one on disk."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import s3fs

from pipeline.commands.table import main
from pipeline.core.files import ATTEMPTS, ATTEMPTS_VARIABLE
from pipeline.engine.store import Manifest, Output, Store
from tests.pipeline.flaky_proxy import flaky_proxy
from tests.pipeline.small_demo import TINY_DEMO


def made(root: str) -> dict[str, tuple[str, dict[str, Output]]]:
    """Name of a stage -> its key, and the digests of its files."""
    manifests: list[Manifest] = list(Store.open(root).manifests())
    return {manifest.name: (manifest.key, manifest.outputs) for manifest in manifests}


def test_a_bucket_that_fails_for_a_while_costs_retries_and_no_result(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ATTEMPTS_VARIABLE, "")  # a run sets it: what it sets is taken back after the test
    monkeypatch.delenv(ATTEMPTS_VARIABLE)
    moto, root, on_disk = urlsplit(os.environ["AWS_ENDPOINT_URL"]), f"{s3_bucket}/store", str(tmp_path / "store")
    with flaky_proxy((str(moto.hostname), int(moto.port or 0)), break_every=40, busy_every=600, busy_s=5.0) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        s3fs.S3FileSystem.clear_instance_cache()
        assert main(["run", *TINY_DEMO, "--store", root]) == 0
        assert min(proxy.counted["broken"], proxy.counted["busy"]) > 0, proxy.counted
        # AWS's own library gives up a busy bucket after 7 s on average.
        assert os.environ[ATTEMPTS_VARIABLE] == ATTEMPTS
        there = made(root)
        # The corpus is encoded once, which is what takes longest: on disk it is the bucket's.
        Store.open(on_disk, create=True)
        s3fs.S3FileSystem().get(f"{root}/synthesize/", f"{on_disk}/synthesize/", recursive=True)
    assert main(["run", *TINY_DEMO, "--store", on_disk]) == 0
    assert len(there) == 11
    assert made(on_disk) == there
