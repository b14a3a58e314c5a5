"""One UDP socket for mDNS on one interface and one address family: joins the group there and hears only that.

Bound to the group's address and not to the wildcard, so that unicast answers meant for another mDNS program on this
machine (avahi, python-zeroconf) never end up here.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct

from covey_mesh.core.addresses import InterfaceAddress

MDNS_PORT = 5353
GROUP_IPV4 = "224.0.0.251"
GROUP_IPV6 = "ff02::fb"

_HOPS = 255
"""RFC 6762 section 11: what has crossed a router is recognised by its smaller number."""

# Linux: deliver only groups joined on this very socket; Python's socket module does not name them in 3.11.
_IP_MULTICAST_ALL = 49
_IPV6_MULTICAST_ALL = 29


def open_mdns_socket(interface: InterfaceAddress) -> socket.socket:
    """A non-blocking socket on that interface; OSError if the interface is gone or cannot multicast."""
    family = socket.AF_INET6 if interface.is_ipv6 else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_DGRAM)
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(AttributeError, OSError):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        (_join_ipv6 if interface.is_ipv6 else _join_ipv4)(opened, interface.index)
    except OSError:
        opened.close()
        raise
    return opened


def group_address(interface: InterfaceAddress) -> tuple[str, int] | tuple[str, int, int, int]:
    """Where to send what everybody on that interface should hear."""
    return (GROUP_IPV6, MDNS_PORT, 0, interface.index) if interface.is_ipv6 else (GROUP_IPV4, MDNS_PORT)


def on_link(source: str, interface: InterfaceAddress) -> bool:
    """True if the sender is on the interface's own subnet (or link-local): others must not be answered."""
    try:
        address = ipaddress.ip_address(source.partition("%")[0])
    except ValueError:
        return False
    network = ipaddress.ip_network(f"{interface.address}/{interface.prefix_length}", strict=False)
    return address.is_link_local or address in network


def _join_ipv4(opened: socket.socket, index: int) -> None:
    with contextlib.suppress(OSError):
        opened.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
    # struct ip_mreqn: group, local address (any), interface index.
    request = struct.pack("=4s4si", socket.inet_aton(GROUP_IPV4), bytes(4), index)
    opened.bind((GROUP_IPV4, MDNS_PORT))
    opened.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
    opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
    opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _HOPS)
    opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)


def _join_ipv6(opened: socket.socket, index: int) -> None:
    with contextlib.suppress(OSError):
        opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
    opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    opened.bind((GROUP_IPV6, MDNS_PORT, 0, index))
    request = socket.inet_pton(socket.AF_INET6, GROUP_IPV6) + struct.pack("@I", index)
    opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
    opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _HOPS)
    opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
