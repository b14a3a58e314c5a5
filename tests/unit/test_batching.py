"""The order in which items leave: control first, streams in turns, chunks of one stream joined; and the accounts."""

from __future__ import annotations

import random

import pytest

from covey_mesh.core.limits import DATA_CHUNK_BYTES_MAX
from covey_mesh.io.batching import (
    BATCH_TARGET_BYTES,
    BUSY_FLUSH_INTERVAL_S,
    BUSY_STREAMS,
    FLUSH_INTERVAL_S,
    Lane,
    Outbox,
    flush_delay_s,
)
from covey_mesh.wire.v1.link_pb2 import Heartbeat, Item, RequestBody, ResponseData, ResponseEnd, ResponseHead


def lane(outbox: Outbox, stream_id: int) -> Lane:
    return outbox.lane(lambda chunk: Item(data=ResponseData(stream_id=stream_id, chunk=chunk)), answer_id=stream_id)


def head(stream_id: int) -> Item:
    return Item(head=ResponseHead(stream_id=stream_id))


def end(stream_id: int) -> Item:
    return Item(end=ResponseEnd(stream_id=stream_id))


def kinds(items: list[Item]) -> list[str | None]:
    return [item.WhichOneof("kind") for item in items]


def test_chunks_of_one_stream_leave_as_one_item_in_order() -> None:
    outbox = Outbox()
    one = lane(outbox, 1)
    one.put(head(1), urgent=False)
    for piece in (b"a", b"b", b"c"):
        one.put_data(piece, urgent=False)
    one.put(end(1), urgent=True)
    items = outbox.take()
    assert kinds(items) == ["head", "data", "end"]
    assert items[1].data.chunk == b"abc"
    assert outbox.empty
    assert outbox.waiting_bytes == 0
    assert not outbox.urgent
    assert outbox.take() == []


def test_a_peer_that_knows_it_gets_the_bytes_of_many_answers_as_one_item_each_in_its_place() -> None:
    outbox = Outbox()
    outbox.packs = True
    one, two, three = (lane(outbox, number) for number in (1, 2, 3))
    body = outbox.lane(lambda chunk: Item(body=RequestBody(stream_id=4, chunk=chunk)))
    one.put_data(b"a", urgent=False)
    one.put_data(memoryview(b"b"), urgent=False)
    two.put_data(b"c", urgent=False)
    two.put(end(2), urgent=False)
    body.put_data(b"d", urgent=False)
    three.put(head(3), urgent=False)
    three.put_data(b"e", urgent=False)
    items = outbox.take()
    assert kinds(items) == ["chunks", "end", "body", "head", "chunks"]
    assert (list(items[0].chunks.stream_ids), list(items[0].chunks.chunks)) == ([1, 2], [b"ab", b"c"])
    assert (list(items[4].chunks.stream_ids), list(items[4].chunks.chunks)) == ([3], [b"e"])
    assert outbox.waiting_bytes == 0


def test_control_overtakes_waiting_data() -> None:
    outbox = Outbox()
    lane(outbox, 1).put_data(bytes(10 * BATCH_TARGET_BYTES), urgent=False)
    outbox.take()
    outbox.put_control(Item(heartbeat=Heartbeat(token=1)), urgent=True)
    assert kinds(outbox.take())[0] == "heartbeat"


def test_streams_take_turns() -> None:
    outbox = Outbox()
    lane(outbox, 1).put_data(bytes(4 * BATCH_TARGET_BYTES), urgent=False)
    small = lane(outbox, 2)
    small.put_data(b"token", urgent=True)
    first = outbox.take()
    assert [item.data.stream_id for item in first[:2]] == [1, 2]
    assert all(len(item.data.chunk) <= DATA_CHUNK_BYTES_MAX for item in first)
    assert sum(len(item.data.chunk) for item in first) <= BATCH_TARGET_BYTES + DATA_CHUNK_BYTES_MAX


def test_a_discarded_stream_leaves_nothing() -> None:
    outbox = Outbox()
    one, two = lane(outbox, 1), lane(outbox, 2)
    one.put_data(b"gone", urgent=True)
    two.put_data(b"stays", urgent=True)
    one.discard()
    assert [item.data.chunk for item in outbox.take()] == [b"stays"]
    assert outbox.waiting_bytes == 0
    one.put_data(b"again", urgent=True)
    assert [item.data.chunk for item in outbox.take()] == [b"again"]


def test_started_is_known_once_something_was_taken() -> None:
    outbox = Outbox()
    one = lane(outbox, 1)
    one.put_data(b"x", urgent=True)
    assert not one.started
    outbox.take()
    assert one.started


def test_a_busy_link_waits_for_a_whole_step_of_the_engine() -> None:
    assert flush_delay_s(10.0, 10.0, False, 1, BUSY_STREAMS - 1) == pytest.approx(FLUSH_INTERVAL_S)
    assert flush_delay_s(10.0, 10.0, False, 1, BUSY_STREAMS) == pytest.approx(BUSY_FLUSH_INTERVAL_S)
    assert flush_delay_s(10.0, 10.0, True, 1, BUSY_STREAMS) == 0.0
    assert flush_delay_s(10.0, 10.0, False, BATCH_TARGET_BYTES, BUSY_STREAMS) == 0.0


@pytest.mark.parametrize(
    ("now_s", "last_s", "urgent", "waiting_bytes", "delay_s"),
    [
        (10.0, 9.0, False, 1, 0.0),
        (10.0, 10.0, False, 1, FLUSH_INTERVAL_S),
        (10.0, 10.0, True, 1, 0.0),
        (10.0, 10.0, False, BATCH_TARGET_BYTES, 0.0),
        (10.0, 10.0 - FLUSH_INTERVAL_S, False, 1, 0.0),
    ],
)
def test_when_a_batch_is_due(now_s: float, last_s: float, urgent: bool, waiting_bytes: int, delay_s: float) -> None:
    assert flush_delay_s(now_s, last_s, urgent, waiting_bytes) == pytest.approx(delay_s)


@pytest.mark.parametrize("seed", range(20))
def test_every_stream_comes_out_whole_and_in_order(seed: int) -> None:
    """Against the dumb twin: one list of bytes a stream."""
    generator = random.Random(seed)
    outbox = Outbox()
    lanes = {n: lane(outbox, n) for n in range(5)}
    expected = {n: bytearray() for n in lanes}
    received = {n: bytearray() for n in lanes}

    def drain() -> None:
        for item in outbox.take():
            if item.WhichOneof("kind") == "data":
                received[item.data.stream_id] += item.data.chunk

    for _ in range(300):
        if generator.random() < 0.2:
            drain()
        if generator.random() < 0.2:
            outbox.put_control(Item(heartbeat=Heartbeat(token=1)), urgent=False)
        number = generator.randrange(5)
        chunk = generator.randbytes(generator.choice([0, 1, 100, 5000, 70_000, 200_000]))
        lanes[number].put_data(chunk, urgent=generator.random() < 0.5)
        expected[number] += chunk
    while not outbox.empty:
        drain()
    assert received == expected
    assert outbox.waiting_bytes == 0
