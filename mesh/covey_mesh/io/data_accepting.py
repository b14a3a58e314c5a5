"""The accepting side of data channels: a TLS port for machines of the pool that have a link here already.

A connection must finish TLS, prove by its certificate who it is, and show the ticket of a link of just that machine,
all within ADMIT_TIMEOUT_S; it gets no byte before that. How many may be at it is bounded, in all and from one address.
Not here: dialing (data_dialing.py), the channel itself (data_stream.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import logging
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable

from covey_mesh.core.greeting import object_to_peer
from covey_mesh.core.names import NodeId
from covey_mesh.io.data_stream import DATA_PROTOCOL, END_TIMEOUT_S, DataStream
from covey_mesh.io.hello import TICKET_BYTES
from covey_mesh.io.identity import Identity
from covey_mesh.io.link import GrpcLink
from covey_mesh.io.link_errors import LogBound
from covey_mesh.io.tls_probe import NotALinkError, checked_peer, server_context

ADMIT_TIMEOUT_S = 5.0
"""As long as the link port gives a handshake."""

ADMITTING_MAX = 256
ADMITTING_PER_ADDRESS_MAX = 16
BACKLOG = 128
ACCEPT_PAUSE_S = 0.1
"""After an accept that failed."""

_log = logging.getLogger(__name__)


class _RefusedError(Exception):
    """No data channel for this connection; the message says why."""


class DataAcceptor:
    """`start` opens the port. Links get their tickets here (`new_ticket`) and are told of once up (`link_up`)."""

    def __init__(
        self, identity: Callable[[], Identity], revoked: Callable[[NodeId], bool], links: Callable[[], list[GrpcLink]]
    ) -> None:
        self._identity = identity
        self._revoked = revoked
        self._links = links
        self._log_bound = LogBound()
        self._accepting: asyncio.Task[None] | None = None
        self._admitting: set[asyncio.Task[None]] = set()
        self._hosts: Counter[str] = Counter()
        self._link_came = asyncio.Event()
        self._port = 0

    @property
    def port(self) -> int:
        """0 while it is not open."""
        return self._port

    def start(self, host: str, port: int) -> None:
        """On `port`, or any free one where another program has it: peers learn it from the Hello. Raises OSError."""
        self._tls = server_context(self._identity(), DATA_PROTOCOL)
        listener = _listen(host, port)
        self._accepting = asyncio.get_running_loop().create_task(self._accept(listener))
        self._accepting.add_done_callback(_raise_loudly)
        self._port = int(listener.getsockname()[1])
        if port and self._port != port:
            _log.info("data port taken; another is used", extra={"wanted": port, "port": self._port})

    def renew(self) -> None:
        """For handshakes from now on, the identity's new certificate."""
        if self._port:
            self._tls = server_context(self._identity(), DATA_PROTOCOL)

    def new_ticket(self) -> bytes:
        return secrets.token_bytes(TICKET_BYTES) if self._port else b""

    def link_up(self) -> None:
        """Whoever showed its ticket early may come in."""
        self._link_came.set()
        self._link_came = asyncio.Event()

    async def stop(self) -> None:
        """Nothing is accepted any more; channels in use are their links' to end."""
        self._port = 0
        tasks = [*self._admitting, *([self._accepting] if self._accepting is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.closing(listener):
            while True:
                try:
                    connection, address = await loop.sock_accept(listener)
                except OSError as error:  # out of file descriptors, or it went away at once
                    _log.debug("data channel not accepted", extra={"reason": str(error)})
                    await asyncio.sleep(ACCEPT_PAUSE_S)
                    continue
                self._take(connection, str(address[0]))

    def _take(self, connection: socket.socket, host: str) -> None:
        """A TCP connection, nothing of it read."""
        if len(self._admitting) >= ADMITTING_MAX or self._hosts[host] >= ADMITTING_PER_ADDRESS_MAX:
            connection.close()
            return
        task = asyncio.get_running_loop().create_task(self._admit(connection, host))
        self._admitting.add(task)
        self._hosts[host] += 1

        def done(finished: asyncio.Task[None]) -> None:
            self._admitting.discard(finished)
            self._hosts[host] -= 1
            self._hosts += Counter()  # forgets those at zero
            _raise_loudly(finished)

        task.add_done_callback(done)

    async def _admit(self, connection: socket.socket, host: str) -> None:
        stream = DataStream()
        try:
            async with asyncio.timeout(ADMIT_TIMEOUT_S):
                await asyncio.get_running_loop().connect_accepted_socket(
                    lambda: stream, connection, ssl=self._tls, ssl_shutdown_timeout=END_TIMEOUT_S
                )
                link = await self._link_of(stream)
        except (OSError, TimeoutError, NotALinkError, _RefusedError) as error:
            stream.abort()
            if self._log_bound.allows(host, time.monotonic()):
                _log.info("data channel refused", extra={"host": host, "reason": str(error) or type(error).__name__})
        except asyncio.CancelledError:
            stream.abort()
            raise
        else:
            link.use(stream)

    async def _link_of(self, stream: DataStream) -> GrpcLink:
        """Raises NotALinkError, _RefusedError."""
        own = self._identity()
        peer = checked_peer(stream.tls, own, time.time(), DATA_PROTOCOL)
        objection = object_to_peer(own.node_id, peer, self._revoked)
        if objection is not None:
            raise _RefusedError(objection.detail)
        try:
            ticket = await asyncio.shield(stream.ticket)
        except asyncio.CancelledError:
            if stream.ticket.cancelled():
                raise _RefusedError("it went away") from None
            raise
        while True:
            for link in self._links():
                if link.peer == peer and hmac.compare_digest(link.data_ticket, ticket):
                    return link
            await self._link_came.wait()


def _raise_loudly(task: asyncio.Task[None]) -> None:
    """A task that failed is our bug."""
    if not task.cancelled() and task.exception() is not None:
        context = {"message": "a data port's task failed", "exception": task.exception(), "task": task}
        task.get_loop().call_exception_handler(context)


def _listen(host: str, port: int) -> socket.socket:
    """Raises OSError."""
    try:
        return _bound(host, port)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or port == 0:
            raise
        return _bound(host, 0)


def _bound(host: str, port: int) -> socket.socket:
    if ":" in host:
        listener = socket.create_server(
            (host, port), family=socket.AF_INET6, dualstack_ipv6=host == "::", backlog=BACKLOG
        )
    else:
        listener = socket.create_server((host, port), backlog=BACKLOG)
    listener.setblocking(False)
    return listener
