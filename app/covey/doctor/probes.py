"""Looks at the network for network.py: sends and hears multicast, tries ports, listens to announcements.

Harmless while an agent runs: it shares port 5353, and binds other ports for a moment only to see whether it could.
"""

from __future__ import annotations

import asyncio
import contextlib
import platform
import secrets
import select
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from zeroconf import DNSOutgoing, DNSQuestion
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from covey.doctor.interface import Surroundings
from covey.doctor.network import MulticastProbe, PortProbe, Seen
from covey_mesh.core.addresses import InterfaceAddress, one_per_interface
from covey_mesh.core.advertisement import NAME_BYTES_MAX, SERVICE_TYPE, clean_text
from covey_mesh.core.names import NodeId, is_id
from covey_mesh.io.multicast import group_address, open_mdns_socket
from covey_mesh.io.service_browser import ServiceBrowser

LISTEN_S = 1.5
"""Responders wait up to 0.12 s (0.5 s when they batch); slow Wi-Fi delivers multicast a few hundred ms late."""

HEARD_MAX = 16
SEEN_MAX = 256
RESOLVE_TIMEOUT_S = 3.0
"""mDNS answers within one; who waits longer for a name takes it for broken."""

_CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv")
_TYPE_PTR, _CLASS_IN = 12, 1
_ALL_SERVICES = "_services._dns-sd._udp.local."


def probe_multicast(addresses: Sequence[InterfaceAddress], listen_s: float = LISTEN_S) -> list[MulticastProbe]:
    """Ask on each interface who is there, and note who is heard: this machine itself, and others."""
    probes: list[MulticastProbe] = []
    listening: dict[socket.socket, tuple[InterfaceAddress, bytes]] = {}
    own = {one.address for one in addresses}
    with contextlib.ExitStack() as stack:
        for interface in one_per_interface(addresses):
            try:
                opened = stack.enter_context(contextlib.closing(open_mdns_socket(interface)))
                question = _question()
                opened.sendto(question, group_address(interface))
            except OSError as error:
                probes.append(MulticastProbe(interface.interface, _family(interface), str(error)))
            else:
                listening[opened] = (interface, question)
        heard = _listen(listening, own, listen_s)
        for opened, (interface, _) in listening.items():
            heard_own, others = heard[opened]
            probes.append(MulticastProbe(interface.interface, _family(interface), "", heard_own, tuple(sorted(others))))
    return probes


def _listen(
    listening: Mapping[socket.socket, tuple[InterfaceAddress, bytes]], own: set[str], listen_s: float
) -> dict[socket.socket, tuple[bool, set[str]]]:
    heard_own: set[socket.socket] = set()
    others: dict[socket.socket, set[str]] = {opened: set() for opened in listening}
    deadline = time.monotonic() + listen_s
    while listening and (left_s := deadline - time.monotonic()) > 0:
        for opened in select.select(list(listening), [], [], left_s)[0]:
            with contextlib.suppress(OSError):
                datagram, source = opened.recvfrom(9000)
                host = source[0].partition("%")[0]
                if datagram == listening[opened][1]:
                    heard_own.add(opened)
                elif host not in own and len(others[opened]) < HEARD_MAX:
                    others[opened].add(host)
    return {opened: (opened in heard_own, others[opened]) for opened in listening}


def _question() -> bytes:
    """A query that any mDNS responder answers; its random id, which responders ignore, tells ours from all others."""
    query = DNSOutgoing(0, multicast=False, id_=secrets.randbelow(2**16))
    for name in (_ALL_SERVICES, SERVICE_TYPE):
        query.add_question(DNSQuestion(name, _TYPE_PTR, _CLASS_IN))
    return query.packets()[0]


def _family(interface: InterfaceAddress) -> str:
    return "IPv6" if interface.is_ipv6 else "IPv4"


def probe_ports(listens: Mapping[str, str]) -> list[PortProbe]:
    """`listens`: setting -> HOST:PORT. Binds and lets go at once."""
    return [PortProbe(purpose, address, _bind_error(address)) for purpose, address in listens.items()]


def _bind_error(address: str) -> int:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        # As the agent does: a connection that has just ended does not count.
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, int(port)))
            tried.listen(1)
        except OSError as error:
            return error.errno or -1
    return 0


async def browse(addresses: Sequence[InterfaceAddress], listen_s: float = LISTEN_S) -> list[Seen]:
    """Who announces covey on this network, of whatever pool. Raises OSError where mDNS cannot be opened."""
    seen: dict[tuple[str, NodeId, tuple[str, ...]], Seen] = {}

    def found(instance: str, info: AsyncServiceInfo) -> None:
        claimed = (info.properties.get(b"id") or b"").decode("ascii", "replace")
        if is_id(claimed) and len(seen) < SEEN_MAX:
            name = clean_text((info.properties.get(b"name") or b"").decode("utf-8", "replace"), NAME_BYTES_MAX)
            hosts = tuple(sorted(info.parsed_addresses()))[:HEARD_MAX]
            one = Seen(instance, NodeId(claimed), name, hosts)
            seen[instance, one.node_id, hosts] = one

    opened = AsyncZeroconf(interfaces=[one.address for one in one_per_interface(addresses)])
    browser = ServiceBrowser(SERVICE_TYPE, found, lambda _: None)
    try:
        browser.start(opened.zeroconf)
        await asyncio.sleep(listen_s)
    finally:
        await browser.stop()
        await opened.async_close()
    return list(seen.values())


async def resolve(host: str, timeout_s: float = RESOLVE_TIMEOUT_S) -> list[str]:
    """What an ordinary program on this machine gets for a name; empty when nothing or too late.

    In a thread of its own: the loop's executor would wait, at the end of the program, for a name server that is silent.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[str]] = loop.create_future()

    def settle(addresses: list[str]) -> None:
        if not found.done():
            found.set_result(addresses)

    def look_up() -> None:
        addresses = _resolved(host.rstrip("."))
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, addresses)

    threading.Thread(target=look_up, name="resolve", daemon=True).start()
    try:
        async with asyncio.timeout(timeout_s):
            return await found
    except TimeoutError:
        return []


def _resolved(host: str) -> list[str]:
    try:
        return sorted({str(one[4][0]) for one in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)})
    except OSError:
        return []


def clock_synchronized() -> bool | None:
    """Whether systemd says so; None where it cannot be asked."""
    try:
        command = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {"yes": True, "no": False}.get(said)


def surroundings() -> Surroundings:
    """By the marks that WSL and container engines leave."""
    return Surroundings(
        wsl="microsoft" in platform.release().lower(),
        container=any(Path(mark).exists() for mark in _CONTAINER_MARKS),
    )
