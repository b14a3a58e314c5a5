"""The mesh as a gateway process has it: its agent's, at the other end of a channel.

Implements covey_mesh.core.ports.Mesh for the request runner, which does not know the difference. Not here: the runner,
the HTTP edge, and what composes them (covey.gateway_process).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace

from covey_gateway.io.processes import channel as channels
from covey_gateway.io.processes.observed import OBSERVED_WITHIN_S, ObservedElsewhere
from covey_gateway.io.processes.pool_change import changed_view
from covey_gateway.io.processes.relayed import addressed, message_of
from covey_mesh.core.asking import Answer, Ask, AttemptReport, GrantedWork
from covey_mesh.core.exchange import ForwardedRequest, ResponseSink, Upstream
from covey_mesh.core.facts import NodeLoad, PoolView
from covey_mesh.core.messages import Query, QueryReply
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import MeshListener, QueryHandler, SlowQueryHandler
from covey_mesh.io import codec
from covey_mesh.io.codec_values import PeerProtocolError, from_ms
from covey_mesh.io.queries import Queries
from covey_mesh.wire.v1 import link_pb2
from covey_mesh.wire.v1.link_pb2 import Item

LEAVE_TIMEOUT_S = 1.0
"""For the last bytes to an agent that may not read any more."""


class AgentMesh:
    """`known` is set once the pool is known; `drain` gets the seconds that requests in flight may take; `gone` is
    called once when there is no agent any more."""

    def __init__(self, node_id: NodeId, drain: Callable[[float], None], gone: Callable[[str], None]) -> None:
        self.known = asyncio.Event()
        self.channel = channels.Channel(self, before_flush=self._send_observed)
        self.observer = ObservedElsewhere(self._observed_soon)
        self._loop = asyncio.get_running_loop()
        self._drain = drain
        self._gone = gone
        self._view = PoolView(node_id)
        self._listeners: list[MeshListener] = []
        self._queries = Queries(self._loop, self._send_query)
        self._observed_timer: asyncio.TimerHandle | None = None

    # --- covey_mesh.core.ports.Mesh ----------------------------------------------------------------------------------

    @property
    def self_id(self) -> NodeId:
        return self._view.self_id

    def view(self) -> PoolView:
        """As the agent last told it."""
        return self._view

    def subscribe(self, listener: MeshListener) -> None:
        self._listeners.append(listener)

    def publish(self, load: NodeLoad) -> None:
        raise NotImplementedError("a gateway process has no load of its own")

    def send(self, node_id: NodeId, message: Ask | Answer | AttemptReport | GrantedWork) -> bool:
        """True at once: where the agent has no link there, it says that the link is lost."""
        self.channel.send(Item(relayed=addressed(node_id, message)))
        return True

    def open_on(self, node_id: NodeId, request: ForwardedRequest, sink: ResponseSink) -> Upstream:
        return self.channel.open(replace(request, node_id=node_id), sink)

    async def query(self, node_id: NodeId, kind: str, payload: bytes, timeout_s: float) -> bytes | None:
        """Other machines are asked by the agent alone."""
        return None

    def answer_queries(self, kind: str, handler: QueryHandler) -> None:
        """The agent's questions."""
        self._queries.answer(kind, handler)

    def answer_queries_later(self, kind: str, handler: SlowQueryHandler) -> None:
        self._queries.answer_later(kind, handler)

    # --- covey_gateway.io.processes.channel.ChannelOwner -------------------------------------------------------------

    def take(self, case: str, item: Item) -> None:
        if case == "relayed":
            self._take_relayed(item.relayed)
        elif case == "pool_change":
            self._take_change(item.pool_change)
        elif case == "heartbeat":
            self.channel.send(Item(heartbeat=link_pb2.Heartbeat(echo=item.heartbeat.token)))
        elif case == "query":
            message = codec.decode(item)
            assert isinstance(message, Query)
            self._queries.reply_to(self.self_id, message)
        elif case == "drain":
            self._drain(from_ms(item.drain.grace_ms))
        else:
            raise PeerProtocolError(f"an item that no agent sends: {case}")

    def lost(self, why: str) -> None:
        self._gone(why)

    # --- for the process ---------------------------------------------------------------------------------------------

    async def leave(self) -> None:
        """The process ends on its own account: the last figures go, and a channel that ends is no surprise."""
        closed = asyncio.Event()
        self._gone = lambda _: closed.set()
        self._send_observed()
        await asyncio.sleep(0)  # the channel writes on the next turn of the loop
        self.channel.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(closed.wait(), LEAVE_TIMEOUT_S)

    def listening(self) -> None:
        """Tell the agent that the address answers."""
        self.channel.send(Item(listening=link_pb2.Listening()))

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _take_relayed(self, relayed: link_pb2.Relayed) -> None:
        sender, message = message_of(relayed)
        if not isinstance(message, Answer):
            raise PeerProtocolError("a message that is not for a gateway")
        for listener in self._listeners:
            listener.answer_received(sender, message)

    def _take_change(self, message: link_pb2.PoolChange) -> None:
        before = self._view
        change = changed_view(before, message)
        view = self._view = change.view
        self.known.set()
        for listener in self._listeners:
            if (view.leader, view.ballot) != (before.leader, before.ballot):
                listener.leadership_changed(view.leader, view.ballot)
            for node_id, loss in change.lost:
                listener.member_lost(node_id, loss)
            for node_id in change.changed:
                listener.member_changed(node_id)

    def _send_query(self, _: NodeId, message: Query | QueryReply) -> bool:
        self.channel.send(codec.encode(message))
        return True

    def _observed_soon(self) -> None:
        if self._observed_timer is None:
            self._observed_timer = self._loop.call_later(OBSERVED_WITHIN_S, self._observed_due)

    def _observed_due(self) -> None:
        self._observed_timer = None
        self._send_observed()

    def _send_observed(self) -> None:
        events = self.observer.take()
        if events:
            self.channel.send(Item(observed=link_pb2.Observed(events=events)))
