"""Answers for `<pool>.local` while this machine's gateway serves: one URL for the office, no DNS server.

A responder of its own rather than python-zeroconf's, which marks every address record as unique: two machines'
records would displace each other in every cache. What is answered when is decided in covey_mesh.core.pool_name.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import random
import socket
from collections.abc import Callable, Iterable

from zeroconf import DNSAddress, DNSIncoming, DNSOutgoing, DNSQuestion

from covey_mesh.core.addresses import (
    AddressKind,
    InterfaceAddress,
    answering,
    kind_of,
    one_per_interface,
    usable_addresses,
)
from covey_mesh.core.pool_name import (
    POOL_NAME_TTL_S,
    TYPE_A,
    TYPE_AAAA,
    KnownAnswer,
    PoolNameAnswers,
    Question,
    pool_host,
)
from covey_mesh.io.discovery import boottime_s
from covey_mesh.io.interfaces import InterfaceMonitor
from covey_mesh.io.multicast import MDNS_PORT, group_address, on_link, open_mdns_socket

log = logging.getLogger(__name__)

RETRY_INTERVAL_S = 5.0
DATAGRAM_BYTES_MAX = 9000
DATAGRAMS_PER_TURN_MAX = 64
"""Read in one turn of the event loop; a flood must not keep it from its other work."""

_CLASS_IN = 1
_FLAGS_AUTHORITATIVE_RESPONSE = 0x8400


class PoolName:
    """Publishes this machine's addresses under the pool's name, from `publish` until `withdraw` or `stop`.

    Withdraw while the gateway drains or does not listen on the LAN; publish when it serves. All calls on the event
    loop's thread; both return at once.
    """

    def __init__(
        self,
        pool_name: str,
        monitor: InterfaceMonitor,
        *,
        listen_host: str = "",
        loopback_only: bool = False,
        clock: Callable[[], float] = boottime_s,
    ) -> None:
        """`listen_host`: where the gateway listens; only addresses on which it answers are published.

        Raises ValueError for a name that cannot be a host name.
        """
        self.host = pool_host(pool_name)
        self._monitor = monitor
        self._listen_host = listen_host
        self._loopback_only = loopback_only
        self._clock = clock
        self._responders: dict[InterfaceAddress, _Responder] = {}
        self._unsubscribe: Callable[[], None] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._failed = False

    @property
    def published(self) -> bool:
        """True between `publish` and `withdraw`."""
        return self._unsubscribe is not None

    def publish(self) -> None:
        """Announce, and answer from now on. Safe to call twice."""
        if self._unsubscribe is None:
            self._unsubscribe = self._monitor.subscribe(lambda _: self._follow())
            self._follow()

    def withdraw(self) -> None:
        """Say goodbye: clients drop this machine within a second. Safe to call twice."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        for responder in self._responders.values():
            responder.close()
        self._responders.clear()

    async def stop(self) -> None:
        """Withdraw."""
        self.withdraw()

    def _addresses(self) -> tuple[InterfaceAddress, ...]:
        found = self._monitor.current
        if self._loopback_only:
            found = tuple(one for one in found if kind_of(one) is AddressKind.LOOPBACK)
        return usable_addresses(answering(found, self._listen_host))

    def _follow(self) -> None:
        """One responder for each (interface, family), each with the addresses of its interface."""
        addresses = self._addresses()
        wanted = {one: [a.address for a in addresses if a.index == one.index] for one in one_per_interface(addresses)}
        for gone in set(self._responders) - set(wanted):
            self._responders.pop(gone).close()
        problem = None
        for interface, own in wanted.items():
            try:
                if interface not in self._responders:
                    self._responders[interface] = _Responder(self.host, interface, self._clock)
                self._responders[interface].set_addresses(own)
            except OSError as error:
                problem = error
        self._report(problem)

    def _report(self, problem: OSError | None) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if problem is not None:
            if not self._failed:
                log.warning(
                    "cannot answer for the pool's name here; use this machine's address instead. "
                    "`covey doctor` says what blocks multicast",
                    extra={"host": self.host, "error": str(problem), "retry_s": RETRY_INTERVAL_S},
                )
            self._retry = asyncio.get_running_loop().call_later(RETRY_INTERVAL_S, self._follow)
        self._failed = problem is not None


