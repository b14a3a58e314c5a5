"""The HTTP edge over real sockets: requests in any pieces, malformed, ambiguous, too large and too many."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from tests.support.http_edge import DEFAULTS, HEAD, code_of, edge, eventually, on_uvloop, post, whole
from tests.support.http_pages import PAGES, get


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
