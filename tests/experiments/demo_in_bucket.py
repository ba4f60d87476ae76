"""The small demo on Ray's workers with store, videos and MLflow's artifacts in a bucket that fails, beside one on disk.

    python -m tests.experiments.demo_in_bucket

The bucket is moto's; a proxy breaks every 40th connection off and answers 503 for 6 s after every 600. Prints what
became of the connections, and which artifacts differ from those of a run with its store on disk, as JSON.
`tests/pipeline/test_bucket.py` does the same in one process, with fewer clips.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import s3fs
from moto.server import ThreadedMotoServer

from tests.conftest import ROOT
from tests.experiments.demo_on_two_hosts import RECIPE
from tests.pipeline.flaky_proxy import flaky_proxy
from tests.pipeline.ray_head import free_port
from tests.pipeline.test_bucket import made
from tests.stages.test_extract import encode

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
BUCKET = "s3://percepts"
NUM_VIDEOS, NUM_FRAMES = 6, 64


def percepts(log: Path, *arguments: str, **environment: str) -> tuple[int, float]:
    """Runs the recipe with Ray's workers; returns its status and its seconds."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    inherited |= {"OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, "-m", "pipeline.commands", "run", *RECIPE, "--num-cpus", "2"]
    started = time.monotonic()
    with log.open("wb") as output:
        done = subprocess.run(
            [*command, "--videos", f"{BUCKET}/clips", *arguments],
            cwd=ROOT, env=inherited, stdout=output, stderr=output, check=False,
        )  # fmt: skip
    if done.returncode:
        sys.stderr.write(log.read_text()[-4000:])
    return done.returncode, round(time.monotonic() - started)


@contextmanager
def mlflow_server(folder: Path, endpoint: str) -> Iterator[str]:
    """Yields the address of a server that keeps artifacts in the bucket."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{BUCKET}/mlflow"]
    environment = os.environ | {"MLFLOW_S3_ENDPOINT_URL": endpoint}
    with (folder / "mlflow.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 180
        while server.poll() is None and time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def main() -> int:
    """Runs both; returns 0 if both ended well and made the same artifacts to the byte."""
    os.environ.update(KEYS)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ["AWS_ENDPOINT_URL"] = f"http://{host}:{port}"
    bucket = s3fs.S3FileSystem()
    bucket.mkdir(BUCKET)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(NUM_VIDEOS):
            encode(folder / "clips" / f"{number}.mp4", NUM_FRAMES, seed=number)
        bucket.put(f"{folder}/clips", f"{BUCKET}/clips", recursive=True)
        with (
            flaky_proxy((host, port), break_every=40, busy_every=600, busy_s=6.0) as proxy,
            mlflow_server(folder, proxy.url) as tracking,
        ):
            # A cache of its own: that of this machine may have the clips already.
            flaky = {"AWS_ENDPOINT_URL": proxy.url, "PERCEPTS_CACHE": f"{folder}/cache"}
            there = percepts(folder / "bucket.log", "--store", f"{BUCKET}/store", "--tracking-uri", tracking, **flaky)
            counted = dict(proxy.counted)
        on_disk = percepts(folder / "disk.log", "--store", f"{folder}/store", "--no-tracking")
        stores = [made(root) for root in (f"{BUCKET}/store", f"{folder}/store")] if not there[0] + on_disk[0] else []
        result = {
            "in the bucket": dict(zip(("status", "seconds"), there, strict=True)),
            "on disk": dict(zip(("status", "seconds"), on_disk, strict=True)),
            "connections": counted,
            "artifacts": [len(store) for store in stores],
            "differ": sorted(n for n in stores[0].keys() | stores[1].keys() if stores[0].get(n) != stores[1].get(n))
            if stores
            else None,
            "files of MLflow in the bucket": len(bucket.find(f"{BUCKET}/mlflow")),
            "lines about retries": [
                line
                for line in (folder / "bucket.log").read_text().splitlines()
                if "once more" in line or "warn" in line
            ][:20],
        }
    server.stop()
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    return 0 if result["differ"] == [] else 1


if __name__ == "__main__":
    sys.exit(main())
