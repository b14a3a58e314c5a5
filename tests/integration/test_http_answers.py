"""The HTTP edge over real sockets: answers, whole and streamed, to the end of a drained server."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.http_edge import STREAM, code_of, edge, on_uvloop, post, whole

from covey_mesh.core.exchange import Failure, FailureCode


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
