"""Bodies taken as they come and pages sent in pieces, over real sockets: slow, huge, broken and vanished clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from tests.support.http_edge import edge, eventually, on_uvloop, post

from covey_gateway.core.errors import Code, GatewayError
from covey_gateway.core.keys import key_digest
from covey_gateway.core.pages import PlainRequest, PlainResponse, Route, Routes
from covey_gateway.io.http_upload import UNREAD_BYTES_MAX

MIB = 2**20
UPLOAD_MAX = 64 * MIB


class Pages:
    """An upload that counts, and a download of any size."""

    def __init__(self) -> None:
        self.got = 0
        self.began = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()
        self.ended: list[str] = []
        self.sent = 0

    async def upload(self, request: PlainRequest) -> PlainResponse:
        self.began.set()
        how = "broken off"
        try:
            if request.pieces is None:
                self.got = len(request.body)
            else:
                async for piece in request.pieces:
                    await self.go.wait()
                    self.got += len(piece)
            how = "whole"
        except GatewayError as error:
            how = error.code.value
            raise
        finally:
            self.ended.append(how)
        return PlainResponse(body=json.dumps({"got": self.got}).encode())

    async def refusing(self, request: PlainRequest) -> PlainResponse:
        raise GatewayError(507, Code.STORAGE_FULL, "No room.")

    async def pieces(self, count: int, fails_at: int) -> AsyncGenerator[bytes, None]:
        try:
            for number in range(count):
                if number == fails_at:
                    raise GatewayError(503, Code.OWNER_UNREACHABLE, "lost")
                self.sent += 1000
                yield b"z" * 1000
        finally:
            self.ended.append("closed")

    async def download(self, request: PlainRequest) -> PlainResponse:
        count, fails_at, known = (int(word) for word in request.query.split(","))
        length = count * 1000 if known else None
        return PlainResponse(content_type="x/y", pieces=self.pieces(count, fails_at), length=length)

    def routes(self) -> Routes:
        return Routes(
            {
                ("POST", "/up"): Route(self.upload, upload_bytes_max=UPLOAD_MAX),
                ("POST", "/full"): Route(self.refusing, upload_bytes_max=UPLOAD_MAX),
                ("GET", "/down"): Route(self.download),
            }
        )


def head(length: int, path: str = "/up", *headers: str) -> bytes:
    return post(b"", path, *headers).replace(b"Content-Length: 0", b"Content-Length: %d" % length)


def got(body: bytes) -> int:
    return int(json.loads(body)["got"])


@on_uvloop
async def test_a_body_larger_than_any_request_is_taken_as_it_comes() -> None:
    pages = Pages()
    async with edge(None, pages.routes()) as it:
        client = await it.connect()
        for size in (0, 10, 70_000, 40 * MIB):
            pages.got = 0
            await client.send(head(size) + b"x" * size)
            response = await client.response()
            assert (response.status, got(response.body)) == (200, size)
        assert pages.ended == ["whole"] * 4
        assert it.server.bodies.used == 0


@on_uvloop
async def test_a_chunked_upload() -> None:
    pages = Pages()
    async with edge(None, pages.routes()) as it:
        client = await it.connect()
        await client.send(b"POST /up HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        await pages.began.wait()
        for _ in range(3):
            await client.send(b"5\r\nhello\r\n")
        await client.send(b"0\r\n\r\n")
        assert got((await client.response()).body) == 15
        await client.send(head(3) + b"abc")
        assert (await client.response()).status == 200


@on_uvloop
async def test_a_page_slower_than_its_client_bounds_what_is_held() -> None:
    pages = Pages()
    async with edge(None, pages.routes()) as it:
        client = await it.connect()
        pages.go.clear()
        size = 32 * MIB
        sending = asyncio.ensure_future(client.send(head(size) + b"x" * size))
        await pages.began.wait()
        held = next(iter(it.server._connections))
        await eventually(lambda: upload_of(held).paused, "reading pauses")
        assert upload_of(held)._held_bytes < UNREAD_BYTES_MAX + 2 * MIB
        it.pass_time(1000)
        assert pages.ended == [], "our own slowness is not the client's"
        pages.go.set()
        await sending
        assert got((await client.response()).body) == size


def upload_of(connection: Any) -> Any:
    return connection._exchange.request.upload


@on_uvloop
@pytest.mark.parametrize("chunked", [False, True])
async def test_an_upload_that_is_too_large(chunked: bool) -> None:
    pages = Pages()
    async with edge(None, pages.routes()) as it:
        client = await it.connect()
        if not chunked:
            await client.send(head(UPLOAD_MAX + 1))
        else:
            await client.send(b"POST /up HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
            piece = b"100000\r\n" + b"x" * MIB + b"\r\n"
            for _ in range(65):
                await client.send(piece)
        response = await client.response()
        assert response.status == 413
        assert response.headers["connection"] == "close"
        assert pages.ended == (["body_too_large"] if chunked else [])


@on_uvloop
async def test_a_client_that_leaves_in_the_middle() -> None:
    pages = Pages()
    async with edge(None, pages.routes()) as it:
        client = await it.connect()
        await client.send(head(MIB) + b"x" * 100_000)
        await pages.began.wait()
        await client.close()
        await eventually(lambda: pages.ended, "the page has ended")
        assert pages.ended[0] in ("bad_http", "broken off")


@on_uvloop
@pytest.mark.parametrize(
    ("wait_s", "code"),
    [(21.0, "request_timeout"), (19.0, "")],
)
async def test_a_client_that_falls_silent(wait_s: float, code: str) -> None:
    pages = Pages()
    async with edge(None, pages.routes()) as it:
        client = await it.connect()
        await client.send(head(MIB) + b"x" * 100_000)
        await eventually(lambda: pages.got == 100_000, "what was sent has come")
        it.pass_time(wait_s)
        if code:
            response = await client.response()
            assert (response.status, pages.ended) == (408, [code])
        else:
            await client.send(b"x" * (MIB - 100_000))
            assert (await client.response()).status == 200


@on_uvloop
async def test_a_body_that_breaks_the_framing() -> None:
    pages = Pages()
    async with edge(None, pages.routes()) as it:
        client = await it.connect()
        await client.send(b"POST /up HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await pages.began.wait()
        await client.send(b"zz\r\n")
        response = await client.response()
        assert (response.status, pages.ended) == (400, ["bad_http"])


@on_uvloop
async def test_a_refusal_before_the_body_is_over_ends_the_connection() -> None:
    async with edge(None, Pages().routes()) as it:
        client = await it.connect()
        await client.send(head(MIB, "/full") + b"x" * 1000)
        response = await client.response()
        assert (response.status, response.headers["connection"]) == (507, "close")
        await client.send(b"x" * 1000)
        assert await client.rest() == b""


@on_uvloop
async def test_keys_are_asked_for_before_the_body() -> None:
    pages = Pages()
    async with edge(None, pages.routes(), {key_digest("secret"): "ada"}, key_on_loopback=True) as it:
        assert (await it.ask(head(MIB))).status == 401
        assert not pages.began.is_set()
        assert (await it.ask(head(70_000, "/up", "Authorization: Bearer secret") + b"x" * 70_000)).status == 200


@on_uvloop
async def test_an_upload_behind_another_request_is_refused() -> None:
    async with edge(None, Pages().routes()) as it:
        client = await it.connect()
        await client.send(post() + head(MIB))
        call = await it.door.next()
        call.answer(b"{}")
        assert (await client.response()).status == 200
        assert (await client.response()).status == 400


# --- pages in pieces --------------------------------------------------------------------------------------------------


def get(path: str, method: str = "GET", version: str = "1.1") -> bytes:
    return f"{method} {path} HTTP/{version}\r\nHost: localhost\r\n\r\n".encode()


@on_uvloop
@pytest.mark.parametrize("known", [0, 1])
async def test_a_page_in_pieces_leaves_the_connection_usable(known: int) -> None:
    async with edge(None, Pages().routes()) as it:
        client = await it.connect()
        for count in (0, 1, 300):
            await client.send(get(f"/down?{count},-1,{known}"))
            response = await client.response()
            assert (response.status, len(response.body)) == (200, count * 1000)
            assert ("content-length" in response.headers) == bool(known)
        await client.send(get("/down?5,-1,1", "HEAD"))
        response = await client.response(bodiless=True)
        assert (response.headers["content-length"], response.body) == ("5000", b"")


@on_uvloop
@pytest.mark.parametrize("known", [0, 1])
async def test_a_page_that_breaks_off_shows(known: int) -> None:
    async with edge(None, Pages().routes()) as it:
        client = await it.connect()
        await client.send(get(f"/down?9,4,{known}"))
        await client.head()
        rest = await client.rest()
        assert rest.count(b"z") == 4000
        assert not rest.endswith(b"0\r\n\r\n")


@on_uvloop
async def test_http_1_0_gets_a_page_in_pieces_and_an_end() -> None:
    async with edge(None, Pages().routes()) as it:
        client = await it.connect()
        await client.send(get("/down?7,-1,0", version="1.0"))
        await client.head()
        assert await client.rest() == b"z" * 7000


@on_uvloop
async def test_a_slow_reader_holds_the_page_back() -> None:
    pages = Pages()
    async with edge(None, pages.routes()) as it:
        client = await it.connect(limit=1000)
        await client.send(get("/down?100000,-1,1"))
        await steady(lambda: pages.sent)
        assert 0 < pages.sent < 50 * MIB
        await client.close()
        await eventually(lambda: pages.ended == ["closed"], "the page has ended")


async def steady(figure: Callable[[], int]) -> None:
    """Until it has stopped growing."""
    before = -1
    while figure() != before or not before:
        before = figure()
        await asyncio.sleep(0.1)
