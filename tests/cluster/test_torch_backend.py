"""The interface by which members of a group find one another, against the kernel's own list."""

from __future__ import annotations

import socket
from pathlib import Path

from cluster.training.torch_backend import interface_of


def test_the_loopback_address_is_on_the_loopback_interface() -> None:
    assert interface_of("127.0.0.1") == "lo"


def test_the_address_of_the_default_route_is_on_its_interface() -> None:
    routes = [line.split() for line in Path("/proc/net/route").read_text().splitlines()[1:]]
    default = [fields[0] for fields in routes if fields[1] == "00000000"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        if default:
            probe.connect(("198.51.100.1", 9))  # sends nothing: it only chooses the route
            assert interface_of(probe.getsockname()[0]) in default


def test_an_address_of_another_machine_is_on_none() -> None:
    assert interface_of("198.51.100.1") is None
