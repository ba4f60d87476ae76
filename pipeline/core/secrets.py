"""Secrets in addresses: passwords before a host, and signatures, tokens and keys behind a question mark.

What is shown, logged or written is `masked`, and a key depends on the public address, so that one that was signed anew
is the same source. The address itself stays in the memory of the run that was given it: `remember` keeps it, `real`
returns it where something is fetched, and `known` and `learn` hand it to the processes of the run. Nothing here writes
to a disk; a run that goes on later has the addresses from its own command.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

MASK: Final = "***"

_SECRET: Final = (
    r"x-amz-[a-z0-9-]+|x-goog-[a-z0-9-]+|x-oss-[a-z0-9-]+|awsaccesskeyid|googleaccessid|signature|sig|sign|hmac"
    r"|(?:[a-z0-9]+[-_])*(?:token|password|passwd|pwd|secret|credentials?|apikey|api[-_]key|account[-_]key"
    r"|access[-_]key|private[-_]key)|auth|key|pass"
)
"""Names of secrets in a URL's parameters, and of what changes with every signature."""
_BESIDE_SIGNATURE: Final = r"policy|expires|expiry|exp|key-pair-id|s[etvrps]|spr|sip|srt|sdd|skoid|sktid|sk[tesv]"
"""The same, where there is a signature (`signature`, Azure's `sig`); of themselves they say nothing secret."""
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s<>]+")
_USER: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#\s]*)@")
_PARAMETER: Final = re.compile(rf"(?i)([?&;])(?:{_SECRET})=[^&;#\s'\"<>)]*")
_SIGNATURE: Final = re.compile(r"(?i)[?&;](?:signature|sig|sign|hmac)=")
_SIGNED_PARAMETER: Final = re.compile(rf"(?i)([?&;])(?:{_SECRET}|{_BESIDE_SIGNATURE})=[^&;#\s'\"<>)]*")
_SETTING: Final = re.compile(
    r"(?i)\b((?:[a-z0-9]+[-_])*(?:secret[-_]access[-_]key|session[-_]token|tracking[-_]password|tracking[-_]token"
    r"|access[-_]token|auth[-_]token|client[-_]secret|account[-_]key|sas[-_]token|connection[-_]string|api[-_]key"
    r"|password|secret))([\"']?\s*[=:]\s*[\"']?)([^\s\"',&}]+)"
)
"""A setting whose value is a secret, such as AWS_SECRET_ACCESS_KEY=... or "password": "..."."""


def public(address: str) -> str:
    """Returns an address without its password, signature, tokens and keys; a path, or text without them, as it is."""
    if "://" not in address:
        return address
    head, mark, query = address.partition("?")
    head = _USER.sub(_without_password, head)
    if not mark:
        return head
    is_signed = _SIGNATURE.search(mark + query) is not None
    kept = (_SIGNED_PARAMETER if is_signed else _PARAMETER).sub(r"\1", mark + query)
    if kept == mark + query:
        return head + kept
    kept = re.sub(r"[&;]+(?=[&;#]|$)", "", re.sub(r"(?<=\?)[&;]+", "", kept))
    return head + re.sub(r"\?(?=\W|$)", "", kept)


def has_secrets(text: str) -> bool:
    """Returns whether text holds an address with a secret, or a setting that is one."""
    return masked(text) != text


def _without_password(match: re.Match[str]) -> str:
    is_secret = ":" in match[2] or match[1].lower() in ("http", "https")  # a name alone is none: container@account
    return f"{match[1]}://" if is_secret else match[0]


def masked(text: str) -> str:
    """Returns text in which addresses are public, and the values of settings that are secrets are stars."""
    if "://" in text:
        text = _URL.sub(lambda match: public(match[0]), text)
    return _SETTING.sub(rf"\1\2{MASK}", text)


def hide_in_title() -> None:
    """Puts stars in place of the secrets among this process's arguments, where other users see them (Linux)."""
    with suppress(OSError, ValueError, IndexError):
        with open("/proc/self/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end: fields 48 and 49 of proc(5)
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            arguments = memory.read(end - start).split(b"\0")
            hidden = [_same_length(argument) for argument in arguments]
            if hidden != arguments:
                memory.seek(start)
                memory.write(b"\0".join(hidden))


def _same_length(argument: bytes) -> bytes:
    shown = os.fsencode(masked(os.fsdecode(argument)))
    return argument if shown == argument else shown[: len(argument)].ljust(len(argument), b"*")


_real: dict[str, str] = {}


def remember(address: str, shown: str | None = None) -> str:
    """Returns the public address, or the one to show in its place; the given one is kept in this process's memory."""
    shown = public(address) if shown is None else shown
    if shown != address:
        _real[shown] = address
    return shown


def real(address: str) -> str:
    """Returns the address that `remember` was given for a public one; any other as it is."""
    return _real.get(address, address)


def known() -> dict[str, str]:
    """Returns what this process remembers, for a process that it starts: public address -> real one."""
    return dict(_real)


def learn(addresses: Mapping[str, str]) -> None:
    """Remembers what the starting process remembered."""
    _real.update(addresses)
