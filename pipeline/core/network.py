"""The manners of a run on other people's servers: the rate of requests to a host, and the disk that downloads may take.

Every process of a run consults one `NetworkLimiter` before every request; `Workers.limiter` hands it to them. That of a
single process is here; on Ray it is an actor (`cluster.network_limiter`), so that a rate holds for the cluster.
"""

from __future__ import annotations

import ipaddress
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from pipeline.core.errors import ConfigError
from pipeline.core.numbers import check_numbers

NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Returns whether an IP address is one of the public internet, also where it is an IPv4 address within IPv6.

    Raises:
        ValueError: it is no IP address.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """The manners of requests for links. None of these changes what is downloaded, only when and how."""

    site_interval_s: float = 5.0
    """Least seconds between two requests to a site such as YouTube, over the whole cluster; up to as many again are
    added at random. A guest survives 5, which is 5 to 10 s."""
    host_interval_s: float = 0.2
    """Least seconds between two requests to any other host, over the whole cluster."""
    downloads_at_a_time: int = 4
    """Links that each worker requests at a time, of at most 8 workers; the intervals between requests hold for all of
    them together."""
    tries: int = 4
    """Attempts at a link whose server fails, stalls or breaks off, with growing pauses; what had come is kept."""
    stall_s: float = 30.0
    """Seconds without a byte after which an attempt at a link ends."""
    max_retry_after_s: float = 600.0
    """Longest pause that a server may ask for with Retry-After; a server that wants more gets no
    further request of the run."""
    max_disk_gb: float = 50.0
    """Most gigabytes (10^9 bytes) of downloaded video on disk at a time, unfinished files included: extraction follows
    in rounds, and deletes. Half of a download's share is the largest file it may fetch."""
    yt_dlp_options: str | None = None
    """File of yt-dlp's own options, the same path on every node: cookies, proxies, JavaScript runtime."""
    allow_private: bool = False
    """Ask hosts with loopback and private addresses, too; a list or a redirect that names one is refused otherwise."""
    max_unanswered: float = 0.5
    """Largest share of the links requested that may stay blocked or failed. Above it the run ends after the download,
    unless --hours are reached; the same command then requests those links again, and for no other."""

    def __post_init__(self) -> None:
        check_numbers(self)
        for name in ("downloads_at_a_time", "tries", "stall_s", "max_disk_gb"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0")

    @property
    def max_disk_bytes(self) -> int:
        """The bound on disk in bytes."""
        return int(self.max_disk_gb * 1e9)


@dataclass(frozen=True)
class Permit:
    """The answer to a process that wants to make a request."""

    wait_s: float
    """Seconds to wait first. The time slot is taken."""
    refusal: str = ""
    """Reason for which this run sends the host no further request; empty where it may."""


class NetworkLimiter(Protocol):
    """One account of requests and bytes for all processes of a cluster; `run` names a run among several."""

    def permit(self, run: str, host: str, interval_s: float, jitter_s: float) -> Permit:
        """Takes the next free time slot of a host; the one after is `interval_s`, and up to `jitter_s` more, later."""
        ...

    def pause(self, host: str, seconds: float) -> None:
        """Keeps a host free of requests for some seconds."""
        ...

    def refuse(self, run: str, host: str, reason: str) -> bool:
        """Notes that a run sends a host no further request; returns whether that is new."""
        ...

    def refusal(self, run: str, host: str) -> str:
        """Returns the reason for which a run sends a host no further request; empty where it may."""
        ...

    def reserve(self, run: str, num_bytes: int, bound_bytes: int) -> bool:
        """Reserves disk for a run if all that it has stays below the bound; returns whether it did."""
        ...

    def release(self, run: str, num_bytes: int) -> None:
        """Gives reserved disk back."""
        ...


@dataclass
class LocalLimiter:
    """The `NetworkLimiter` of one process, for any number of its threads."""

    clock: Callable[[], float] = time.monotonic
    first_wait_s: float = 0.0
    """Seconds before any host's first time slot: of one that takes the place of another, whose slots are not known."""
    _free_at: dict[str, float] = field(default_factory=dict)
    _refusals: dict[tuple[str, str], str] = field(default_factory=dict)
    _bytes: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._began = self.clock()

    def permit(self, run: str, host: str, interval_s: float, jitter_s: float) -> Permit:
        with self._lock:
            if refusal := self._refusals.get((run, host)):
                return Permit(0.0, refusal)
            now = self.clock()
            at = max(now, self._free_at.get(host, self._began + self.first_wait_s))
            self._free_at[host] = at + interval_s + random.uniform(0.0, jitter_s)
            return Permit(at - now)

    def pause(self, host: str, seconds: float) -> None:
        with self._lock:
            now = self.clock()
            self._free_at[host] = max(self._free_at.get(host, now), now + seconds)

    def refuse(self, run: str, host: str, reason: str) -> bool:
        with self._lock:
            return self._refusals.setdefault((run, host), reason) is reason

    def refusal(self, run: str, host: str) -> str:
        with self._lock:
            return self._refusals.get((run, host), "")

    def reserve(self, run: str, num_bytes: int, bound_bytes: int) -> bool:
        with self._lock:
            total = self._bytes.get(run, 0) + num_bytes
            if total <= bound_bytes:
                self._bytes[run] = total
            return total <= bound_bytes

    def release(self, run: str, num_bytes: int) -> None:
        with self._lock:
            # One that took another's place knows nothing of what was reserved before.
            self._bytes[run] = max(0, self._bytes.get(run, 0) - num_bytes)


PROCESS_LIMITER: Final = LocalLimiter()
"""The limiter of runs without Ray."""
