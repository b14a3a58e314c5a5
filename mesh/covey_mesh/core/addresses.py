"""Which of this machine's addresses others should dial: classify, filter, rank. Pure functions over what was read.

Reading the interfaces is covey_mesh.io.interfaces. Names decide only where a name is a convention of the software
that made the interface (docker0, tailscale0); a plain veth or eth says nothing, containers and namespaces use both.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

ADVERTISED_ADDRESSES_MAX = 8
"""Addresses that one machine offers; a host with more (many IPv6 prefixes) offers its best ones."""


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """One address of one interface. `address` has no scope suffix; `index` is the kernel's interface number."""

    interface: str
    address: str
    prefix_length: int
    index: int = 0
    has_carrier: bool = True

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.address


class AddressKind(enum.IntEnum):
    """What an address is good for, best first. Only the best kind present is offered."""

    LAN = 0
    VPN = 1
    LINK_LOCAL = 2
    CONTAINER = 3
    LOOPBACK = 4
    UNUSABLE = 5


_CONTAINER_NAMES = re.compile(
    r"docker\d|docker_gwbridge|br-[0-9a-f]{6,}$|virbr\d|lxcbr\d|lxdbr\d|incusbr\d|podman\d|cni|flannel|cali|vboxnet"
    r"|vmnet\d|vEthernet|hassio"
)
_VPN_NAMES = re.compile(
    r"tailscale|ts\d|wg|tun|tap\d|utun|zt|ppp|ipsec|nordlynx|nebula|warp|cloudflarewarp", re.IGNORECASE
)
_CARRIER_GRADE_NAT = ipaddress.ip_network("100.64.0.0/10")
"""Tailscale and other overlay networks number their machines here (RFC 6598)."""


def kind_of(found: InterfaceAddress) -> AddressKind:
    """What this address is good for; UNUSABLE also for text that is no address."""
    try:
        address = ipaddress.ip_address(found.address)
    except ValueError:
        return AddressKind.UNUSABLE
    if address.is_loopback:
        return AddressKind.LOOPBACK
    if address.is_unspecified or address.is_multicast:
        return AddressKind.UNUSABLE
    if _CONTAINER_NAMES.match(found.interface):
        return AddressKind.CONTAINER
    if _VPN_NAMES.match(found.interface) or (address.version == 4 and address in _CARRIER_GRADE_NAT):
        return AddressKind.VPN
    return AddressKind.LINK_LOCAL if address.is_link_local else AddressKind.LAN


def usable_addresses(
    found: Iterable[InterfaceAddress], *, include_loopback: bool = False, include_vpn: bool = False
) -> tuple[InterfaceAddress, ...]:
    """The addresses to offer, best first, at most ADVERTISED_ADDRESSES_MAX.

    The best kind present is kept and the others are dropped. `include_loopback` adds loopback behind it (several
    agents on one machine); `include_vpn` adds VPN addresses (dial lists that travel beyond this LAN).
    """
    by_kind: dict[AddressKind, list[InterfaceAddress]] = {}
    for one in found:
        by_kind.setdefault(kind_of(one), []).append(one)
    by_kind.pop(AddressKind.UNUSABLE, None)
    if not by_kind:
        return ()
    kept = {min(by_kind)}
    if include_vpn:
        kept.add(AddressKind.VPN)
    if include_loopback:
        kept.add(AddressKind.LOOPBACK)
    # The bound must not cut off the loopback that was asked for, so its place is kept.
    # One loopback address is enough, and 127.0.0.1 is the one that every program listens on.
    loopback = sorted(by_kind.get(AddressKind.LOOPBACK, ()), key=_preference)[: AddressKind.LOOPBACK in kept]
    rest = sorted((a for k in kept - {AddressKind.LOOPBACK} for a in by_kind.get(k, ())), key=_preference)
    room = max(0, ADVERTISED_ADDRESSES_MAX - len(loopback))
    return tuple((rest[:room] + loopback)[:ADVERTISED_ADDRESSES_MAX])


def _preference(one: InterfaceAddress) -> tuple[object, ...]:
    """Smaller is better: has a cable, kind, IPv4 (every engine and proxy speaks it), then a stable order."""
    address = ipaddress.ip_address(one.address)
    return (not one.has_carrier, kind_of(one), address.version, not address.is_private, one.index, int(address))


def answering(addresses: Iterable[InterfaceAddress], listen_host: str) -> tuple[InterfaceAddress, ...]:
    """Those of the addresses on which a listener on `listen_host` answers: an address, "0.0.0.0", "::" or "" (both).

    An address that is announced and refuses would be taken for a process that is gone.
    """
    if listen_host in ("::", ""):
        return tuple(addresses)
    if listen_host == "0.0.0.0":
        return tuple(one for one in addresses if not one.is_ipv6)
    return tuple(one for one in addresses if one.address == listen_host)


def one_per_interface(addresses: Iterable[InterfaceAddress]) -> tuple[InterfaceAddress, ...]:
    """The first address of each (interface, family): a multicast group is joined once per interface."""
    seen: dict[tuple[str, bool], InterfaceAddress] = {}
    for one in addresses:
        seen.setdefault((one.interface, one.is_ipv6), one)
    return tuple(seen.values())


def host_port(address: str, port: int) -> str:
    """HOST:PORT, with brackets around IPv6 (a scope suffix stays inside them)."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def nearest_first(addresses: Iterable[str], own: Iterable[InterfaceAddress]) -> tuple[str, ...]:
    """A peer's addresses with those on one of our own subnets first; otherwise the given order. Drops non-addresses."""
    networks = [ipaddress.ip_network(f"{one.address}/{one.prefix_length}", strict=False) for one in own]
    ranked: list[tuple[bool, int, str]] = []
    for position, text in enumerate(addresses):
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            continue
        if not (address.is_unspecified or address.is_multicast):
            ranked.append((not any(address in network for network in networks), position, text))
    return tuple(text for _, _, text in sorted(ranked))
