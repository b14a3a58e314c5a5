"""The HTTP edge over real sockets: clients that send or read slowly, stop, or leave."""

from __future__ import annotations

import asyncio
import socket

import pytest
from tests.support.http_edge import DEFAULTS, HEAD, STREAM, code_of, edge, eventually, on_uvloop, whole


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
