"""The channel between an agent and a gateway process, over a real socket pair; the test plays the agent's mesh."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from tests.support.gateway import SELF, A, B
from tests.unit.test_gateway_process_parts import SUMMARY, Recorder, member
from tests.unit.test_streams import Sink, Work

from covey_gateway.io.processes import channel, port
from covey_gateway.io.processes.agent_mesh import AgentMesh
from covey_gateway.io.processes.port import Port, Surroundings
from covey_mesh.core.asking import Answer, Ask, AttemptReport, Grant, GrantedWork, Outcome
from covey_mesh.core.ballot import Ballot
from covey_mesh.core.exchange import FailureCode, ForwardedRequest, ResponseSink
from covey_mesh.core.facts import PoolView
from covey_mesh.core.framing import frame
from covey_mesh.core.limits import STREAM_WINDOW_BYTES
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import LinkLoss
from covey_mesh.io.codec_asking import answer_to_wire
from covey_mesh.wire.v1 import link_pb2
from covey_mesh.wire.v1.link_pb2 import Batch, Item

REQUEST = ForwardedRequest("req-1", 1, "m", "/v1/completions", b'{"a":1}', True, 7, 9)
WAIT_S = 5.0


class PlayedMesh:
    """The agent's mesh: remembers what was sent and opened."""

    def __init__(self) -> None:
        self.self_id = SELF
        self.pool = PoolView(SELF, 1, SELF, Ballot(1, SELF), {SELF: member(SELF), A: member(A)})
        self.sent: list[tuple[NodeId, Any]] = []
        self.linked = True
        self.works: list[tuple[NodeId, Work]] = []

    def view(self) -> PoolView:
        return self.pool

    def send(self, node_id: NodeId, message: Ask | Answer | AttemptReport | GrantedWork) -> bool:
        self.sent.append((node_id, message))
        return self.linked

    def open_on(self, node_id: NodeId, request: ForwardedRequest, sink: ResponseSink) -> Work:
        self.works.append((node_id, Work(request, sink)))
        return self.works[-1][1]


