"""An engine's bytes, however they are cut into reads, reach the sink as they were."""

from __future__ import annotations

import random
from typing import Any

import pytest

from covey_mesh.core.exchange import Failure, FailureCode, Usage
from covey_mesh.io.turn_writer import Turn
from covey_node.core.known_heads import HEADS_MAX, KnownHead, KnownHeads
from covey_node.io.engine_connection import EngineConnection, EngineRequest, only_chunk

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
TRAPS = (b"data: x\n\n", b"data: 3\r\n\n\n", b"5\r\nabcde\r\n", b"\r\n", b"0\r\n\r\n", b"f", b"data: " + b"y" * 300)


class Transport:
    def __init__(self) -> None:
        self.aborted = False
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted

    def is_reading(self) -> bool:
        return True


class Rig:
    """One connection without a socket; also its pool and the sink of its requests."""

    def __init__(self, heads: KnownHeads | None = None) -> None:
        self.known_heads = KnownHeads() if heads is None else heads
        self.told: list[object] = []
        self.turn = Turn(lambda callback: None)
        self.connection = EngineConnection(self)
        self.transport: Any = Transport()
        self.connection.connection_made(self.transport)
        self.released_count = 0
        self.body, self.pieces = b"", 0
        self.ends: list[Failure | None] = []

    def answered(self, request: EngineRequest, connection: EngineConnection) -> None:
        self.released(connection)

    def released(self, connection: EngineConnection) -> None:
        self.released_count += 1

    def lost(self, connection: EngineConnection) -> None: ...

    def forget(self, request: EngineRequest) -> None: ...

    def head(self, status: int, content_type: str, retry_after_s: int = 0) -> None:
        self.told.append((status, content_type, retry_after_s))

    def whole(self, status: int, content_type: str, retry_after_s: int, body: bytes, usage: Usage | None) -> None:
        self.told.append((status, content_type, retry_after_s, body))
        self.body += body
        self.ends.append(None)

    def data(self, chunk: bytes) -> None:
        self.body += chunk
        self.pieces += 1
        self.told.append(chunk)

    def end(self, failure: Failure | None) -> None:
        self.ends.append(failure)
        self.told.append(failure)

    def ask(self) -> EngineRequest:
        request = EngineRequest(self, b"?", self)
        self.connection.send(request)
        return request


