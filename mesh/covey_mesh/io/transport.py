"""Links as gRPC over mutual TLS: the one Transport of real pools. Ties accepting and dialing together.

The two ends of a pair may both dial: this module reports every link, which one stays is the mesh's to decide
(Link.close(LinkLoss.REPLACED)). Not here: discovery, liveness policy, election.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

from covey_mesh.core.exchange import OpenRequest
from covey_mesh.core.facts import NodeFacts
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import LinkEvents, LinkLoss
from covey_mesh.io.accepting import Acceptor, ListenError
from covey_mesh.io.data_accepting import DataAcceptor
from covey_mesh.io.data_dialing import DataDialer
from covey_mesh.io.dialing import Dialer
from covey_mesh.io.identity import Identity
from covey_mesh.io.link import GrpcLink
from covey_mesh.io.tls_probe import client_context

DIALS_AT_ONCE_MAX = 64
"""Handshakes under way; further dials wait their turn."""

DIALS_WAITING_MAX = 4096
CLOSE_TIMEOUT_S = 2.0

__all__ = ["GrpcTransport", "ListenError"]

_log = logging.getLogger(__name__)


class GrpcTransport:
    """See covey_mesh.core.ports.Transport. `start` opens the port; `close` ends every link with a goodbye.

    `listen` is HOST:PORT (port 0: any; then say it in the facts with `set_facts`), `data_port` that of data channels on
    the same host (0: any, None: no data channels, everything goes over gRPC). `revoked` is asked at every connect
    and by `close_revoked`. `events` may be given later with `report_to`, before `start`.
    """

    def __init__(
        self,
        identity: Identity,
        events: LinkEvents | None,
        listen: str,
        facts: NodeFacts,
        revoked: Callable[[NodeId], bool] = lambda _: False,
        data_port: int | None = None,
    ) -> None:
        self._identity = identity
        self._events = events
        self._listen = listen
        self._facts = facts
        self._handler: OpenRequest | None = None
        self._revoked = revoked
        self._links: set[GrpcLink] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._dial_turns = asyncio.Semaphore(DIALS_AT_ONCE_MAX)
        self._wanted_data_port = data_port
        self._data_dialer = DataDialer(identity)
        self._data_acceptor = DataAcceptor(lambda: self._identity, revoked, self.links)
        self._dialer = self._make_dialer()
        self._acceptor = Acceptor(
            lambda: self._identity,
            self._events_now,
            lambda: self._facts,
            lambda: self._handler,
            revoked,
            self._accepted,
            self.links,
            self._data_acceptor.new_ticket,
        )
        self._port = 0
        self._closing = False

    @property
    def port(self) -> int:
        """Where this transport listens, once started."""
        return self._port

    @property
    def data_port(self) -> int:
        """Where data channels are taken, once started; 0: nowhere. Say it in the facts with `set_facts`."""
        return self._data_acceptor.port

    def links(self) -> list[GrpcLink]:
        """Every link that is up."""
        return list(self._links)

    def report_to(self, events: LinkEvents) -> None:
        """Whoever is to hear of links from now on."""
        self._events = events

    async def start(self) -> None:
        """Raises ListenError."""
        self._port = await self._acceptor.start(self._listen)
        if self._wanted_data_port is None:
            return
        host = self._listen.rpartition(":")[0].strip("[]")
        try:
            self._data_acceptor.start(host, self._wanted_data_port)
        except OSError as error:
            _log.warning("no data port; answers travel over gRPC", extra={"host": host, "reason": str(error)})

    async def close(self) -> None:
        """End every link and dial, then the port."""
        self._closing = True
        for link in self.links():
            link.close(LinkLoss.CLOSED)
        for task in list(self._connecting):
            task.cancel()
        if self._tasks:
            _, late = await asyncio.wait(set(self._tasks), timeout=CLOSE_TIMEOUT_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._data_acceptor.stop()
        await self._acceptor.stop()

    def dial(self, address: str, expected: NodeId | None) -> None:
        """Connect to HOST:PORT; ends in `up` or `dial_failed`."""
        if self._closing:
            return
        if len(self._connecting) >= DIALS_WAITING_MAX:
            events = self._events_now()
            loop = asyncio.get_running_loop()
            loop.call_soon(events.dial_failed, address, LinkLoss.CLOSED, "too many dials are waiting here")
            return
        task = asyncio.get_running_loop().create_task(self._dial(address, expected))
        self._tasks.add(task)
        self._connecting.add(task)
        task.add_done_callback(self._dial_done)

    def set_facts(self, facts: NodeFacts) -> None:
        """For Hellos from now on."""
        self._facts = facts

    def serve_requests(self, handler: OpenRequest) -> None:
        """Attempts that peers open here go to `handler`."""
        self._handler = handler

    def close_revoked(self) -> None:
        """End the links of machines that were removed from the pool."""
        for link in self.links():
            if self._revoked(link.peer):
                link.close(LinkLoss.UNTRUSTED)

    def replace_identity(self, identity: Identity) -> None:
        """A renewed certificate of the same machine: used from the next handshake on, open links stay."""
        self._identity = identity
        self._dialer = self._make_dialer()
        self._data_dialer.renew(identity)
        self._data_acceptor.renew()

    def _make_dialer(self) -> Dialer:
        own = self._identity
        return Dialer(
            own, client_context(own), self._events_now, lambda: self._facts, lambda: self._handler, self._revoked,
            self._data_dialer,
        )  # fmt: skip

    def _events_now(self) -> LinkEvents:
        assert self._events is not None, "report_to comes before start"
        return self._events

    async def _dial(self, address: str, expected: NodeId | None) -> None:
        async with self._dial_turns:
            dialed = await self._dialer.connect(address, expected)
        if dialed is None:
            return
        self._connecting.discard(cast("asyncio.Task[None]", asyncio.current_task()))
        self._links.add(dialed.link)
        try:
            await dialed.run()
        finally:
            self._links.discard(dialed.link)

    def _dial_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._connecting.discard(task)
        _raise_loudly(task)

    def _accepted(self, link: GrpcLink) -> asyncio.Task[LinkLoss]:
        task = asyncio.get_running_loop().create_task(link.run())
        self._links.add(link)
        self._data_acceptor.link_up()
        self._tasks.add(task)

        def done(finished: asyncio.Task[LinkLoss]) -> None:
            self._links.discard(link)
            self._tasks.discard(finished)
            _raise_loudly(finished)

        task.add_done_callback(done)
        return task


def _raise_loudly(task: asyncio.Task[Any]) -> None:
    """A task that failed is our bug: hand it to the loop's exception handler at once, not at garbage collection."""
    if not task.cancelled() and task.exception() is not None:
        context = {"message": "a link's task failed", "exception": task.exception(), "task": task}
        task.get_loop().call_exception_handler(context)