class Listener:
    """A mesh listener that remembers."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.heard.append((name, *arguments))


class Ends:
    """Both ends of one channel."""

    def __init__(self) -> None:
        self.mesh, self.observer, self.listener = PlayedMesh(), Recorder(), Listener()
        self.lost: list[int] = []
        self.gone: list[str] = []
        self.drained: list[float] = []
        self.port = Port(Surroundings(self.mesh, self.observer, self.lost.append))  # type: ignore[arg-type]
        self.process = AgentMesh(SELF, self.drained.append, self.gone.append)
        self.process.subscribe(self.listener)


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[Ends]:
    ends, loop = Ends(), asyncio.get_running_loop()
    ours, its = socket.socketpair()
    for one in (ours, its):
        one.setblocking(False)
    await loop.create_unix_connection(lambda: ends.port.channel, sock=ours)
    await loop.create_unix_connection(lambda: ends.process.channel, sock=its)
    try:
        yield ends
    finally:
        ends.port.channel.close()
        ends.process.channel.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def hostile() -> AsyncIterator[tuple[Ends, asyncio.StreamWriter]]:
    """The agent's end, with bytes of the test's own at the other."""
    ends, loop = Ends(), asyncio.get_running_loop()
    ours, its = socket.socketpair()
    for one in (ours, its):
        one.setblocking(False)
    await loop.create_unix_connection(lambda: ends.port.channel, sock=ours)
    _, writer = await asyncio.open_unix_connection(sock=its)
    try:
        yield ends, writer
    finally:
        writer.close()
        ends.port.channel.close()
        await asyncio.sleep(0)


async def until(condition: Any) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in another end's callbacks
            await asyncio.sleep(0.001)


@pytest.mark.asyncio
async def test_an_attempt_goes_through_and_back() -> None:
    async with connected() as ends:
        sink = Sink()
        ends.process.open_on(A, REQUEST, sink)
        await until(lambda: ends.mesh.works)
        node_id, work = ends.mesh.works[0]
        assert (node_id, work.request) == (A, REQUEST)
        work.sink.head(200, "text/event-stream")
        for _ in range(500):
            work.sink.data(b"x" * 1000)
        work.sink.end(None)
        await until(lambda: sink.calls[-1:] == ["end well"])
        assert sink.body == b"x" * 500_000
        assert ends.port.channel.attempts == ends.process.channel.attempts == (0, 0)


@pytest.mark.asyncio
async def test_many_large_bodies_arrive_at_once() -> None:
    """More than a link would take: each is what one client with images sends."""
    async with connected() as ends:
        bodies = [bytes([number]) * (8 * 1024 * 1024) for number in range(12)]
        sinks = [Sink() for _ in bodies]
        for body, sink in zip(bodies, sinks, strict=True):
            ends.process.open_on(A, replace(REQUEST, body=body), sink)
        await until(lambda: len(ends.mesh.works) == len(bodies))
        assert sorted(work.request.body for _, work in ends.mesh.works) == bodies
        assert not any(sink.calls for sink in sinks)


@pytest.mark.asyncio
async def test_a_cancelled_attempt_is_cancelled_there() -> None:
    async with connected() as ends:
        sink = Sink()
        attempt = ends.process.open_on(A, REQUEST, sink)
        await until(lambda: ends.mesh.works)
        attempt.cancel()
        await until(lambda: ends.mesh.works[0][1].calls == ["cancel"])
        assert sink.calls == []


@pytest.mark.asyncio
async def test_what_is_cancelled_before_it_left_leaves_nothing() -> None:
    """Either way: no frame, not an empty one either."""
    async with connected() as ends:
        for _ in range(3):
            ends.process.open_on(A, REQUEST, Sink()).cancel()
            await asyncio.sleep(0)
        sinks = [Sink() for _ in range(3)]
        attempts = [ends.process.open_on(A, REQUEST, sink) for sink in sinks]
        await until(lambda: len(ends.mesh.works) == 3)
        for _, work in ends.mesh.works:
            work.sink.head(200, "text/event-stream")
            work.sink.data(b"first")
        await until(lambda: all(sink.body for sink in sinks))
        for (_, work), attempt in zip(ends.mesh.works, attempts, strict=True):
            work.sink.data(b"more")  # waits for others of its kind
            attempt.cancel()
        await until(lambda: all(work.calls == ["cancel"] for _, work in ends.mesh.works))
        assert await ends.port.ask("nobody", b"", WAIT_S) is None
        assert not ends.port.over.done()
        assert not ends.gone


@pytest.mark.asyncio
async def test_a_reader_that_pauses_holds_the_engine_back() -> None:
    async with connected() as ends:
        sink = Sink()
        attempt = ends.process.open_on(A, REQUEST, sink)
        await until(lambda: ends.mesh.works)
        work = ends.mesh.works[0][1]
        attempt.pause()
        work.sink.head(200, "text/event-stream")
        chunks = 0
        while "pause" not in work.calls:
            work.sink.data(b"x" * 10_000)
            chunks += 1
            await asyncio.sleep(0)
        assert chunks * 10_000 <= STREAM_WINDOW_BYTES + 10_000
        attempt.resume()
        await until(lambda: work.calls == ["pause", "resume"])
        work.sink.end(None)
        await until(lambda: sink.calls[-1:] == ["end well"])
        assert len(sink.body) == chunks * 10_000


@pytest.mark.asyncio
async def test_an_attempt_on_no_machine_is_refused() -> None:
    async with connected() as ends:
        sink = Sink()
        ends.process.open_on(NodeId(""), REQUEST, sink)
        await until(lambda: sink.failure is not None)
        assert sink.failure is not None
        assert sink.failure.code is FailureCode.INTERNAL
        assert not ends.mesh.works


@pytest.mark.asyncio
async def test_asks_reports_and_answers_find_their_way() -> None:
    async with connected() as ends:
        ask = Ask("req-1", 2, "m", 10, 20, (1, 2**64 - 1), {A: "busy"}, "alice", 2, 1.5, 0.25, 99)
        report = AttemptReport("req-1", 2, A, output_tokens=7, prompt_tokens=9)
        assert ends.process.send(A, ask)
        assert ends.process.send(B, report)
        work = GrantedWork("m", A, "alice", 1, 7, 700, 30, 1)
        assert ends.process.send(B, work)
        await until(lambda: len(ends.mesh.sent) == 3)
        assert ends.mesh.sent == [(A, ask), (B, report), (B, work)]
        answer = Answer("req-1", 2, Outcome.ASSIGNED, A, retry_after_ms=70, grant=Grant(3, 400, 0.25))
        ends.port.answer(B, answer)
        await until(lambda: ends.listener.heard)
        assert ends.listener.heard == [("answer_received", B, answer)]


@pytest.mark.asyncio
async def test_an_ask_to_a_machine_without_a_link_is_known_at_once() -> None:
    async with connected() as ends:
        ends.mesh.linked = False
        ends.process.send(A, Ask("req-1", 1, "m", 1, 1))
        await until(lambda: ("member_lost", A, LinkLoss.RESET) in ends.listener.heard)


@pytest.mark.asyncio
async def test_the_pool_is_known_there_and_changes_are_heard() -> None:
    async with connected() as ends:
        ends.port.tell_pool()
        await asyncio.wait_for(ends.process.known.wait(), WAIT_S)
        assert ends.process.view().members.keys() == {SELF, A}
        assert ("leadership_changed", SELF, Ballot(1, SELF)) in ends.listener.heard
        ends.listener.heard.clear()
        ends.mesh.pool = PoolView(SELF, 2, None, Ballot(1, SELF), {SELF: ends.mesh.pool.members[SELF]})
        ends.port.tell_pool(((A, LinkLoss.SILENT),))
        await until(lambda: ends.listener.heard)
        assert ends.listener.heard == [
            ("leadership_changed", None, Ballot(1, SELF)), ("member_lost", A, LinkLoss.SILENT),
        ]  # fmt: skip
        ends.port.tell_pool()  # nothing new, and nothing is sent
        assert ends.process.view().members.keys() == {SELF}


@pytest.mark.asyncio
async def test_signs_of_life_are_answered_and_missed() -> None:
    async with connected() as ends:
        assert ends.port.beat() == 0
        assert ends.port.beat() == 1
        await until(lambda: ends.port.beat() <= 1)


@pytest.mark.asyncio
async def test_questions_listening_and_draining() -> None:
    async with connected() as ends:
        ends.process.answer_queries("explain", lambda asked: asked[::-1] if asked else None)
        assert await ends.port.ask("explain", b"abc", WAIT_S) == b"cba"
        assert await ends.port.ask("explain", b"", WAIT_S) is None
        ends.process.listening()
        await asyncio.wait_for(ends.port.listening, WAIT_S)
        ends.port.drain(1.5)
        await until(lambda: ends.drained == [1.5])


@pytest.mark.asyncio
async def test_what_a_lost_process_held_is_counted_and_its_attempts_are_aborted() -> None:
    async with connected() as ends:
        for _ in range(3):
            ends.process.observer.request_started("/v1/completions", "m")
        ends.process.open_on(A, REQUEST, Sink())
        await until(lambda: ends.mesh.works and ends.port.in_flight == 3)
        ends.process.channel.close()
        assert await asyncio.wait_for(ends.port.over, WAIT_S) == "it is gone"
        assert ends.lost == [3]
        assert ends.mesh.works[0][1].calls == ["cancel"]


@pytest.mark.asyncio
async def test_what_a_lost_process_asked_for_is_taken_back() -> None:
    """Queued asks would be given machines in nobody's name; those answered for good are not touched."""
    async with connected() as ends:
        for name in ("queued", "assigned", "refused", "done", "again"):
            ends.process.send(A, Ask(name, 1, "m", 1, 1))
        ends.process.send(B, Ask("again", 2, "m", 1, 1))
        ends.process.send(A, AttemptReport("again", 1, withdrawn=True))  # of the attempt before
        ends.process.send(A, AttemptReport("done", 1, A, output_tokens=3))
        await until(lambda: len(ends.mesh.sent) == 8)
        ends.port.answer(A, Answer("assigned", 1, Outcome.ASSIGNED, A))
        ends.port.answer(A, Answer("refused", 1, Outcome.NO_CANDIDATE))
        ends.mesh.sent.clear()
        ends.process.channel.close()
        await asyncio.wait_for(ends.port.over, WAIT_S)
        assert sorted(ends.mesh.sent, key=lambda sent: sent[1].request_id) == [
            (B, AttemptReport("again", 2, withdrawn=True)),
            (A, AttemptReport("assigned", 1, withdrawn=True)),
            (A, AttemptReport("queued", 1, withdrawn=True)),
        ]