class _Responder:
    """The socket of one interface and family."""

    def __init__(self, host: str, interface: InterfaceAddress, clock: Callable[[], float]) -> None:
        self._host = host
        self._interface = interface
        self._clock = clock
        self._answers = PoolNameAnswers(host)
        self._socket = open_mdns_socket(interface)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def set_addresses(self, addresses: Iterable[str]) -> None:
        wanted = tuple(addresses)
        if wanted == self._answers.addresses:
            return
        gone = self._answers.set_addresses(wanted, self._clock())
        if gone:
            self._multicast(gone, ttl_s=0)
        self._schedule()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._multicast(self._answers.addresses, ttl_s=0)
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _readable(self) -> None:
        for _ in range(DATAGRAMS_PER_TURN_MAX):
            try:
                datagram, source = self._socket.recvfrom(DATAGRAM_BYTES_MAX)
            except OSError:
                # Nothing more to read, or an error of an earlier send.
                return
            self._received(datagram, source)

    def _received(self, datagram: bytes, source: tuple[str, int] | tuple[str, int, int, int]) -> None:
        query = DNSIncoming(datagram)
        if not (query.valid and query.is_query()):
            return
        questions = [Question(one.name, one.type) for one in query.questions]
        known = [
            KnownAnswer(record.name, _address_text(record.address), record.ttl)
            for record in query.answers()
            if isinstance(record, DNSAddress)
        ]
        if not self._answers.asks_for_us(questions, known):
            return
        if source[1] == MDNS_PORT:
            self._answers.asked(self._clock(), random.random())
            self._schedule()
        elif on_link(source[0], self._interface) and self._answers.asked_by_unicast(self._clock()):
            self._send(self._message(self._answers.addresses, POOL_NAME_TTL_S, query), source)

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_at_s = self._answers.due_at_s()
        if due_at_s is not None:
            self._timer = self._loop.call_later(max(0.0, due_at_s - self._clock()), self._due)

    def _due(self) -> None:
        self._timer = None
        self._multicast(self._answers.addresses, POOL_NAME_TTL_S)
        self._answers.sent(self._clock())
        self._schedule()

    def _multicast(self, addresses: tuple[str, ...], ttl_s: int) -> None:
        if addresses:
            self._send(self._message(addresses, ttl_s), group_address(self._interface))

    def _message(self, addresses: tuple[str, ...], ttl_s: int, query: DNSIncoming | None = None) -> DNSOutgoing:
        """Our records, without the cache-flush bit; with a `query`, as a plain DNS answer to it (RFC 6762, 6.7)."""
        message = DNSOutgoing(_FLAGS_AUTHORITATIVE_RESPONSE, query is None, query.id if query is not None else 0)
        if query is not None:
            for question in query.questions:
                message.add_question(DNSQuestion(question.name, question.type, _CLASS_IN))
        for address in addresses:
            packed = ipaddress.ip_address(address).packed
            kind = TYPE_AAAA if len(packed) == 16 else TYPE_A
            message.add_answer_at_time(DNSAddress(self._host, kind, _CLASS_IN, ttl_s, packed), 0)
        return message

    def _send(self, message: DNSOutgoing, target: tuple[str, int] | tuple[str, int, int, int]) -> None:
        for packet in message.packets():
            try:
                self._socket.sendto(packet, target)
            except OSError as error:
                # The interface is going away, or its queue is full: the next query is answered again.
                log.debug("not sent", extra={"interface": self._interface.interface, "error": str(error)})


def _address_text(packed: bytes) -> str:
    try:
        return socket.inet_ntop(socket.AF_INET6 if len(packed) == 16 else socket.AF_INET, packed)
    except ValueError:
        return ""
