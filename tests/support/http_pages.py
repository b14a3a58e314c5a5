"""Pages of every kind, for tests of the HTTP edge."""

from __future__ import annotations

import asyncio
import json

from covey_gateway.core.pages import Access, PlainRequest, PlainResponse, Route, Routes


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
