"""Every benchmark, each in a process of its own: `python -m tests.bench`, or `make bench`.

Each prints one JSON line: what was measured, what it is compared with on the same data in the same run, and the ratio.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Run them one after the other; the status is that of the first that failed."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))
    for name in names:
        status = subprocess.run([sys.executable, "-m", f"tests.bench.{name}"], check=False).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