@pytest.mark.asyncio
async def test_asks_without_an_end_are_forgotten_at_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port, "ASKS_KNOWN_MAX", 3)
    async with connected() as ends:
        for number in range(10):
            ends.process.send(A, Ask(f"req-{number}", 1, "m", 1, 1))
        await until(lambda: len(ends.mesh.sent) == 10)
        ends.mesh.sent.clear()
        ends.process.channel.close()
        await asyncio.wait_for(ends.port.over, WAIT_S)
        assert [sent.request_id for _, sent in ends.mesh.sent] == ["req-7", "req-8", "req-9"]


@pytest.mark.asyncio
async def test_a_process_that_leaves_on_its_own_account_says_all_it_saw() -> None:
    async with connected() as ends:
        ends.process.observer.decided_alone()
        await ends.process.leave()
        await asyncio.wait_for(ends.port.over, WAIT_S)
        assert ends.observer.calls == [("decided_alone", ())]
        assert ends.gone == []


@pytest.mark.asyncio
async def test_a_lost_agent_is_a_broken_link_and_is_told_once() -> None:
    async with connected() as ends:
        sink = Sink()
        ends.process.open_on(A, REQUEST, sink)
        await until(lambda: ends.mesh.works)
        ends.port.channel.close()
        await until(lambda: ends.gone and sink.failure is not None)
        assert sink.failure is not None
        assert sink.failure.code is FailureCode.LINK_LOST
        assert ends.gone == ["it is gone"]


