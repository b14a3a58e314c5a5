"""The HTTP edge over real sockets: well-behaved, broken, slow, huge and hostile clients."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import stat
from pathlib import Path

import pytest
from tests.support.http_edge import STREAM, Call, edge, eventually, on_uvloop, post

from covey_gateway.core.keys import key_digest
from covey_gateway.core.pages import Access, PlainRequest, PlainResponse, Route, Routes
from covey_gateway.core.settings import HttpSettings
from covey_mesh.core.exchange import Failure, FailureCode

DEFAULTS = HttpSettings()
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"


def whole(call: Call) -> None:
    call.answer(b'{"echo":%d}' % len(call.request.body))


def code_of(body: bytes) -> str:
    return str(json.loads(body)["error"]["code"])


# --- answers ---------------------------------------------------------------------------------------------------------


@on_uvloop
async def test_a_whole_answer_has_a_length_and_says_who_gave_it() -> None:
    async with edge(whole) as it:
        response = await it.ask(post(b'{"a":1}'))
        assert (response.status, response.body) == (200, b'{"echo":7}')
        wanted = {
            "x-request-id": "req-1",
            "x-covey-node": "host-b",
            "x-covey-node-id": "b" * 32,
            "x-covey-model": "m",
            "x-covey-attempts": "1",
            "x-covey-why": "best of 2",
            "content-type": "application/json",
            "content-length": "10",
        }
        assert wanted.items() <= response.headers.items()
        assert "connection" not in response.headers


@on_uvloop
async def test_a_stream_arrives_piece_by_piece() -> None:
    async with edge() as it:
        client = await it.connect()
        await client.post()
        call = await it.door.next()
        call.head(STREAM)
        call.sink.data(b"data: 1\n\n")
        head = await client.head()
        assert head.headers["transfer-encoding"] == "chunked"
        assert head.headers["cache-control"] == "no-cache"
        assert await client.chunk() == b"data: 1\n\n"
        call.sink.data(b"data: 2\n\n")
        assert await client.chunk() == b"data: 2\n\n"
        big = b"x" * 100_000
        call.sink.data(big)
        assert await client.chunk() == big
        call.sink.end(None)
        assert await client.chunk() == b""


@on_uvloop
async def test_http_1_0_gets_a_bare_body_and_an_end() -> None:
    async with edge() as it:
        client = await it.connect()
        await client.send(b"POST /v1/completions HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}")
        call = await it.door.next()
        call.head(STREAM)
        call.sink.data(b"data: 1\n\n")
        call.sink.data(b"data: 2\n\n")
        call.sink.end(None)
        response = await client.response()
        assert response.body == b"data: 1\n\ndata: 2\n\n"
        assert "transfer-encoding" not in response.headers
        assert response.headers["connection"] == "close"


@on_uvloop
async def test_http_1_0_may_keep_the_connection_for_whole_answers() -> None:
    async with edge(whole) as it:
        client = await it.connect()
        for _ in range(2):
            await client.send(b"POST /v1/completions HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}")
            assert (await client.response()).headers["connection"] == "keep-alive"


@on_uvloop
async def test_a_connection_serves_many_and_closes_when_asked() -> None:
    async with edge(whole) as it:
        client = await it.connect()
        for size in (2, 300_000, 2):
            await client.post(b"1" * size)
            assert (await client.response()).body == b'{"echo":%d}' % size
        await client.post(b"{}", "/v1/completions", "Connection: close")
        assert (await client.response()).headers["connection"] == "close"
        assert await client.rest() == b""


@on_uvloop
async def test_a_stream_that_ended_in_an_error_event_ends_as_http_wants_and_the_connection_serves_on() -> None:
    async with edge() as it:
        client = await it.connect()
        await client.post()
        call = await it.door.next()
        call.head(STREAM)
        call.sink.data(b'data: {"error": {}}\n\n')
        call.broken(Failure(FailureCode.LINK_LOST, "gone"))
        broken = await client.response()
        assert broken.headers["transfer-encoding"] == "chunked"
        assert broken.body == b'data: {"error": {}}\n\n'
        await client.post(b"{}", "/v1/completions", "Connection: close")
        (await it.door.next()).answer(b'{"after": 1}')
        assert (await client.response()).body == b'{"after": 1}'


@on_uvloop
async def test_an_incomplete_answer_that_is_no_stream_does_not_look_complete() -> None:
    async with edge() as it:
        client = await it.connect()
        await client.post()
        call = await it.door.next()
        call.head()
        call.sink.data(b"[1,")
        call.sink.data(b"2,")
        call.broken(Failure(FailureCode.LINK_LOST, "gone"))
        await client.head()
        assert await client.rest() == b"5\r\n[1,2,\r\n"


@on_uvloop
async def test_a_failure_before_any_byte_is_still_an_answer() -> None:
    async with edge() as it:
        client = await it.connect()
        await client.post()
        call = await it.door.next()
        call.head()
        call.sink.data(b"{half")
        call.broken(Failure(FailureCode.LINK_LOST, "gone"))
        response = await client.response()
        assert (response.status, code_of(response.body)) == (502, "stream_broken")


@on_uvloop
async def test_names_from_other_machines_cannot_add_headers() -> None:
    async with edge(lambda call: call.answer(node_name="a\r\nset-cookie: x", why="é\x00" + "w" * 5000)) as it:
        response = await it.ask(post())
        assert response.headers["x-covey-node"] == "a??set-cookie: x"
        assert "set-cookie" not in response.headers
        assert len(response.headers["x-covey-why"]) == 512


@on_uvloop
async def test_a_503_tells_when_to_come_back() -> None:
    async with edge(lambda call: call.answer(status=503, retry_after_s=3)) as it:
        response = await it.ask(post())
        assert (response.status, response.headers["retry-after"]) == (503, "3")


# --- requests --------------------------------------------------------------------------------------------------------


@on_uvloop
async def test_chunked_bodies_in_any_pieces() -> None:
    async with edge(whole) as it:
        client = await it.connect()
        raw = HEAD + b'Transfer-Encoding: chunked\r\n\r\n3;x=y\r\n{"a\r\n4\r\n":1}\r\n0\r\nX-Trailer: t\r\n\r\n'
        for byte in raw:
            await client.send(bytes((byte,)))
        assert (await client.response()).status == 200
        assert it.door.calls[0].request.body == b'{"a":1}'


@on_uvloop
async def test_pipelined_requests_are_answered_in_order() -> None:
    async with edge() as it:
        client = await it.connect()
        await client.send(post(b'"one"') + post(b'"two"') + post(b"", "/nowhere") + post(b'"four"'))
        first = await it.door.next()
        await asyncio.sleep(0)
        assert len(it.door.calls) == 1
        first.answer(b"1")
        (await it.door.next()).answer(b"2")
        (await it.door.next()).answer(b"4")
        assert [(await client.response()).body for _ in range(2)] == [b"1", b"2"]
        assert (await client.response()).status == 404
        assert (await client.response()).body == b"4"
        assert [call.request.body for call in it.door.calls] == [b'"one"', b'"two"', b'"four"']


@on_uvloop
async def test_a_flood_of_pipelined_requests_is_bounded() -> None:
    async with edge(whole) as it:
        client = await it.connect()
        await client.send(post() * 5000)
        statuses = []
        while True:
            statuses.append((await client.response()).status)
            if statuses[-1] != 200:
                break
        assert statuses[-1] == 400
        assert len(statuses) <= DEFAULTS.pipelined_refused_at + 3
        assert await client.rest() == b""


@on_uvloop
async def test_100_continue_is_given_and_a_hopeless_upload_is_stopped_before_it_starts() -> None:
    async with edge(whole) as it:
        client = await it.connect()
        await client.send(HEAD + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.reader.readuntil(b"\r\n\r\n")) == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"{}")
        assert (await client.response()).status == 200
        client = await it.connect()
        await client.send(HEAD + b"Content-Length: 99999999\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.response()).status == 413
        response = await it.ask(HEAD + b"Content-Length: 2\r\nExpect: miracles\r\n\r\n{}")
        assert response.status == 417


@on_uvloop
async def test_deadline_and_priority_headers() -> None:
    async with edge(whole) as it:
        await it.ask(post(b"{}", "/v1/completions", "x-covey-deadline-ms: 1500", "x-covey-priority: Batch"))
        assert (it.door.calls[0].request.deadline_s, it.door.calls[0].request.priority) == (1.5, 2)
        for bad in (
            "x-covey-deadline-ms: soon",
            "x-covey-deadline-ms: 0",
            "x-covey-deadline-ms: -1",
            "x-covey-priority: x",
        ):
            response = await it.ask(post(b"{}", "/v1/completions", bad))
            assert (response.status, code_of(response.body)) == (400, "invalid_field")
        assert len(it.door.calls) == 1


@on_uvloop
async def test_absolute_targets_and_queries() -> None:
    async with edge(whole) as it:
        raw = post(b"{}", "http://localhost/v1/completions?api-version=1")
        assert (await it.ask(raw)).status == 200
        assert it.door.calls[0].request.path == "/v1/completions"


@on_uvloop
async def test_an_offer_to_upgrade_is_declined_by_serving() -> None:
    async with edge(whole) as it:
        response = await it.ask(post(b"{}", "/v1/completions", "Connection: Upgrade", "Upgrade: h2c"))
        assert (response.status, response.headers["connection"]) == (200, "close")


MALFORMED = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello",
    b"NONSENSE / HTTP/1.1\r\n\r\n",
    b"GET /v1/models HTTP/2.0\r\nHost: a\r\n\r\n",
    b"GET /v1/models\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\n\r\n",
    b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
    HEAD + b"X\x00Y: 1\r\n\r\n",
    HEAD + b"A: b\r\n folded\r\n\r\n",
    HEAD + b"Host: other\r\nContent-Length: 0\r\n\r\n",
    HEAD + b"Content-Length: -1\r\n\r\n",
    HEAD + b"Content-Length: +2\r\n\r\n{}",
    HEAD + b"Content-Length: 99999999999999999999\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
]

SMUGGLED = [
    HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
    HEAD + b"Content-Length: 2, 3\r\n\r\n{}x",
    HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    b"POST /v1/completions HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
]


@pytest.mark.parametrize("raw", [*MALFORMED, *SMUGGLED], ids=range(len(MALFORMED) + len(SMUGGLED)))
@on_uvloop
async def test_what_is_malformed_or_ambiguous_ends_the_connection(raw: bytes) -> None:
    async with edge(whole) as it:
        client = await it.connect()
        await client.send(raw + post(b'"smuggled"'))
        response = await client.response()
        assert response.status in (400, 413)
        assert response.headers["connection"] == "close"
        assert await client.rest() == b""
        assert it.door.calls == []


@on_uvloop
async def test_whatever_comes_in_random_bytes_the_next_client_is_served() -> None:
    dice = random.Random(11)
    print("seed 11")
    async with edge(whole) as it:
        for _ in range(150):
            raw = bytearray(post(b'{"a":1}', "/v1/completions", "X-Y: z"))
            for _ in range(dice.randrange(1, 4)):
                raw[dice.randrange(len(raw))] = dice.randrange(256)
            client = await it.connect()
            await client.send(bytes(raw))
            client.writer.write_eof()
            await client.rest()
        assert (await it.ask(post())).status == 200
        assert it.server.bodies.used == 0


# --- bounds ----------------------------------------------------------------------------------------------------------


@on_uvloop
async def test_a_body_too_large_is_refused_without_reading_it_all() -> None:
    async with edge(whole, body_bytes_max=100_000) as it:
        response = await it.ask(HEAD + b"Content-Length: 100001\r\n\r\n")
        assert (response.status, code_of(response.body)) == (413, "body_too_large")
        client = await it.connect()
        await client.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        piece = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
        for _ in range(7):
            await client.send(piece)
        assert (await client.response()).status == 413
        assert (await it.ask(post(b"1" * 100_000))).status == 200


@on_uvloop
async def test_an_upload_that_is_refused_early_still_reads_the_answer() -> None:
    async with edge(whole, body_bytes_max=1_000_000) as it:
        client = await it.connect()
        body = b"x" * 4_000_000
        client.writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(body))
        client.writer.write(body)
        assert (await client.response()).status == 413


@on_uvloop
async def test_all_bodies_together_are_bounded_and_given_back() -> None:
    async with edge(bodies_total_bytes_max=300_000) as it:
        first = await it.connect()
        await first.post(b"1" * 200_000)
        call = await it.door.next()
        assert it.server.bodies.used >= 200_000 - 65_536
        response = await it.ask(post(b"1" * 200_000))
        assert (response.status, code_of(response.body)) == (503, "gateway_full")
        call.answer()
        assert (await first.response()).status == 200
        assert it.server.bodies.used == 0


@on_uvloop
async def test_headers_are_bounded_in_number_and_size() -> None:
    async with edge(whole) as it:
        many = b"".join(b"X-%d: 1\r\n" % n for n in range(DEFAULTS.header_count_max + 1))
        assert (await it.ask(HEAD + many + b"Content-Length: 2\r\n\r\n{}")).status == 431
        big = b"X: " + b"1" * (DEFAULTS.header_bytes_max + 1) + b"\r\n"
        assert (await it.ask(HEAD + big + b"\r\n")).status == 431
        client = await it.connect()
        await client.send(HEAD + b"X: ")
        for _ in range(9):
            await client.send(b"1" * 8192)
        assert (await client.response()).status == 431
        assert (await it.ask(b"GET /" + b"a" * 70_000)).status == 431


@on_uvloop
async def test_connections_are_bounded() -> None:
    async with edge(whole, connections_max=2) as it:
        kept = [await it.connect() for _ in range(2)]
        for client in kept:
            await client.post()
            await client.response()
        refused = await it.connect()
        response = await refused.response()
        assert (response.status, code_of(response.body)) == (503, "gateway_full")
        await refused.close()
        await kept[0].close()
        await eventually(lambda: len(it.server._connections) <= 1, "connections to close")
        assert (await it.ask(post())).status == 200


@on_uvloop
async def test_administration_works_while_every_connection_of_the_network_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "covey.sock"
    async with edge(whole, PAGES, unix_path=str(path), connections_max=1, connections_unix_max=2) as it:
        taken = await it.connect()
        await taken.post()
        await taken.response()
        kept = [await it.connect_unix() for _ in range(2)]
        for client in kept:
            await client.post(b"{}", "/admin")
            assert (await client.response()).status == 200
        assert (await (await it.connect_unix()).response()).status == 503
        assert (await (await it.connect()).response()).status == 503


@on_uvloop
async def test_one_address_of_the_network_cannot_take_every_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("covey_gateway.io.http_connection.is_loopback", lambda _: False)
    async with edge(whole, PAGES, connections_max=3, connections_per_address_max=2) as it:
        kept = [await it.connect() for _ in range(2)]
        for client in kept:
            await client.send(get("/open"))
            assert (await client.response()).status == 200
        refused = await it.connect()
        assert (await refused.response()).status == 503
        await refused.close()
        await kept[0].close()
        await eventually(lambda: it.server._shares["127.0.0.1"] == 1, "connections to close")
        assert (await it.ask(get("/open"))).status == 200


# --- slow clients ----------------------------------------------------------------------------------------------------


@on_uvloop
async def test_a_slow_head_is_given_up() -> None:
    async with edge(whole) as it:
        client = await it.connect()
        await client.send(b"POST /v1/completions HT")
        await eventually(lambda: any(c._reading for c in it.server._connections), "the first bytes")
        it.pass_time(DEFAULTS.header_timeout_s - 1)
        await client.send(b"TP/1.1\r\nHost: a\r\nX")
        it.pass_time(2)
        response = await client.response()
        assert (response.status, code_of(response.body)) == (408, "request_timeout")
        assert await client.rest() == b""


@pytest.mark.parametrize("trickle", [False, True])
@on_uvloop
async def test_a_slow_body_is_given_up(trickle: bool) -> None:
    async with edge(whole) as it:
        client = await it.connect()
        await client.send(HEAD + b"Content-Length: 1000000\r\n\r\n{")
        await eventually(lambda: any(c._reading and c._reading.size for c in it.server._connections), "the first byte")
        for _ in range(3):
            if trickle:
                it.pass_time(DEFAULTS.body_silence_s / 2)
                (connection,) = it.server._connections
                before = connection._reading.size if connection._reading else 0
                await client.send(b"x")
                await eventually(
                    lambda c=connection, b=before: c._reading is None or c._reading.size > b, "one byte more"
                )
            else:
                it.pass_time(DEFAULTS.body_silence_s / 2)
        response = await client.response()
        assert (response.status, code_of(response.body)) == (408, "request_timeout")


@on_uvloop
async def test_a_fast_upload_of_any_length_is_not_given_up() -> None:
    async with edge(whole) as it:
        client = await it.connect()
        await client.send(HEAD + b"Content-Length: 1000000\r\n\r\n")
        sent = 0
        while sent < 1_000_000:
            await client.send(b"1" * 50_000)
            sent += 50_000
            await eventually(lambda s=sent: it.door.calls or in_body(it) >= s, "the piece")
            it.pass_time(DEFAULTS.body_silence_s / 4)
        assert (await client.response()).status == 200


def in_body(it: object) -> int:
    connections = it.server._connections  # type: ignore[attr-defined]
    return sum(c._reading.size for c in connections if c._reading is not None)


@on_uvloop
async def test_idle_connections_are_closed_and_busy_ones_are_not() -> None:
    async with edge() as it:
        idle, busy = await it.connect(), await it.connect()
        await busy.post()
        call = await it.door.next()
        it.pass_time(DEFAULTS.idle_timeout_s + 1)
        assert await idle.rest() == b""
        call.answer()
        assert (await busy.response()).status == 200


@on_uvloop
async def test_a_slow_reader_pauses_the_source_and_memory_stays_bounded() -> None:
    async with edge() as it:
        client = await it.connect(limit=1024)
        await client.post()
        call = await it.door.next()
        call.head(STREAM)
        (connection,) = it.server._connections
        piece = b"x" * 16_384
        sent = 0
        while not call.paused:
            call.sink.data(piece)
            sent += len(piece)
            await asyncio.sleep(0)
            assert sent < 64 * 1024 * 1024, "never paused"
        assert connection.transport.get_write_buffer_size() <= DEFAULTS.write_high_bytes + 2 * len(piece)
        call.sink.end(None)
        assert len((await client.response()).body) == sent
        assert not call.cancelled.is_set()


@on_uvloop
async def test_a_reader_that_catches_up_resumes_the_source() -> None:
    async with edge() as it:
        client = await it.connect(limit=1024)
        await client.post()
        call = await it.door.next()
        call.head(STREAM)
        while not call.paused:
            call.sink.data(b"x" * 65_536)
            await asyncio.sleep(0)
        reading = asyncio.ensure_future(client.response())
        async with asyncio.timeout(20):
            await call.resumed.wait()
        call.sink.end(None)
        assert (await reading).body


@on_uvloop
async def test_a_source_that_ignores_the_pause_is_cut_off() -> None:
    async with edge(unread_bytes_max=1_000_000) as it:
        client = await it.connect(limit=1024)
        await client.post()
        call = await it.door.next()
        call.head(STREAM)
        for _ in range(2000):
            call.sink.data(b"x" * 65_536)
            await asyncio.sleep(0)
            if call.cancelled.is_set():
                break
        assert call.cancelled.is_set()


@on_uvloop
async def test_a_reader_that_stops_is_cut_off_in_the_end() -> None:
    async with edge() as it:
        client = await it.connect(limit=1024)
        await client.post()
        call = await it.door.next()
        call.head(STREAM)
        while not call.paused:
            call.sink.data(b"x" * 65_536)
            await asyncio.sleep(0)
        it.pass_time(1)
        it.pass_time(DEFAULTS.reader_stall_s - 1)
        assert not call.cancelled.is_set()
        it.pass_time(2)
        it.pass_time(DEFAULTS.reader_stall_s + 1)
        await eventually(call.cancelled.is_set, "the cancel")


@pytest.mark.parametrize("how", ["close", "reset", "half"])
@pytest.mark.parametrize("started", [False, True])
@on_uvloop
async def test_a_client_that_leaves_is_told_upstream(how: str, started: bool) -> None:
    async with edge() as it:
        client = await it.connect()
        await client.post()
        call = await it.door.next()
        if started:
            call.head(STREAM)
            call.sink.data(b"data: 1\n\n")
            await client.head()
        if how == "half":
            client.writer.write_eof()
        elif how == "reset":
            raw = client.writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            client.writer.transport.abort()
        else:
            await client.close()
        async with asyncio.timeout(20):
            await call.cancelled.wait()
        call.sink.data(b"data: late\n\n")
        call.sink.end(None)
        await eventually(lambda: not it.server._connections, "the connection to go")


# --- routes, keys, browsers ------------------------------------------------------------------------------------------


async def page(request: PlainRequest) -> PlainResponse:
    said = {"path": request.path, "tail": request.tail, "query": request.query, "user": request.user}
    return PlainResponse(body=json.dumps(said).encode(), headers=(("x-page", "yes"),))


async def failing(request: PlainRequest) -> PlainResponse:
    raise ZeroDivisionError


async def hanging(request: PlainRequest) -> PlainResponse:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


PAGES = Routes(
    {
        ("GET", "/page"): Route(page),
        ("GET", "/open"): Route(page, Access.OPEN),
        ("POST", "/admin"): Route(page, Access.LOCAL),
        ("GET", "/failing"): Route(failing),
        ("GET", "/hanging"): Route(hanging),
    },
    {("GET", "/tree/"): Route(page), ("GET", "/tree/deep/"): Route(page)},
)


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers]).encode() + b"\r\n\r\n"


@on_uvloop
async def test_pages_and_prefixes() -> None:
    async with edge(whole, PAGES) as it:
        response = await it.ask(get("/page?a=b"))
        assert response.headers["x-page"] == "yes"
        assert json.loads(response.body) == {"path": "/page", "tail": "", "query": "a=b", "user": ""}
        assert json.loads((await it.ask(get("/tree/deep/x/y"))).body)["tail"] == "x/y"
        assert json.loads((await it.ask(get("/tree/x"))).body)["tail"] == "x"
        response = await it.ask(get("/page", method="HEAD"))
        assert (response.status, response.body) == (200, b"")
        assert int(response.headers["content-length"]) > 0


@on_uvloop
async def test_unknown_paths_and_wrong_methods() -> None:
    async with edge(whole, PAGES) as it:
        response = await it.ask(post(b"{}", "/v1/nothing"))
        assert (response.status, code_of(response.body)) == (404, "path_not_found")
        response = await it.ask(get("/v1/completions"))
        assert (response.status, response.headers["allow"]) == (405, "POST, OPTIONS")
        response = await it.ask(post(b"{}", "/page"))
        assert (response.status, response.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
        assert (await it.ask(post(b"{}", "/sleep"))).status == 404
        assert it.door.calls == []


@on_uvloop
async def test_a_refused_request_leaves_the_connection_usable() -> None:
    async with edge(whole, PAGES) as it:
        client = await it.connect()
        await client.post(b'{"dropped":1}', "/v1/nothing")
        assert (await client.response()).status == 404
        await client.post()
        assert (await client.response()).status == 200


@on_uvloop
async def test_a_page_that_fails_or_hangs(caplog: pytest.LogCaptureFixture) -> None:
    async with edge(whole, PAGES, page_timeout_s=0.01) as it:
        assert (await it.ask(get("/failing"))).status == 500
        assert "bug in a page" in caplog.text
        assert (await it.ask(get("/hanging"))).status == 504


@on_uvloop
async def test_loopback_needs_no_key_but_a_known_one_names_its_user() -> None:
    async with edge(whole, PAGES, {key_digest("secret"): "ada"}) as it:
        for headers, user in (
            ((), ""),
            (("Authorization: Bearer secret",), "ada"),
            (("authorization: bearer  secret",), "ada"),
            (("x-api-key: secret",), "ada"),
            (("Authorization: Bearer dummy",), ""),
        ):
            assert (await it.ask(post(b"{}", "/v1/completions", *headers))).status == 200
            assert it.door.calls[-1].request.user == user


@on_uvloop
async def test_where_a_key_is_needed() -> None:
    async with edge(whole, PAGES, {key_digest("secret"): "ada"}, key_on_loopback=True) as it:
        response = await it.ask(post())
        assert (response.status, code_of(response.body)) == (401, "invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer"
        assert (await it.ask(post(b"{}", "/v1/completions", "Authorization: Bearer wrong"))).status == 401
        assert (await it.ask(post(b"{}", "/v1/completions", "Authorization: Bearer secret"))).status == 200
        assert (await it.ask(get("/open"))).status == 200
        assert (await it.ask(get("/page"))).status == 401
        assert (await it.ask(post(b"{}", "/v1/nothing"))).status == 401
        assert it.observer.events.count("refused invalid_api_key") == 4


@on_uvloop
async def test_an_upload_without_a_key_is_stopped_early() -> None:
    async with edge(whole, key_on_loopback=True) as it:
        client = await it.connect()
        await client.send(HEAD + b"Content-Length: 30000000\r\n\r\n")
        response = await client.response()
        assert (response.status, response.headers["connection"]) == (401, "close")


@on_uvloop
async def test_web_pages_of_other_sites_cannot_use_loopback() -> None:
    async with edge(whole, PAGES) as it:
        evil = post().replace(b"Host: localhost", b"Host: evil.example.com")
        assert (await it.ask(evil)).status == 403
        assert (await it.ask(post(b"{}", "/v1/completions", "Origin: https://evil.example.com"))).status == 403
        assert (await it.ask(post(b"{}", "/v1/completions", "Origin: null"))).status == 403
        assert (await it.ask(post(b"{}", "/v1/completions", "Origin: http://localhost"))).status == 200
        # Anybody on the network can announce a name in .local, or answer for a bare word, and point it to loopback.
        for host in (b"evil.local", b"wpad"):
            rebound = post(b"{}", "/v1/completions", "Origin: http://" + host.decode()).replace(b"localhost", host)
            assert (await it.ask(rebound)).status == 403
        mine = socket.gethostname().partition(".")[0].encode()
        for host in (b"127.0.0.1:8080", b"[::1]:8080", mine, mine + b".local", b"10.1.2.3"):
            assert (await it.ask(post().replace(b"localhost", host))).status == 200
    async with edge(whole, trusted_hosts=("covey.local",)) as it:
        assert (await it.ask(post().replace(b"localhost", b"Covey.local:8080"))).status == 200


@on_uvloop
async def test_administration_is_not_reachable_over_tcp() -> None:
    """Loopback is open to every user of the machine: one who could invite could read everybody's prompts."""
    async with edge(whole, PAGES, {key_digest("secret"): "ada"}) as it:
        for headers in ((), ("Authorization: Bearer secret",)):
            response = await it.ask(post(b"{}", "/admin", *headers))
            assert (response.status, code_of(response.body)) == (403, "forbidden")


