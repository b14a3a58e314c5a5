"""One link over a hand-held stream: when batches are written, what a stuck or broken peer comes to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import pytest
from tests.support.links import Answer, Recorder, request

from covey_mesh.core.exchange import FailureCode
from covey_mesh.core.facts import NodeFacts
from covey_mesh.core.limits import LINK_BACKLOG_BYTES_MAX
from covey_mesh.core.messages import FactsReport, Heartbeat, Query
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import LinkLoss
from covey_mesh.io.codec import encode
from covey_mesh.io.link import GrpcLink
from covey_mesh.wire.v1.link_pb2 import Batch, Goodbye, Item, Moved
from covey_mesh.wire.v1.link_pb2 import Heartbeat as WireHeartbeat

PEER = NodeId("ab" * 16)
FACTS = NodeFacts(PEER, "n", "0", 1, 1)


class HandHeld:
    """A stream whose reads and writes the test completes."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[object] = asyncio.Queue()
        self.written: list[Batch] = []
        self.allowed = asyncio.Semaphore(0)
        self.writing = asyncio.Event()

    async def read(self) -> object:
        found = await self.incoming.get()
        if isinstance(found, Exception):
            raise found
        return found

    async def write(self, message: bytes) -> None:
        self.writing.set()
        await self.allowed.acquire()
        self.written.append(Batch.FromString(message))


class Case:
    """A running link."""

    def __init__(self) -> None:
        self.stream = HandHeld()
        self.events = Recorder()
        self.link = GrpcLink(self.stream, PEER, FACTS, True, "127.0.0.1:1", self.events, lambda: None)
        self.task = asyncio.get_running_loop().create_task(self.link.run())

    def receive(self, *items: Item) -> None:
        self.stream.incoming.put_nowait(Batch(items=items).SerializeToString())

    async def end(self) -> LinkLoss:
        self.stream.allowed.release()
        self.stream.allowed.release()
        return await self.task


def on_a_link(test: Callable[[Case], Awaitable[None]]) -> Callable[[], None]:
    """Runs the test on a link of its own."""

    def run() -> None:
        async def body() -> None:
            case = Case()
            await case.events.until(lambda: case.events.links)
            await test(case)
            case.link.lost(LinkLoss.RESET)
            await case.task

        asyncio.run(body())

    return run


def _tokens(batch: Batch) -> list[int]:
    return [item.heartbeat.token for item in batch.items]


async def _settle() -> None:
    """Let everything that is ready run."""
    for _ in range(10):
        await asyncio.sleep(0)


@on_a_link
async def test_one_turn_is_one_batch_and_a_write_under_way_gathers_the_next(case: Case) -> None:
    for token in (1, 2, 3):
        case.link.send(Heartbeat(token=token))
    await case.stream.writing.wait()
    for token in (4, 5):
        case.link.send(Heartbeat(token=token))
        await _settle()
    case.stream.allowed.release()
    await _settle()
    case.link.send(Heartbeat(token=6))
    case.stream.allowed.release()
    case.stream.allowed.release()
    await _settle()
    assert [_tokens(batch) for batch in case.stream.written] == [[1, 2, 3], [4, 5], [6]]


