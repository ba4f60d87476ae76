"""A server that answers every request to a bucket as S3 does where something is wrong with the request."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ANSWERS = {
    "wrong key": (403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."),
    "wrong secret": (403, "SignatureDoesNotMatch", "The request signature we calculated does not match."),
    "expired token": (400, "ExpiredToken", "The provided token has expired."),
    "no rights": (403, "AccessDenied", "Access Denied"),
    "wrong region": (400, "AuthorizationHeaderMalformed", "The region 'us-east-1' is wrong; expecting 'eu-west-1'"),
    "moved": (301, "PermanentRedirect", "The bucket must be addressed using another endpoint."),
    "no bucket": (404, "NoSuchBucket", "The specified bucket does not exist"),
    "out of order": (500, "InternalError", "We encountered an internal error. Please try again."),
}
"""What is wrong -> status, code and message."""


class RefusingBucket(ThreadingHTTPServer):
    """Gives one of `ANSWERS` to every request."""

    daemon_threads = True

    def __init__(self, answer: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = ANSWERS[answer]

    def handle_error(self, request: object, client_address: object) -> None:
        """Keeps connections that a client drops out of the test's output, which is a command's."""

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: RefusingBucket
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Keeps requests out of the test's output."""

    def _answer(self) -> None:
        status, code, message = self.server.answer
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET = do_PUT = do_POST = do_DELETE = _answer


@contextmanager
def refusing_bucket(answer: str) -> Iterator[RefusingBucket]:
    """Yields a running server."""
    with RefusingBucket(answer) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
