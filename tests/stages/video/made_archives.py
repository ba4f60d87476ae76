"""Archives for tests: zip and tar by Python's modules, rar written here, since nothing free writes one.

The rar is version 4 with stored files, by the format's description in the UnRAR sources (technote.txt of WinRAR).
"""

from __future__ import annotations

import ctypes.util
import io
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping

import pytest

RAR_MARK = b"Rar!\x1a\x07\x00"
UNIX, STORED, VERSION = 3, 0x30, 20


def make_zip(files: Mapping[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return sink.getvalue()


def make_tar(files: Mapping[str, bytes], *, compression: str = "") -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=f"w:{compression}") as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def make_rar(files: Mapping[str, bytes], *, mode: int = stat.S_IFREG | 0o644) -> bytes:
    if ctypes.util.find_library("archive") is None:
        pytest.skip("reading rar needs the system's libarchive (Debian: libarchive13)")
    blocks = [_block(0x73, 0, bytes(6))]
    for name, data in files.items():
        encoded = name.encode()
        head = struct.pack(
            "<IIBIIBBHI", len(data), len(data), UNIX, zlib.crc32(data), 0, VERSION, STORED, len(encoded), mode
        )
        blocks.append(_block(0x74, 0x8000, head + encoded) + data)
    return RAR_MARK + b"".join(blocks) + _block(0x7B, 0x4000, b"")


def _block(kind: int, flags: int, body: bytes) -> bytes:
    head = struct.pack("<BHH", kind, flags, 7 + len(body)) + body
    return struct.pack("<H", zlib.crc32(head) & 0xFFFF) + head