@on_a_link
async def test_a_peer_that_does_not_read_is_cut_off(case: Case) -> None:
    payload = bytes(4 * 1024 * 1024)
    answer = Answer()
    case.link.open(request(), answer)
    for number in range(LINK_BACKLOG_BYTES_MAX // len(payload) + 2):
        case.link.send(Query(number, "x", payload))
    assert await case.task is LinkLoss.SILENT
    assert case.link.waiting_bytes <= LINK_BACKLOG_BYTES_MAX + 2 * len(payload)
    failure = (await answer.wait()).failure
    assert failure is not None
    assert failure.code is FailureCode.LINK_LOST
    assert case.events.losses == [LinkLoss.SILENT]


@on_a_link
async def test_the_peers_goodbye_says_why(case: Case) -> None:
    case.receive(Item(goodbye=Goodbye(reason="REPLACED")))
    case.stream.incoming.put_nowait(grpc.aio.EOF)
    assert await case.task is LinkLoss.REPLACED


@on_a_link
async def test_an_unknown_goodbye_is_on_purpose(case: Case) -> None:
    case.receive(Item(goodbye=Goodbye(reason="TIRED")))
    case.stream.incoming.put_nowait(grpc.aio.EOF)
    assert await case.task is LinkLoss.CLOSED


@on_a_link
async def test_an_end_without_a_word_is_a_reset(case: Case) -> None:
    case.stream.incoming.put_nowait(grpc.aio.EOF)
    assert await case.task is LinkLoss.RESET


@on_a_link
async def test_garbage_ends_the_link_and_is_told(case: Case) -> None:
    case.stream.incoming.put_nowait(b"\xff\xff")
    assert await case.end() is LinkLoss.PROTOCOL
    assert case.stream.written[-1].items[0].goodbye.reason == "PROTOCOL"
    assert case.events.messages == []


@on_a_link
async def test_facts_are_the_peers_own(case: Case) -> None:
    newer = NodeFacts(PEER, "renamed", "0", 1, 1, facts_version=1)
    case.receive(encode(FactsReport(newer)))
    await case.events.until(lambda: case.events.messages)
    assert case.link.facts == newer
    case.receive(encode(FactsReport(NodeFacts(NodeId("cd" * 16), "other", "0", 1, 1))))
    assert await case.end() is LinkLoss.PROTOCOL


@on_a_link
async def test_unknown_items_are_skipped(case: Case) -> None:
    case.receive(Item.FromString(b"\xf2\x7f\x03abc"), Item(), Item(heartbeat=WireHeartbeat(token=9)))
    await case.events.until(lambda: case.events.messages)
    assert case.events.messages == [Heartbeat(token=9)]


@on_a_link
async def test_nothing_is_heard_after_closing(case: Case) -> None:
    case.link.close(LinkLoss.CLOSED)
    case.receive(Item(heartbeat=WireHeartbeat(token=1)))
    case.link.send(Heartbeat(token=2))
    assert await case.end() is LinkLoss.CLOSED
    assert case.events.messages == []
    assert [item.WhichOneof("kind") for batch in case.stream.written for item in batch.items] == ["goodbye"]


@pytest.mark.parametrize("bug", [RuntimeError("ours")])
def test_a_bug_of_ours_is_not_swallowed(bug: Exception) -> None:
    async def body() -> None:
        case = Case()

        def fail(*_: object) -> None:
            raise bug

        case.events.message = fail  # type: ignore[method-assign]
        case.receive(Item(heartbeat=WireHeartbeat(token=1)))
        with pytest.raises(RuntimeError, match="ours"):
            await case.task
        assert len(case.events.losses) == 1

    asyncio.run(body())


class FakeChannel:
    """A data channel whose room the test decides."""

    def __init__(self) -> None:
        self.sent: list[Batch] = []
        self.writable = True
        self.opened = self.ended = False
        self.room = 1000

    def attach(self, user: GrpcLink) -> None:
        self.user = user

    def open(self) -> None:
        self.opened = True

    def send(self, message: bytes) -> None:
        self.sent.append(Batch.FromString(message))
        self.room -= 1
        self.writable = self.room > 0

    def abort(self) -> None:
        self.ended = True

    async def end(self) -> None:
        self.ended = True


async def _moved(case: Case) -> FakeChannel:
    """The case's link, which was dialed, on a data channel."""
    channel = FakeChannel()
    case.link.use(channel)  # type: ignore[arg-type]
    assert not channel.opened, "the dialed side begins"
    case.receive(Item(moved=Moved()))
    case.stream.allowed.release()
    await _settle()
    assert [item.WhichOneof("kind") for item in case.stream.written[-1].items] == ["moved"]
    assert channel.opened
    assert case.link.on_data_channel
    return channel


@on_a_link
async def test_a_link_that_has_moved_writes_each_turn_as_one_batch_there(case: Case) -> None:
    channel = await _moved(case)
    for token in (1, 2, 3):
        case.link.send(Heartbeat(token=token))
    await _settle()
    case.link.send(Heartbeat(token=4))
    await _settle()
    assert [_tokens(batch) for batch in channel.sent] == [[1, 2, 3], [4]]
    assert len(case.stream.written) == 1


@on_a_link
async def test_what_is_queued_before_the_move_is_written_before_it_or_follows_it(case: Case) -> None:
    case.link.send(Heartbeat(token=1))
    await case.stream.writing.wait()
    case.link.send(Heartbeat(token=2))
    channel = FakeChannel()
    case.link.use(channel)  # type: ignore[arg-type]
    case.receive(Item(moved=Moved()))
    await _settle()
    case.stream.allowed.release()
    case.stream.allowed.release()
    await _settle()
    kinds = [[item.WhichOneof("kind") for item in batch.items] for batch in case.stream.written]
    assert kinds == [["heartbeat"], ["moved"]]
    assert [_tokens(batch) for batch in channel.sent] == [[2]]


@on_a_link
async def test_a_full_channel_gathers_what_follows(case: Case) -> None:
    channel = await _moved(case)
    channel.room = 1
    for token in (1, 2, 3):
        case.link.send(Heartbeat(token=token))
        await _settle()
    assert [_tokens(batch) for batch in channel.sent] == [[1]]
    channel.room, channel.writable = 1000, True
    case.link.stream_writable()
    await _settle()
    assert [_tokens(batch) for batch in channel.sent] == [[1], [2, 3]]


@on_a_link
async def test_a_peer_that_stops_reading_the_channel_is_cut_off(case: Case) -> None:
    channel = await _moved(case)
    channel.writable = False
    channel.room = 0
    payload = bytes(4 * 1024 * 1024)
    for number in range(LINK_BACKLOG_BYTES_MAX // len(payload) + 3):
        case.link.send(Query(number, "x", payload))
        await _settle()
    assert await case.task is LinkLoss.SILENT
    assert channel.ended


@on_a_link
async def test_last_words_are_said_on_both(case: Case) -> None:
    channel = await _moved(case)
    case.link.close(LinkLoss.REPLACED)
    assert await case.end() is LinkLoss.REPLACED
    for said in (channel.sent, case.stream.written):
        assert said[-1].items[0].goodbye.reason == "REPLACED"
    assert channel.ended


@on_a_link
async def test_before_the_peer_moves_the_channels_end_changes_nothing(case: Case) -> None:
    channel = FakeChannel()
    moved = case.link.use(channel)  # type: ignore[arg-type]
    case.link.stream_lost(None)
    assert moved.result() is False
    case.receive(Item(heartbeat=WireHeartbeat(token=1)))
    await case.events.until(lambda: case.events.messages)
    case.link.use(FakeChannel())  # type: ignore[arg-type]
    assert case.events.losses == []


@on_a_link
async def test_after_it_the_channels_end_is_the_links(case: Case) -> None:
    await _moved(case)
    answer = Answer()
    case.link.open(request(), answer)
    case.link.stream_lost(TimeoutError())
    assert await case.task is LinkLoss.SILENT
    assert (await answer.wait()).failure is not None
    assert case.link.data_at_fault


@on_a_link
async def test_a_move_to_nowhere_is_a_reset(case: Case) -> None:
    case.receive(Item(moved=Moved()))
    assert await case.task is LinkLoss.RESET


def test_a_bug_behind_the_channel_is_not_swallowed() -> None:
    async def body() -> None:
        case = Case()
        await case.events.until(lambda: case.events.links)
        await _moved(case)

        def fail(*_: object) -> None:
            raise RuntimeError("ours")

        case.events.message = fail  # type: ignore[method-assign]
        case.link.stream_received([Batch(items=[Item(heartbeat=WireHeartbeat(token=1))]).SerializeToString()])
        with pytest.raises(RuntimeError, match="ours"):
            await case.task
        assert case.events.losses == [LinkLoss.RESET]

    asyncio.run(body())
