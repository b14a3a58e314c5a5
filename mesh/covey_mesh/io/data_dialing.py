"""The dialing side of data channels: while a link that was dialed is up, see that it has one.

A port that cannot be reached costs nothing but the gain: the link goes on over gRPC, the log says so once for each
machine, and it is tried again after RETRY_S, less and less often. A channel that came to an end while its link was well
is not opened again for RETRY_S either, so that something on the way which cuts such connections does not cut links
without end. Not here: accepting (data_accepting.py), the channel itself (data_stream.py).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict

from covey_mesh.core.limits import PEERS_MAX
from covey_mesh.core.names import NodeId, short
from covey_mesh.io.data_stream import DATA_PROTOCOL, END_TIMEOUT_S, DataStream
from covey_mesh.io.identity import Identity
from covey_mesh.io.link import GrpcLink
from covey_mesh.io.link_errors import loss_of_connect
from covey_mesh.io.tls_probe import CONNECT_TIMEOUT_S, HANDSHAKE_TIMEOUT_S, NotALinkError, checked_peer, client_context

MOVE_TIMEOUT_S = 10.0
"""For the other side's word, over gRPC, that it has moved. Longer than it has for admitting (data_accepting.py): a side
that gives up on a peer that has moved meanwhile loses the link."""

RETRY_S = 60.0
RETRY_MAX_S = 600.0

_log = logging.getLogger(__name__)


class DataChannelError(Exception):
    """There is no data channel; the message says why."""


class DataDialer:
    """One a transport; `keep` runs beside each dialed link."""

    def __init__(self, identity: Identity) -> None:
        self._told: OrderedDict[NodeId, None] = OrderedDict()
        self._resting: OrderedDict[tuple[NodeId, int], float] = OrderedDict()
        self.renew(identity)

    def renew(self, identity: Identity) -> None:
        """For channels from now on."""
        self._identity = identity
        self._tls = client_context(identity, DATA_PROTOCOL)

    async def keep(self, link: GrpcLink, host: str) -> None:
        """Until the link has moved, or has nothing to move to. `host`: where the link's own connection went."""
        await asyncio.sleep(self._rest_s(link))
        pause_s = RETRY_S
        while link.data_ticket and link.facts.data_port:
            try:
                await self._move(link, host)
            except DataChannelError as error:
                self._tell(link.peer, f"{host} port {link.facts.data_port}", str(error))
            else:
                self._told.pop(link.peer, None)
                return
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_MAX_S)

    def ended(self, link: GrpcLink) -> None:
        """Its data channel came to an end, or fell silent, and its gRPC stream had not."""
        self._resting[link.peer, link.facts.incarnation] = time.monotonic() + RETRY_S
        if len(self._resting) > PEERS_MAX:
            self._resting.popitem(last=False)

    def _rest_s(self, link: GrpcLink) -> float:
        """A restarted machine is not blamed for the end of what it was."""
        return self._resting.pop((link.peer, link.facts.incarnation), 0.0) - time.monotonic()

    async def _move(self, link: GrpcLink, host: str) -> None:
        """Raises DataChannelError."""
        stream = await self._connect(link.peer, host, link.facts.data_port)
        moved = link.use(stream)
        stream.send_ticket(link.data_ticket)
        try:
            async with asyncio.timeout(MOVE_TIMEOUT_S):
                if not await asyncio.shield(moved):
                    raise DataChannelError("the other machine closed the connection")
        except TimeoutError:
            link.give_up(stream)
            raise DataChannelError("connected, but nothing came of it") from None

    async def _connect(self, peer: NodeId, host: str, port: int) -> DataStream:
        """Raises DataChannelError."""
        stream = DataStream()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S + HANDSHAKE_TIMEOUT_S):
                await asyncio.get_running_loop().create_connection(
                    lambda: stream,
                    host,
                    port,
                    ssl=self._tls,
                    server_hostname="covey",
                    ssl_shutdown_timeout=END_TIMEOUT_S,
                )
            found = checked_peer(stream.tls, self._identity, time.time(), DATA_PROTOCOL)
        except (OSError, TimeoutError) as error:
            raise DataChannelError(loss_of_connect(error)[1]) from error
        except NotALinkError as error:
            stream.abort()
            raise DataChannelError(str(error)) from error
        if found != peer:
            stream.abort()
            raise DataChannelError(f"machine {short(found)} answers there")
        return stream

    def _tell(self, peer: NodeId, where: str, why: str) -> None:
        if peer in self._told:
            return
        self._told[peer] = None
        if len(self._told) > PEERS_MAX:
            self._told.popitem(last=False)
        _log.warning(
            "no data channel to a machine; answers travel over gRPC, which takes more CPU. Allow TCP to its data port",
            extra={"peer": peer, "where": where, "reason": why},
        )
