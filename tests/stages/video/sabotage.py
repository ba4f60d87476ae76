"""Makes FFmpeg misbehave on videos by their names, in this process and in those that it starts.

`hangs`, `hangs-with-lock` (Python's lock held), `crashes`, `aborts`, `grows` (takes memory without end); after `probe-`
or `decode-`, which say when.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from stages.video import container, decode, scan


def misbehave(how: str) -> None:
    if how == "hangs":
        ctypes.CDLL(None).pause()
    elif how == "hangs-with-lock":
        ctypes.PyDLL(None).pause()
    elif how == "crashes":
        ctypes.string_at(0)
    elif how == "aborts":
        os.abort()
    elif how == "grows":
        kept = []
        while True:
            kept.append(b"x" * (1 << 24))


def install() -> None:
    """In this process."""

    def sabotaged(when: str) -> Any:
        def decode_packet(decoder: Any, packet: Any) -> Any:
            if packet is not None:
                name = Path(packet.stream.container.name).stem
                if name.startswith(when):
                    misbehave(name.removeprefix(f"{when}-"))
            return container.decode_packet(decoder, packet)

        return decode_packet

    scan.decode_packet = sabotaged("probe")  # type: ignore[assignment]
    decode.decode_packet = sabotaged("decode")  # type: ignore[assignment]


def install_below() -> None:
    """In this process and, by Python's own hook at its start, in the isolated processes that it starts."""
    install()
    folder = tempfile.mkdtemp()
    Path(folder, "sitecustomize.py").write_text("from tests.stages.video import sabotage\nsabotage.install()\n")
    sys.path.insert(0, folder)
