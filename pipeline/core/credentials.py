"""Passwords in addresses, which no log, record, report, tag or list of processes shows."""

from __future__ import annotations

import re
from typing import Final

CREDENTIALS: Final = re.compile(r"(?<=://)[^/\s@'\"]+@")
"""User name and password of an address, with the @ behind them."""


def without_credentials(text: str) -> str:
    """Returns the text with every address in it as it is without user name and password."""
    return CREDENTIALS.sub("", text)


def has_credentials(text: str) -> bool:
    """Returns whether an address in the text names a user or a password."""
    return CREDENTIALS.search(text) is not None
