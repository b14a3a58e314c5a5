"""The agent's end of one gateway process: its attempts, its asks, its figures, and the view that it is sent.

Not here: starting and ending the process (supervisor.py).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from covey_gateway.io.processes import channel as channels
from covey_gateway.io.processes.observed import Finished, GatewayObserver, RequestStarted, Straight, read_events
from covey_gateway.io.processes.pool_change import ChangeWriter
from covey_gateway.io.processes.relayed import addressed, message_of
from covey_mesh.core.asking import Answer, Ask, AttemptReport, GrantedWork, Outcome
from covey_mesh.core.exchange import Failure, FailureCode, ForwardedRequest, ResponseSink, Upstream
from covey_mesh.core.facts import PoolView
from covey_mesh.core.messages import Query, QueryReply
from covey_mesh.core.names import NodeId, is_id
from covey_mesh.core.ports import LinkLoss
from covey_mesh.io import codec
from covey_mesh.io.codec_values import PeerProtocolError, to_ms
from covey_mesh.io.queries import Queries
from covey_mesh.wire.v1 import link_pb2
from covey_mesh.wire.v1.link_pb2 import Item

ASKS_KNOWN_MAX = 8192
"""Asks of one process whose end is not known; the oldest are forgotten, and expire at the leader by themselves."""


class PortMesh(Protocol):
    """Of covey_mesh.core.ports.Mesh, what a process is given."""

    @property
    def self_id(self) -> NodeId: ...

    def view(self) -> PoolView: ...

    def send(self, node_id: NodeId, message: Ask | Answer | AttemptReport | GrantedWork) -> bool: ...

    def open_on(self, node_id: NodeId, request: ForwardedRequest, sink: ResponseSink) -> Upstream: ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all processes of an agent share. `requests_lost` gets how many a process held when it was lost."""

    mesh: PortMesh
    observer: GatewayObserver
    requests_lost: Callable[[int], None]


class Port:
    """A ChannelOwner. `listening` is done when the process answers, `over` with the reason when it is lost."""

    def __init__(self, around: Surroundings) -> None:
        loop = asyncio.get_running_loop()
        self.channel = channels.Channel(self, handler=self._open)
        self.listening: asyncio.Future[None] = loop.create_future()
        self.over: asyncio.Future[str] = loop.create_future()
        self.in_flight = 0
        self._around = around
        self._changes = ChangeWriter()
        self._queries = Queries(loop, self._send_query)
        self._asks: OrderedDict[str, tuple[NodeId, int]] = OrderedDict()
        self._last_beat = 0
        self._last_echo = 0

    # --- what the agent tells it -------------------------------------------------------------------------------------

    def tell_pool(self, lost: tuple[tuple[NodeId, LinkLoss], ...] = ()) -> None:
        """The view as it is now, unless the process has it."""
        change = self._changes.change(self._around.mesh.view(), lost)
        if change is not None:
            self.channel.send(Item(pool_change=change))

    def answer(self, leader: NodeId, answer: Answer) -> None:
        if answer.outcome is Outcome.NO_CANDIDATE:
            self._asks.pop(answer.request_id, None)
        self.channel.send(Item(relayed=addressed(leader, answer)))

    def drain(self, grace_s: float) -> None:
        self.channel.send(Item(drain=link_pb2.Drain(grace_ms=to_ms(grace_s))))

    async def ask(self, kind: str, payload: bytes, timeout_s: float) -> bytes | None:
        """None when not found, late or gone."""
        return await self._queries.ask(self._around.mesh.self_id, kind, payload, timeout_s)

    def beat(self) -> int:
        """Ask for a sign of life; returns how many of those before went unanswered."""
        missed = self._last_beat - self._last_echo
        self._last_beat += 1
        self.channel.send(Item(heartbeat=link_pb2.Heartbeat(token=self._last_beat)))
        return missed

    # --- covey_gateway.io.processes.channel.ChannelOwner -------------------------------------------------------------

    def take(self, case: str, item: Item) -> None:
        if case == "relayed":
            self._take_relayed(item.relayed)
        elif case == "observed":
            self._take_observed(item.observed.events)
        elif case == "heartbeat":
            self._last_echo = max(self._last_echo, min(item.heartbeat.echo, self._last_beat))
        elif case == "query_reply":
            message = codec.decode(item)
            assert isinstance(message, QueryReply)
            self._queries.take_reply(self._around.mesh.self_id, message)
        elif case == "listening":
            if not self.listening.done():
                self.listening.set_result(None)
        else:
            raise PeerProtocolError(f"an item that no gateway process sends: {case}")

    def lost(self, why: str) -> None:
        self._queries.stop()
        held, self.in_flight = self.in_flight, 0
        if held:
            self._around.requests_lost(held)
        self._take_back()
        if not self.over.done():
            self.over.set_result(why)

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _open(self, request: ForwardedRequest, sink: ResponseSink) -> Upstream:
        if not is_id(request.node_id):
            failure = Failure(FailureCode.INTERNAL, "the gateway process named no machine; please report this")
            return _Refused(failure, sink)
        return self._around.mesh.open_on(NodeId(request.node_id), replace(request, node_id=""), sink)

    def _take_relayed(self, relayed: link_pb2.Relayed) -> None:
        node_id, message = message_of(relayed)
        if isinstance(message, Answer) or message is None:
            raise PeerProtocolError("a message that no gateway sends")
        self._note(node_id, message)
        if not self._around.mesh.send(node_id, message) and isinstance(message, Ask):
            # A gateway whose leader cannot be reached decides alone at once.
            self.tell_pool(((node_id, LinkLoss.RESET),))

    def _note(self, leader: NodeId, message: Ask | AttemptReport | GrantedWork) -> None:
        """Who was asked for what, until the attempt is reported."""
        if isinstance(message, GrantedWork):
            return
        if isinstance(message, Ask):
            self._asks[message.request_id] = (leader, message.attempt)
            self._asks.move_to_end(message.request_id)
            if len(self._asks) > ASKS_KNOWN_MAX:
                self._asks.popitem(last=False)
        elif self._asks.get(message.request_id, (leader, -1))[1] == message.attempt:
            del self._asks[message.request_id]

    def _take_back(self) -> None:
        """Nobody waits for these any more: they must not stand in the leader's queue, nor count as running."""
        asks, self._asks = self._asks, OrderedDict()
        for request_id, (leader, attempt) in asks.items():
            self._around.mesh.send(leader, AttemptReport(request_id, attempt, withdrawn=True))

    def _take_observed(self, raw: bytes) -> None:
        observer = self._around.observer
        for event in read_events(raw):
            if isinstance(event, RequestStarted):
                self.in_flight += 1
            elif isinstance(event, Straight) or (isinstance(event, Finished) and not event.part):
                if not self.in_flight:
                    raise PeerProtocolError("the end of a request that never began")
                self.in_flight -= 1
            event.tell(observer)

    def _send_query(self, _: NodeId, message: Query | QueryReply) -> bool:
        self.channel.send(codec.encode(message))
        return True


class _Refused:
    """An attempt that is not begun; ends on the next turn of the loop."""

    def __init__(self, failure: Failure, sink: ResponseSink) -> None:
        self._timer = asyncio.get_running_loop().call_soon(sink.end, failure)

    def cancel(self) -> None:
        self._timer.cancel()

    def pause(self) -> None:
        """There is nothing to come."""

    def resume(self) -> None:
        """See pause."""