def batch(*items: Item) -> bytes:
    return frame(Batch(items=items).SerializeToString())


_ANSWER = link_pb2.Relayed(node_id=A, answer=answer_to_wire(Answer("r", 1, Outcome.QUEUED)))


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xff\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
        frame(b"\xff\xff\xff"),
        batch(Item(pool_change=link_pb2.PoolChange())),
        batch(Item(drain=link_pb2.Drain())),
        batch(Item(hello=link_pb2.Hello())),
        batch(Item(view=link_pb2.ViewReport())),
        batch(Item(query=link_pb2.Query())),
        batch(Item(relayed=link_pb2.Relayed())),
        batch(Item(relayed=link_pb2.Relayed(node_id="x"))),
        batch(Item(relayed=link_pb2.Relayed(node_id=A))),
        batch(Item(relayed=_ANSWER)),
        batch(Item(observed=link_pb2.Observed(events=b"\xc1"))),
        batch(Item(open=link_pb2.RequestOpen(stream_id=0))),
        batch(Item(open=link_pb2.RequestOpen(stream_id=1, body_bytes=2**40))),
    ],
)
@pytest.mark.asyncio
async def test_what_no_gateway_process_sends_ends_its_channel_alone(raw: bytes) -> None:
    async with hostile() as (ends, writer):
        writer.write(raw)
        why = await asyncio.wait_for(ends.port.over, WAIT_S)
        assert why.startswith("it sent ")
        assert ends.mesh.sent == []
        assert ends.observer.calls == []


@pytest.mark.asyncio
async def test_requests_that_went_straight_through_are_held_no_longer() -> None:
    async with connected() as ends:
        for _ in range(2):
            ends.process.observer.request_started("/v1/completions", "m")
        ends.process.observer.straight("/v1/completions", "m", A, 0.25, 12, 1)
        await until(lambda: len(ends.observer.calls) == 3)
        assert ends.port.in_flight == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("straight", [False, True])
async def test_the_end_of_a_request_that_never_began_is_refused(straight: bool) -> None:
    async with connected() as ends:
        if straight:
            ends.process.observer.straight("/v1/completions", "m", A, 0.25, 12, 1)
        else:
            ends.process.observer.finished(SUMMARY)
        assert "never began" in await asyncio.wait_for(ends.port.over, WAIT_S)
        assert ends.observer.calls == []


@pytest.mark.asyncio
async def test_items_of_a_later_build_and_harmless_ones_are_passed_over() -> None:
    async with hostile() as (ends, writer):
        unknown = b"\x0a\x04\xfa\x3e\x01\x01"  # an item whose kind is field 1007
        echo = Item(heartbeat=link_pb2.Heartbeat(echo=2**60))
        writer.write(frame(b"") + frame(unknown) + batch(echo, Item(listening=link_pb2.Listening())))
        await asyncio.wait_for(ends.port.listening, WAIT_S)
        assert ends.port.beat() == 0  # an echo of what was never sent counts for nothing
        assert not ends.port.over.done()


@pytest.mark.asyncio
async def test_a_process_that_reads_nothing_is_cut_off_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "BACKLOG_BYTES_MAX", 32 * 1024 * 1024)
    async with hostile() as (ends, _):
        payload = b"x" * (4 * 1024 * 1024)
        for number in range(40):
            ends.port.channel.send(Item(query=link_pb2.Query(query_id=number, kind="k", payload=payload)))
            await asyncio.sleep(0)
            if ends.port.over.done():
                break
        assert ends.port.over.done()
        assert ends.port.over.result() == "it does not read"
        assert number < 15
