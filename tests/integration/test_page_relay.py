"""Pages of a gateway process: the same answers as the agent's own, over two edges and real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.test_http_uploads import MIB, UPLOAD_MAX, Pages, got, head
from tests.support.http_edge import Edge, Response, code_of, edge, eventually, on_uvloop, post, whole
from tests.support.http_pages import PAGES, get

from covey_gateway.core.keys import key_digest
from covey_gateway.core.pages import Routes
from covey_gateway.io.processes.page_relay import PageRelay, described

KEYS = {key_digest("alices key"): "alice", key_digest("bens key"): "ben"}
ALICE = "Authorization: Bearer alices key"


@contextlib.asynccontextmanager
async def two_edges(
    tmp_path: Path, routes: Routes, pages_max: int = 8, **settings: Any
) -> AsyncIterator[tuple[Edge, Edge]]:
    """The agent's edge, and that of a process which has only the table of its pages."""
    path = str(tmp_path / "agent.sock")
    table = PageRelay(path, pages_max).routes(described(routes))
    async with (
        edge(whole, routes, KEYS, unix_path=path, **settings) as agent,
        edge(whole, table, KEYS, **settings) as it,
    ):
        yield agent, it


def without_date(response: Response) -> Response:
    return Response(response.status, {k: v for k, v in response.headers.items() if k != "date"}, response.body)


@pytest.mark.parametrize(
    "request_bytes",
    [
        get("/page?a=b&c=%20d"), get("/page", ALICE), get("/page", "x-api-key: bens key"), get("/tree/deep/x%2Fy/z"),
        get("/page", method="HEAD"), get("/open"), get("/failing"), get("/nothing"), get("/page", "Origin: http://evil"),
        get("/page", "Authorization: Bearer wrong"), get("/page", "Connection: close"), post(b"{}", "/admin"),
        post(b"{}", "/page"), get("http://localhost/page?absolute"), b"GET /page HTTP/1.0\r\n\r\n",
        b"OPTIONS /page HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)  # fmt: skip
@on_uvloop
async def test_a_process_answers_as_its_agent_does(tmp_path: Path, request_bytes: bytes) -> None:
    async with two_edges(tmp_path, PAGES) as (agent, it):
        assert without_date(await it.ask(request_bytes)) == without_date(await agent.ask(request_bytes))


@on_uvloop
async def test_a_connection_serves_page_after_page(tmp_path: Path) -> None:
    async with two_edges(tmp_path, PAGES) as (_, it):
        client = await it.connect()
        for number in range(20):
            await client.send(get(f"/page?{number}"))
            assert (await client.response()).status == 200
            await client.post()
            assert (await client.response()).body == b'{"echo":2}'


@on_uvloop
async def test_uploads_and_downloads_pass_through_as_they_come(tmp_path: Path) -> None:
    pages = Pages()
    async with two_edges(tmp_path, pages.routes()) as (_, it):
        client = await it.connect()
        for size in (0, 10, 70_000, 40 * MIB):
            pages.got = 0
            await client.send(head(size) + b"x" * size)
            assert got((await client.response()).body) == size
        pages.got = 0
        await client.send(b"POST /up HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.send(b"5\r\nhello\r\n0\r\n\r\n")
        assert got((await client.response()).body) == 5
        for known in (0, 1):
            response = await it.ask(get(f"/down?2000,-1,{known}"))
            assert (response.body, response.headers["content-type"]) == (b"z" * 2_000_000, "x/y")
            assert ("content-length" in response.headers) is bool(known)


@on_uvloop
async def test_what_breaks_off_breaks_off_for_all(tmp_path: Path) -> None:
    pages = Pages()
    async with two_edges(tmp_path, pages.routes()) as (_, it):
        client = await it.connect()
        await client.send(get("/down?9,5,0"))
        assert (await client.head()).status == 200
        assert not (await client.rest()).endswith(b"0\r\n\r\n")  # a download whose source failed
        client = await it.connect()
        await client.send(head(MIB) + b"x" * 1000)
        await pages.began.wait()
        await client.close()  # an upload whose client left
        await eventually(lambda: pages.ended[-1:] in (["bad_http"], ["broken off"]), "the page hears of it")
        response = await it.ask(head(1000, "/full") + b"x" * 1000)
        assert (response.status, code_of(response.body)) == (507, "storage_full")
        response = await it.ask(head(UPLOAD_MAX + 1))
        assert (response.status, code_of(response.body)) == (413, "body_too_large")


@on_uvloop
async def test_a_refusal_in_the_middle_of_an_upload_is_passed_on(tmp_path: Path) -> None:
    async with two_edges(tmp_path, Pages().routes()) as (_, it):
        client = await it.connect()
        await client.send(head(MIB, "/full") + b"x" * 1000)
        assert (await client.response()).status == 507


@on_uvloop
async def test_a_slow_reader_slows_the_agents_page(tmp_path: Path) -> None:
    pages = Pages()
    async with two_edges(tmp_path, pages.routes(), write_high_bytes=65536, write_low_bytes=16384) as (_, it):
        client = await it.connect(limit=65536)
        await client.send(get("/down?1000000,-1,0"))
        await client.head()
        before = -1
        while before != pages.sent:
            before = pages.sent
            await asyncio.sleep(0.2)
        assert pages.sent < 50_000_000
        await client.close()
        await eventually(lambda: "closed" in pages.ended, "the agent's page ends")


@on_uvloop
async def test_without_an_agent_and_with_too_many_pages_there_is_an_answer(tmp_path: Path) -> None:
    async with two_edges(tmp_path, PAGES, pages_max=2) as (agent, it):
        clients = [await it.connect() for _ in range(2)]
        for client in clients:
            await client.send(get("/hanging"))
        await eventually(lambda: len(agent.server._connections) == 2, "both are with the agent")
        response = await it.ask(get("/page"))
        assert (response.status, code_of(response.body)) == (503, "gateway_full")
        for client in clients:
            await client.close()
        await eventually(lambda: not agent.server._connections, "a client that leaves takes its page along")
        assert (await it.ask(get("/page"))).status == 200
        await agent.server.close()
        response = await it.ask(get("/page"))
        assert (response.status, code_of(response.body)) == (503, "nothing_able_to_serve")
