"""The network interface over which workers of a training group connect: the one with the address of Ray's node.

gloo resolves the machine's own name. Where that is a loopback address, as in Debian's /etc/hosts, no worker on another
node can connect, and training on several nodes without GPUs never begins. NCCL inspects the interfaces itself.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from typing import Any

import ray
from ray.train.torch import TorchConfig

SIOCGIFADDR = 0x8915
"""ioctl: the IPv4 address of an interface (Linux)."""


_TorchBackend: Any = TorchConfig().backend_cls


class NodeInterfaceBackend(_TorchBackend):  # type: ignore[misc]  # Ray names this class only by a property
    """Ray Train's own set-up of torch.distributed, after every worker has chosen its interface."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(use_node_interface)
        super().on_start(worker_group, backend_config)


@dataclass
class NodeInterfaceConfig(TorchConfig):
    """A `TorchConfig` with `NodeInterfaceBackend` as its backend."""

    @property
    def backend_cls(self) -> type[NodeInterfaceBackend]:
        return NodeInterfaceBackend


def use_node_interface() -> None:
    """Sets gloo's interface in this process to the one with this Ray node's address, unless the user has set one."""
    name = interface_of(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]  # Ray's has no types
    if name is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def interface_of(address: str) -> str | None:
    """Returns the name of the network interface with this IPv4 address, or None if this machine has no such one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # it has no IPv4 address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
