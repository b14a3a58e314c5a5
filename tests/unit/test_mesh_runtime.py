"""The runtime around election and membership: requests to other machines, queries, listeners, starting and stopping.

Time is virtual; the network is a fake that records.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import pytest
from tests.sim.virtual_loop import VirtualLoop

from covey_mesh.core.asking import Answer, Ask, Outcome
from covey_mesh.core.ballot import Ballot
from covey_mesh.core.events import Promise
from covey_mesh.core.exchange import Failure, FailureCode, ForwardedRequest, PiecewiseSink
from covey_mesh.core.facts import NodeFacts, NodeLoad
from covey_mesh.core.messages import LeaseReleased, LoadReport, Query, QueryReply
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import LinkLoss
from covey_mesh.core.stores import KnownPeer
from covey_mesh.io.attempts import IN_USE_LINGER_S, WAITING_MAX
from covey_mesh.io.mesh import FROM_PERSON, MeshRuntime
from covey_mesh.io.queries import SLOW_ANSWERS_MAX

A, B, C = (NodeId(letter * 32) for letter in "abc")
REQUEST = ForwardedRequest("r", 1, "m", "/v1/completions", b"{}", False, 1, 1)


def facts(node_id: NodeId) -> NodeFacts:
    return NodeFacts(node_id, node_id[:1], "0", 1, 1, (f"host-{node_id[:1]}:1",))


class FakeUpstream:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def cancel(self) -> None:
        self.calls.append("cancel")

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")


class FakeLink:
    def __init__(self, peer: NodeId, events: Any) -> None:
        self.peer, self.facts, self.dialed, self.address = peer, facts(peer), True, f"host-{peer[:1]}:1"
        self.sent: list[Any] = []
        self.sinks: list[Any] = []
        self.upstream = FakeUpstream()
        self._events = events

    def send(self, message: Any) -> None:
        self.sent.append(message)

    def open(self, request: ForwardedRequest, sink: Any) -> FakeUpstream:
        self.sinks.append(sink)
        return self.upstream

    def close(self, reason: LinkLoss) -> None:
        self._events.down(self, reason)


class FakeTransport:
    def __init__(self) -> None:
        self.dialed: list[str] = []

    def dial(self, address: str, expected: NodeId | None) -> None:
        self.dialed.append(address)

    def set_facts(self, facts: NodeFacts) -> None:
        pass

    def serve_requests(self, handler: Any) -> None:
        pass


class MemoryStores:
    def load(self) -> Any:
        return None

    def save(self, promise: Promise, done: Callable[[Exception | None], None]) -> None:
        asyncio.get_running_loop().call_soon(done, None)


class MemoryPeers:
    def __init__(self) -> None:
        self.saved: Sequence[KnownPeer] = ()

    def load(self) -> Sequence[KnownPeer]:
        return self.saved

    def save(self, peers: Sequence[KnownPeer]) -> None:
        self.saved = peers


class Listener:
    def __init__(self) -> None:
        self.heard: list[Any] = []

    def ask_received(self, gateway: NodeId, ask: Ask) -> None:
        self.heard.append((gateway, ask))

    def answer_received(self, leader: NodeId, answer: Answer) -> None:
        self.heard.append((leader, answer))

    def attempt_reported(self, gateway: NodeId, report: Any) -> None:
        self.heard.append((gateway, report))

    def granted_work(self, gateway: NodeId, work: Any) -> None:
        self.heard.append((gateway, work))

    def leadership_changed(self, leader: NodeId | None, ballot: Ballot) -> None:
        self.heard.append(("leader", leader))

    def member_changed(self, node_id: NodeId) -> None:
        pass

    def member_lost(self, node_id: NodeId, loss: LinkLoss) -> None:
        self.heard.append(("lost", node_id))


class Sink(PiecewiseSink):
    def __init__(self) -> None:
        self.got: list[Any] = []

    def head(self, status: int, content_type: str, retry_after_s: int = 0) -> None:
        self.got.append(status)

    def data(self, chunk: bytes) -> None:
        self.got.append(chunk)

    def end(self, failure: Failure | None) -> None:
        self.got.append(failure)


class World:
    """B's runtime on a virtual loop."""

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.transport, self.peers, self.listener = FakeTransport(), MemoryPeers(), Listener()
        stores: Any = MemoryStores()
        self.mesh = MeshRuntime(self.transport, facts(B), self.loop.time, lambda: 0.5, stores, self.peers)
        self.mesh.subscribe(self.listener)  # type: ignore[arg-type]

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def wait(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    def link(self, peer: NodeId) -> FakeLink:
        link = FakeLink(peer, self.mesh)
        self.mesh.up(link)  # type: ignore[arg-type]
        return link


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    world.run(world.mesh.start())
    yield world
    world.run(world.mesh.stop())
    world.loop.close()


def test_alone_it_becomes_leader_within_a_second_and_says_so(world: World) -> None:
    world.wait(1.0)
    assert ("leader", B) in world.listener.heard
    assert world.mesh.view().leader == B
    assert world.mesh.may_obey(world.mesh.status().ballot)


def test_messages_to_oneself_arrive_on_the_next_turn(world: World) -> None:
    ask = Ask("r", 1, "m", 1, 1)
    assert world.mesh.send(B, ask)
    assert (B, ask) not in world.listener.heard
    world.wait(0.0)
    world.wait(0.0)
    assert (B, ask) in world.listener.heard


def test_messages_to_others_need_a_link(world: World) -> None:
    answer = Answer("r", 1, Outcome.QUEUED)
    assert not world.mesh.send(C, answer)
    link = world.link(C)
    assert world.mesh.send(C, answer)
    assert link.sent[-1] == answer
    world.mesh.message(link, answer)  # type: ignore[arg-type]
    assert (C, answer) in world.listener.heard


def test_an_attempt_passes_bytes_straight_through_and_ends_once(world: World) -> None:
    link, sink = world.link(C), Sink()
    world.mesh.open_on(C, REQUEST, sink)
    carried = link.sinks[0]
    carried.head(200, "text/plain")
    carried.data(b"x")
    carried.end(None)
    carried.end(None)
    assert sink.got == [200, b"x", None]


def test_nothing_reaches_the_sink_after_cancel(world: World) -> None:
    link, sink = world.link(C), Sink()
    upstream = world.mesh.open_on(C, REQUEST, sink)
    upstream.pause()
    upstream.cancel()
    upstream.cancel()
    link.sinks[0].end(Failure(FailureCode.CANCELLED, "gone"))
    assert sink.got == []
    assert link.upstream.calls == ["pause", "cancel"]


def test_an_attempt_waits_for_the_link_that_it_needs(world: World) -> None:
    world.mesh.hint(("host-c:1",), "mdns", C)
    sink = Sink()
    upstream = world.mesh.open_on(C, REQUEST, sink)
    upstream.pause()
    assert world.transport.dialed == ["host-c:1"]
    link = world.link(C)
    assert link.upstream.calls == ["pause"]
    link.sinks[0].end(None)
    assert sink.got == [None]


@pytest.mark.parametrize("known", [True, False])
def test_without_a_link_in_time_an_attempt_ends_as_link_lost(world: World, known: bool) -> None:
    if known:
        world.mesh.hint(("host-c:1",), "mdns", C)
    sink = Sink()
    world.mesh.open_on(C, REQUEST, sink)
    assert sink.got == [], "never from inside open"
    world.wait(2.1 if known else 0.01)
    assert [failure.code for failure in sink.got] == [FailureCode.LINK_LOST]


def test_attempts_waiting_for_links_are_bounded(world: World) -> None:
    world.mesh.hint(("host-c:1",), "mdns", C)
    sinks = [Sink() for _ in range(WAITING_MAX + 5)]
    for sink in sinks:
        world.mesh.open_on(C, REQUEST, sink)
    world.wait(0.01)
    assert sum(1 for sink in sinks if sink.got) == 5
    world.wait(2.1)
    assert all(len(sink.got) == 1 for sink in sinks)


def test_a_link_counts_as_in_use_until_a_while_after_the_last_attempt(world: World) -> None:
    link = world.link(C)
    record = world.mesh._membership.peers.get(C)
    assert record is not None
    world.mesh.open_on(C, REQUEST, Sink())
    assert record.in_use
    link.sinks[0].end(None)
    assert record.in_use
    world.mesh._membership.heard(1, world.loop.time())
    world.wait(IN_USE_LINGER_S + 0.01)
    assert not record.in_use


def test_attempts_on_this_machine_go_to_its_node(world: World) -> None:
    sink, upstream = Sink(), FakeUpstream()
    world.mesh.serve_requests(lambda request, its_sink: upstream if its_sink is sink else None)  # type: ignore[arg-type,return-value]
    assert world.mesh.open_on(B, REQUEST, sink) is upstream


def test_queries_are_answered_here_and_there(world: World) -> None:
    world.mesh.answer_queries("echo", lambda payload: payload * 2)
    assert world.run(world.mesh.query(B, "echo", b"x", 1.0)) == b"xx"
    assert world.run(world.mesh.query(B, "unheard of", b"x", 1.0)) is None
    link = world.link(C)
    world.mesh.message(link, Query(9, "echo", b"y"))  # type: ignore[arg-type]
    assert link.sent[-1] == QueryReply(9, True, b"yy")


def test_an_answer_may_take_its_time_and_knows_who_asked(world: World) -> None:
    asked: list[Any] = []
    world.mesh.answer_queries_later("slow", lambda *question: asked.append(question))
    link = world.link(C)
    world.mesh.message(link, Query(9, "slow", b"y"))  # type: ignore[arg-type]
    ((sender, payload, reply),) = asked
    assert (sender, payload) == (C, b"y")
    assert not any(isinstance(message, QueryReply) for message in link.sent)
    reply(b"at last")
    assert link.sent[-1] == QueryReply(9, True, b"at last")
    with pytest.raises(AssertionError, match="two replies"):
        reply(b"again")
    with pytest.raises(AssertionError, match="two handlers"):
        world.mesh.answer_queries("slow", lambda payload: payload)


def test_answers_under_way_are_bounded(world: World) -> None:
    replies: list[Any] = []
    world.mesh.answer_queries_later("slow", lambda sender, payload, reply: replies.append(reply))
    link = world.link(C)
    for number in range(SLOW_ANSWERS_MAX + 1):
        world.mesh.message(link, Query(number, "slow", b""))  # type: ignore[arg-type]
    assert len(replies) == SLOW_ANSWERS_MAX
    assert link.sent[-1] == QueryReply(SLOW_ANSWERS_MAX, False, b"")
    replies[0](None)
    world.mesh.message(link, Query(99, "slow", b""))  # type: ignore[arg-type]
    assert len(replies) == SLOW_ANSWERS_MAX + 1


def test_a_query_is_late_unreachable_or_cut_off(world: World) -> None:
    assert world.run(world.mesh.query(C, "k", b"", 1.0)) is None
    link = world.link(C)
    started_s = world.loop.time()
    assert world.run(world.mesh.query(C, "k", b"", 0.5)) is None
    assert world.loop.time() - started_s == pytest.approx(0.5, abs=0.01)
    asking = world.loop.create_task(world.mesh.query(C, "k", b"", 5.0))
    world.wait(0.01)
    link.close(LinkLoss.RESET)
    assert world.run(asking) is None
    assert ("lost", C) in world.listener.heard


def test_only_the_machine_that_was_asked_may_answer(world: World) -> None:
    right, wrong = world.link(C), world.link(A)
    asking = world.loop.create_task(world.mesh.query(C, "k", b"", 5.0))
    world.wait(0.01)
    query = next(message for message in right.sent if isinstance(message, Query))
    world.mesh.message(wrong, QueryReply(query.query_id, True, b"forged"))  # type: ignore[arg-type]
    world.mesh.message(right, QueryReply(query.query_id, True, b"true"))  # type: ignore[arg-type]
    assert world.run(asking) == b"true"


def test_a_published_load_is_in_the_view_at_once_and_soon_with_the_others(world: World) -> None:
    link = world.link(C)
    load = NodeLoad(B, 1, 3)
    world.mesh.publish(load)
    assert world.mesh.view().members[B].load == load
    world.wait(0.3)
    assert LoadReport(load) in link.sent


def test_stopping_hands_over_remembers_and_closes(world: World) -> None:
    world.wait(1.0)
    link = world.link(C)
    world.run(world.mesh.stop())
    assert [m for m in link.sent if isinstance(m, LeaseReleased)] == [LeaseReleased(Ballot(1, B))]
    assert world.peers.saved == [(C, ("host-c:1",))]
    assert ("lost", C) not in world.listener.heard, "listeners hear nothing of our own stopping"
    assert not world.mesh.send(C, Answer("r", 1, Outcome.QUEUED))


def test_hints_given_before_the_start_are_kept() -> None:
    world = World()
    world.mesh.hint(("host-c:1",), FROM_PERSON)
    world.run(world.mesh.start())
    assert world.transport.dialed == ["host-c:1"]
    world.run(world.mesh.stop())
    world.loop.close()
