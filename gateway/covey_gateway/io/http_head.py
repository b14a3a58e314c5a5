"""Writes response heads: bytes that are safe whatever names and reasons other machines sent."""

from __future__ import annotations

import http
from collections.abc import Iterable
from functools import lru_cache

from covey_gateway.core.front import AnswerHead

HEADER_VALUE_MAX = 512
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
CLOSE = b"connection: close\r\n"
KEEP_ALIVE = b"connection: keep-alive\r\n"
STREAM_HEADERS = b"cache-control: no-cache\r\nx-accel-buffering: no\r\n"
LAST_CHUNK = b"0\r\n\r\n"
EXPOSED = (
    "x-request-id, x-covey-node, x-covey-node-id, x-covey-model, x-covey-attempts, x-covey-parts, x-covey-why, "
    "retry-after"
)


@lru_cache(maxsize=128)
def status_line(status: int) -> bytes:
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


def clean(value: str) -> str:
    """Printable ASCII, bounded: nothing that could end a header line."""
    value = value[:HEADER_VALUE_MAX]
    if value.isascii() and value.isprintable():
        return value
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in value)


def header_lines(pairs: Iterable[tuple[str, str]]) -> bytes:
    return "".join(f"{clean(name)}: {clean(value)}\r\n" for name, value in pairs).encode("ascii")


@lru_cache(maxsize=1024)
def _who(node_id: str, node_name: str, model: str, attempts: int) -> bytes:
    lines = (("x-covey-node", node_name), ("x-covey-node-id", node_id), ("x-covey-model", model))
    named = header_lines((name, value) for name, value in lines if value)
    return b"%bx-covey-attempts: %d\r\n" % (named, attempts)


@lru_cache(maxsize=256)
def _line(name: str, value: str) -> bytes:
    return header_lines(((name, value),))


@lru_cache(maxsize=256)
def _first_lines(status: int, content_type: str) -> bytes:
    return status_line(status) + header_lines((("content-type", content_type),))


def start(head: AnswerHead) -> bytes:
    """Status line, content-type and everything that tells where the answer came from."""
    request_id = head.request_id
    if not (request_id.isascii() and request_id.isprintable()):
        request_id = clean(request_id)
    return b"%b%bx-request-id: %b\r\n%b%b" % (
        _first_lines(head.status, head.content_type),
        _who(head.node_id or "", head.node_name, head.model, head.attempts),
        request_id.encode("ascii"),
        _line("x-covey-why", head.why) if head.why else b"",
        _seldom(head) if head.parts or head.retry_after_s else b"",
    )


def _seldom(head: AnswerHead) -> bytes:
    parts = b"x-covey-parts: %d\r\n" % head.parts if head.parts else b""
    return parts + (b"retry-after: %d\r\n" % head.retry_after_s if head.retry_after_s else b"")


def cors_lines(origin: str) -> bytes:
    if not origin:
        return b""
    return header_lines(
        (("access-control-allow-origin", origin), ("vary", "origin"), ("access-control-expose-headers", EXPOSED))
    )
