"""Under which HOST:PORT other machines reach something that listens here."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from covey.setting import split_address
from covey_mesh.core.addresses import InterfaceAddress, host_port, usable_addresses

_EVERY_INTERFACE = ("0.0.0.0", "::", "")


def reachable(
    listen: str, port: int, advertise: Iterable[str], interfaces: Iterable[InterfaceAddress]
) -> tuple[str, ...]:
    """Best first: what the configuration names, else the address listened on, else every usable one of the machine."""
    named = tuple(host_port(host.strip("[]"), port) for host in advertise)
    if named:
        return named
    host, _ = split_address(listen)
    if host not in _EVERY_INTERFACE:
        return (host_port(host, port),)
    found = (one.address for one in usable_addresses(interfaces))
    # An IPv4 wildcard does not answer on IPv6 addresses.
    return tuple(host_port(address, port) for address in found if host != "0.0.0.0" or ":" not in address)


def is_ip(host: str) -> bool:
    """False for a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
