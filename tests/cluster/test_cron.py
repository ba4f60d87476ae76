"""Debian's own cron calls the rendered command at the rendered time, once.

cron runs in mount namespaces of its own, over empty directories; libfaketime tells it that it is nearly one.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from cluster.rendering.commands import submit_command
from cluster.rendering.render import RENDERERS
from cluster.rendering.settings import read_settings

pytestmark = pytest.mark.root

START = """set -e
mount --bind {tables} /etc/cron.d
mount -t tmpfs none /var/spool
mkdir -p /var/spool/cron/crontabs
mount -t tmpfs none /run
export TZ=UTC FAKETIME='@2026-11-23 00:59:58' LD_PRELOAD={faketime}
exec {cron} -f
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of Debian's packages cron and libfaketime, unpacked and not installed."""
    folder = tmp_path_factory.mktemp("packages")
    if shutil.which("apt-get") is None or shutil.which("unshare") is None or not Path("/etc/cron.d").is_dir():
        pytest.skip("needs a Debian, for its cron and libfaketime")
    fetch = ["apt-get", "-qq", "download", "cron", "libfaketime"]
    done = subprocess.run(fetch, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    archives = list(folder.glob("*.deb"))
    if len(archives) != 2:
        pytest.skip(f"needs Debian's packages cron and libfaketime: {done.stderr.strip()[-200:]}")
    for archive in archives:
        subprocess.run(["dpkg", "-x", archive, folder], check=True)
    return folder


def test_cron_fires_the_rendered_command_once(packages: Path, tmp_path: Path) -> None:
    changes = [("machine", "directory", str(tmp_path / "percepts")), ("schedule", "cron", "0 1 * * 1")]
    settings = read_settings(None, [*changes, ("run", "on_failure", 'echo "100% $PERCEPTS_STATUS"')])
    (text,) = RENDERERS["local"](settings).values()
    directory, called = tmp_path / "percepts", tmp_path / "called"
    program = directory / ".venv" / "bin" / "percepts"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$RAY_AUTH_MODE" "$@" >> {called}\n')
    (directory / "percepts.sh").write_text(text)
    for script in (program, directory / "percepts.sh"):
        script.chmod(0o755)

    # The line that the script has for a crontab, as it stands; one in /etc/cron.d names a user, too.
    ((times, command),) = re.findall(r"^# +((?:\S+ ){5})(/\S+/percepts\.sh submit)$", text, re.MULTILINE)
    tables = tmp_path / "cron.d"
    tables.mkdir()
    (tables / "percepts").write_text(f"{times}root {command}\n")
    (cron,), (faketime,) = packages.rglob("sbin/cron"), packages.rglob("libfaketimeMT.so.1")
    start = START.format(tables=tables, cron=cron, faketime=faketime)
    daemon = subprocess.Popen(["unshare", "--mount", "sh", "-c", start], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 240
        while not called.exists() and daemon.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1)  # a second call would come now
    finally:
        daemon.send_signal(signal.SIGTERM)
        _, said = daemon.communicate(timeout=240)
    assert called.exists(), said
    assert called.read_text().splitlines() == ["token", *submit_command(settings)[1:]]
