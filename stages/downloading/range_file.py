"""A file of a web server, read in pieces, where only some of its seconds are wanted."""

from __future__ import annotations

import io
import os
from typing import Final

from stages.downloading.http_files import PIECE_BYTES, HttpClient
from stages.downloading.problems import LinkError, Problem

SKIP_BYTES: Final = 1 << 19
"""A reader that goes on so few bytes further reads them; over more it leaps, by a new request."""
HEAD_BYTES: Final = 512
"""Bytes that show whether a file is a page or a video."""


class RangeFile(io.RawIOBase):
    """A file of a server, read in pieces: bytes that are leapt over are not fetched.

    Raises LinkError where the server breaks off, stalls, or changes the file.
    """

    name = "a file of a server"

    def __init__(self, client: HttpClient, url: str) -> None:
        self._client = client
        answer = client.get(url, start=0)
        self.is_ranged = answer.is_part and answer.first_byte == 0 and answer.total_bytes is not None
        """True if the server knows ranges, as it says."""
        self.has_other_bytes = False
        """True if the server has sent other bytes than were requested: it has no ranges, or the file has changed."""
        self.size = answer.total_bytes or 0
        self._url, self._validator = answer.url, answer.validator
        self._answer = answer
        self._answer_from = self._answer_at = self._at = 0
        self._is_broken = False
        """FFmpeg goes on reading after an error, and PyAV would print the next one."""
        self.head = b""
        """The first bytes."""
        while not answer.has_no_part and (data := client.read(answer, HEAD_BYTES - len(self.head))):
            self.head += data
        self._ahead = self.head

    def close(self) -> None:
        self._answer.close()
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Returns up to so many bytes from here on; empty at the end, and after an error, which is raised once."""
        if self._is_broken:
            return b""
        try:
            return self._read(size)
        except LinkError:
            self._is_broken = True
            raise

    def _read(self, size: int) -> bytes:
        size = self.size - self._at if size < 0 else min(size, self.size - self._at)
        if size <= 0:
            return b""
        self._go_to(self._at)
        while not self._ahead:
            self._ahead = self._client.read(self._answer, PIECE_BYTES)
            if not self._ahead:
                if self._answer_at == self._answer_from:
                    raise self._problem(f"broke off after {self._answer_at} of {self.size} bytes")
                self._request(self._at)  # some servers send less at a time than is requested
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        self._answer_at += len(data)
        self._at += len(data)
        return data

    def _go_to(self, position: int) -> None:
        """Brings the answer to a position: by reading on, or by another request."""
        gap = position - self._answer_at
        if 0 <= gap <= max(SKIP_BYTES, len(self._ahead)):
            while gap > 0:
                piece = self._ahead[:gap] or self._client.read(self._answer, min(gap, PIECE_BYTES))
                if not piece:
                    break
                self._ahead = self._ahead[len(piece) :]
                self._answer_at += len(piece)
                gap -= len(piece)
            if not gap:
                return
        self._request(position)

    def _request(self, position: int) -> None:
        self._answer.close()
        self._answer = answer = self._client.get(self._url, start=position, validator=self._validator)
        self._answer_from = self._answer_at = position
        self._ahead = b""
        if not answer.is_part or answer.first_byte != position or answer.is_packed:
            self.has_other_bytes = True
            raise self._problem("the server sends other bytes than were requested")

    def _problem(self, reason: str) -> LinkError:
        return LinkError(Problem(status="failed", reason=reason, host=self._answer.host, may_pass=True))