@on_uvloop
async def test_cors_where_it_is_configured() -> None:
    async with edge(whole, PAGES, cors_origins=("https://app.example.com",)) as it:
        response = await it.ask(
            get(
                "/v1/completions",
                "Origin: https://app.example.com",
                "Access-Control-Request-Method: POST",
                "Access-Control-Request-Headers: authorization, content-type",
                method="OPTIONS",
            )
        )
        assert response.status == 204
        assert response.headers["access-control-allow-origin"] == "https://app.example.com"
        assert response.headers["access-control-allow-headers"] == "authorization, content-type"
        assert "POST" in response.headers["access-control-allow-methods"]
        response = await it.ask(post(b"{}", "/v1/completions", "Origin: https://app.example.com"))
        assert (response.status, response.headers["access-control-allow-origin"]) == (200, "https://app.example.com")
        response = await it.ask(get("/v1/completions", "Origin: https://other.example.com", method="OPTIONS"))
        assert response.status == 204
        assert "access-control-allow-origin" not in response.headers


@on_uvloop
async def test_the_unix_socket_is_private_local_and_cleans_up(tmp_path: Path) -> None:
    path = tmp_path / "covey.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    async with edge(whole, PAGES, key_on_loopback=True, unix_path=str(path)) as it:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        client = await it.connect_unix()
        await client.post(b"{}", "/admin")
        assert (await client.response()).status == 200
        with pytest.raises(FileExistsError, match="another agent"):
            async with edge(whole, unix_path=str(path)):
                pass
    assert not path.exists()
    path.write_text("not a socket")
    with pytest.raises(FileExistsError, match="not a socket"):
        async with edge(whole, unix_path=str(path)):
            pass


# --- the end ---------------------------------------------------------------------------------------------------------


@on_uvloop
async def test_draining_finishes_what_is_in_flight() -> None:
    async with edge() as it:
        idle, busy = await it.connect(), await it.connect()
        await busy.post()
        call = await it.door.next()
        call.head(STREAM)
        call.sink.data(b"data: 1\n\n")
        draining = asyncio.ensure_future(it.server.drain(20.0))
        assert await idle.rest() == b""
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await it.connect()
        call.sink.data(b"data: 2\n\n")
        call.sink.end(None)
        assert (await busy.response()).body == b"data: 1\n\ndata: 2\n\n"
        await busy.close()
        assert await draining


@on_uvloop
async def test_draining_ends_after_its_grace() -> None:
    async with edge() as it:
        busy = await it.connect()
        await busy.post()
        call = await it.door.next()
        assert not await it.server.drain(0.0)
        async with asyncio.timeout(20):
            await call.cancelled.wait()