def chunked(pieces: tuple[bytes, ...]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def test_every_cut_of_a_stream_in_two() -> None:
    wire = HEAD + chunked(TRAPS)
    for at in range(1, len(wire)):
        rig = Rig()
        rig.ask()
        for part in (wire[:at], wire[at:]):
            rig.connection.data_received(part)
        assert (rig.body, rig.ends) == (b"".join(TRAPS), [None]), at


@pytest.mark.parametrize("seed", range(40))
def test_random_cuts(seed: int) -> None:
    dice = random.Random(seed)
    pieces = tuple(dice.choice(TRAPS) for _ in range(30))
    wire = HEAD + chunked(pieces)
    rig = Rig()
    for _ in range(2):  # the connection serves again
        rig.body = b""
        rig.ask()
        at = 0
        while at < len(wire):
            size = dice.choice((1, 2, 3, 9, 20, 400))
            rig.connection.data_received(wire[at : at + size])
            at += size
        assert rig.body == b"".join(pieces), seed
    assert rig.ends == [None, None]
    assert rig.released_count == 2


def test_reads_of_whole_chunks_are_handed_on_one_by_one() -> None:
    rig = Rig()
    rig.ask()
    rig.connection.data_received(HEAD)
    for piece in TRAPS:
        rig.connection.data_received(chunked((piece,))[:-5])
    rig.connection.data_received(b"0\r\n\r\n")
    assert (rig.body, rig.pieces, rig.ends) == (b"".join(TRAPS), len(TRAPS), [None])


def test_a_cancelled_request_hears_nothing_more() -> None:
    rig = Rig()
    request = rig.ask()
    rig.connection.data_received(HEAD + chunked((b"data: x\n\n",))[:-5])
    request.cancel()
    rig.connection.data_received(chunked((b"data: y\n\n",))[:-5])
    assert (rig.body, rig.ends, rig.transport.aborted) == (b"data: x\n\n", [], True)


def test_bytes_after_the_end_of_an_answer_break_it() -> None:
    rig = Rig()
    rig.ask()
    rig.connection.data_received(HEAD + chunked((b"data: x\n\n",)) + HEAD)
    assert isinstance(rig.ends[0], Failure)
    assert rig.ends[0].code is FailureCode.ENGINE_FAILED
    assert rig.transport.aborted


@pytest.mark.parametrize(
    ("data", "content"),
    [
        (b"3\r\nabc\r\n", b"abc"),
        (b"00000003\r\nabc\r\n", b"abc"),
        (b"A\r\n0123456789\r\n", b"0123456789"),
        (b"0\r\n\r\n", b""),
        (b"3\r\nabc\r\n3\r\nabc\r\n", b""),
        (b"3\r\nab", b""),
        (b"3;x=y\r\nabc\r\n", b""),
        (b"-3\r\nabc\r\n", b""),
        (b" 3\r\nabc\r\n", b""),
        (b"zz\r\nabc\r\n", b""),
        (b"3\r\nabcd\n", b""),
        (b"000000003\r\nabc\r\n", b""),
        (b"\r\n", b""),
        (b"", b""),
    ],
)
def test_only_chunk(data: bytes, content: bytes) -> None:
    assert only_chunk(data) == content


def test_a_chunk_size_cut_in_two_is_the_parsers() -> None:
    rig = Rig()
    rig.ask()
    parts = (HEAD + b"1\r\na\r\n1", b"3\r\nbcd\r\n", b"e" * 14 + b"\r\n", b"0\r\n\r\n")
    for part in parts:
        rig.connection.data_received(part)
    assert (rig.body, rig.ends) == (b"abcd\r\n" + b"e" * 14, [None])


def whole(body: bytes = b"{}", status: bytes = b"200 OK", lines: bytes = b"") -> bytes:
    head = b"HTTP/1.1 %b\r\ncontent-length: %d\r\ncontent-type: application/json\r\n%b\r\n"
    return head % (status, len(body), lines) + body


def outcome(rig: Rig, parts: tuple[bytes, ...]) -> list[object]:
    """What the sink was told, and whether the connection is kept."""
    rig.told.clear()
    rig.ask()
    for part in parts:
        if not rig.transport.aborted:
            rig.connection.data_received(part)
    return [*rig.told, rig.transport.aborted]


def test_a_whole_answer_in_one_read_is_one_call() -> None:
    rig = Rig()
    for number in range(3):
        body = b"x" * (number + 9)
        assert outcome(rig, (whole(body),)) == [(200, "application/json", 0, body), False]
    assert outcome(rig, (whole(b"busy", b"429 Too Many", b"retry-after: 7\r\n"),)) == [
        (429, "application/json", 7, b"busy"),
        False,
    ]
    assert outcome(rig, (whole(b"", b"204 No Content"),)) == [(204, "application/json", 0, b""), False]
    assert outcome(rig, (whole(b"last", lines=b"connection: close\r\n"),)) == [
        (200, "application/json", 0, b"last"),
        True,
    ]
    assert rig.released_count == 5


def test_every_cut_of_a_whole_answer_in_two() -> None:
    heads = KnownHeads()
    wire = whole(b'{"a":"b"}')
    for at in range(len(wire)):
        rig = Rig(heads)
        assert outcome(rig, (wire[:at], wire[at:]) if at else (wire,))[-1] is False
        assert (rig.body, rig.ends, rig.released_count) == (b'{"a":"b"}', [None], 1), at


def test_a_whole_event_stream_and_an_engines_fault_are_looked_at_first() -> None:
    error = b'data: {"error":{"code":503,"message":"full"}}\n\n'
    stream = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\ncontent-type: text/event-stream\r\n\r\n" % len(error) + error
    for answer in (stream, whole(b"broken", b"500 Oops")):
        rig = Rig()
        for _ in range(3):
            outcome(rig, (answer,))
            assert isinstance(rig.ends[-1], Failure)
            assert rig.body == b""


HOSTILE = (
    b"content-length: 3\r\n",
    b"content-length: 2\r\n",
    b"Content-Length: 2\r\n",
    b"transfer-encoding: chunked\r\n",
    b"transfer-encoding: identity\r\n",
    b"connection: close\r\n",
    b"x-content-length: 2\r\n",
    b"x: content-length: 9\r\n",
    b"x: y\r\n  content-length: 9\r\n",
    b"upgrade: h2c\r\nconnection: upgrade\r\n",
    b"x\r\n",
    b"x: \x00\r\n",
    b"",
)


STATUSES = (b"200 OK", b"404 No", b"204 No Content", b"304 Same", b"100 Continue", b"500 X")
LENGTHS = (b"2", b"3", b"0", b"02", b"+2", b"-2", b"2 ", b" 2", b"9" * 12, b"")


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("before", HOSTILE)
def test_known_heads_change_nothing_of_what_is_told(status: bytes, before: bytes) -> None:
    for after in HOSTILE:
        heads = KnownHeads()
        for digits in LENGTHS:
            for rest in (b"zz", b"zzz", b"", b"zz" + whole()):
                head = b"HTTP/1.1 %b\r\n%bcontent-length: %b\r\n%b\r\n" % (status, before, digits, after)
                warm, cold = Rig(heads), Rig()
                assert outcome(warm, (head + rest,)) == outcome(cold, (head + rest,)), head + rest


def test_known_heads_are_bounded() -> None:
    heads = KnownHeads()
    head = KnownHead(200, "application/json", 0)
    for number in range(3 * HEADS_MAX):
        wire = whole(b"{}", lines=b"date: %d\r\n" % number)
        assert heads.read(wire) is None
        heads.learn(wire, head, b"{}")
        assert heads.read(whole(b"[1, 2]", lines=b"date: %d\r\n" % number)) == (head, b"[1, 2]")
    assert (
        sum(heads.read(whole(b"{}", lines=b"date: %d\r\n" % n)) is not None for n in range(3 * HEADS_MAX)) <= HEADS_MAX
    )


def test_a_head_is_not_learned_where_the_length_says_otherwise() -> None:
    heads, wire = KnownHeads(), whole(b"{}")
    for body in (b"", b"{", b"[]", b"{}{}"):
        heads.learn(wire, KnownHead(200, "application/json", 0), body)
    assert heads.read(wire) is None
