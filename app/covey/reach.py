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


def listen_ip(listen: str) -> str:
    """The IP address in HOST:PORT; "" (any) for a name, which may stand for several."""
    return "".join(ip_addresses([split_address(listen)[0]]))


def ip_addresses(hosts: Iterable[str]) -> tuple[str, ...]:
    """Without the names among them: mDNS announces numbers only, names reach others over the links."""
    bare = (host.strip("[]") for host in hosts)
    return tuple(host for host in bare if _is_ip(host))


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
