"""An engine's bytes, however they are cut into reads, reach the sink as they were."""

from __future__ import annotations

import random
from typing import Any

import pytest

from covey_mesh.core.exchange import Failure, FailureCode, PiecewiseSink
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


class Rig(PiecewiseSink):
    """One connection without a socket; also its pool and the sink of its requests."""

    def __init__(self) -> None:
        self.connection = EngineConnection(self)
        self.transport: Any = Transport()
        self.connection.connection_made(self.transport)
        self.released_count = 0
        self.body, self.pieces = b"", 0
        self.ends: list[Failure | None] = []

    def released(self, connection: EngineConnection) -> None:
        self.released_count += 1

    def lost(self, connection: EngineConnection) -> None: ...

    def forget(self, request: EngineRequest) -> None: ...

    def head(self, status: int, content_type: str, retry_after_s: int = 0) -> None: ...

    def data(self, chunk: bytes) -> None:
        self.body += chunk
        self.pieces += 1

    def end(self, failure: Failure | None) -> None:
        self.ends.append(failure)

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
