"""How members of a training group find one another: over the interface that Ray knows their node by.

gloo asks for the address of the machine's own name. Where that is a loopback address, as Debian's /etc/hosts has it,
no member on another node can be reached, and training on several nodes without GPUs never begins. NCCL looks at the
interfaces itself and needs no help.
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
    """Ray Train's own set-up of torch.distributed, once every member has named its interface."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(use_node_interface)
        super().on_start(worker_group, backend_config)


@dataclass
class NodeInterfaceConfig(TorchConfig):
    """`TorchConfig` with `NodeInterfaceBackend`."""

    @property
    def backend_cls(self) -> type[NodeInterfaceBackend]:
        return NodeInterfaceBackend


def use_node_interface() -> None:
    """Tells gloo, in this process, the interface that holds the address of this Ray node; what the user set stays."""
    name = interface_of(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    if name is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def interface_of(address: str) -> str | None:
    """The network interface with this IPv4 address, or None: then gloo has to find one itself."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # it has no IPv4 address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
