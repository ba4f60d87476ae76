"""Refuses connections of this process to loopback and private addresses, in all code that it runs.

A list or a redirect may name an address of the network that this machine stands in, or a name that leads there. So the
address is looked at when a socket connects, behind every redirect and every name server, in yt-dlp's code as in ours.
"""

from __future__ import annotations

import sys
from typing import Any

from pipeline.core.network import is_public

_is_installed = False
_is_on = False


class PrivateAddressError(OSError):
    """A connection to an address that links may not lead to."""


def refuse_private(is_on: bool) -> None:
    """Refuses such connections from now on, or allows them again; for isolated processes, where it cannot surprise."""
    global _is_installed, _is_on
    _is_on = is_on
    if is_on and not _is_installed:
        sys.addaudithook(_check)
        _is_installed = True


def is_private(address: str) -> bool:
    """Returns whether an IP address is not of the public internet; false for a name, which is looked up first."""
    try:
        return not is_public(address)
    except ValueError:
        return False


def _check(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "socket.connect" or not _is_on:
        return
    address = arguments[1]
    if isinstance(address, tuple) and isinstance(address[0], str) and is_private(address[0]):
        raise PrivateAddressError(0, f"{address[0]} is a private address: --allow-private requests it all the same")
