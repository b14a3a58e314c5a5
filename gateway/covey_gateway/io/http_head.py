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


def start(head: AnswerHead) -> bytes:
    """Status line, content-type and everything that tells where the answer came from."""
    lines = _repeated_lines(
        head.status, head.content_type, head.node_id or "", head.node_name, head.model, head.attempts, head.why
    )
    request_id = head.request_id if head.request_id.isprintable() else clean(head.request_id)
    seldom = _seldom_lines(head) if head.parts or head.retry_after_s else b""
    return b"%bx-request-id: %b\r\n%b" % (lines, request_id.encode("ascii", "replace"), seldom)


@lru_cache(maxsize=1024)
def _repeated_lines(
    status: int, content_type: str, node_id: str, node_name: str, model: str, attempts: int, why: str
) -> bytes:
    """What is the same from answer to answer."""
    reason = header_lines((("x-covey-why", why),)) if why else b""
    return (
        _first_lines(status, content_type)
        + _who(node_id, node_name, model)
        + b"x-covey-attempts: %d\r\n" % attempts
        + reason
    )


@lru_cache(maxsize=256)
def _first_lines(status: int, content_type: str) -> bytes:
    return status_line(status) + header_lines((("content-type", content_type),))


@lru_cache(maxsize=1024)
def _who(node_id: str, node_name: str, model: str) -> bytes:
    lines = (("x-covey-node", node_name), ("x-covey-node-id", node_id), ("x-covey-model", model))
    return header_lines((name, value) for name, value in lines if value)


def _seldom_lines(head: AnswerHead) -> bytes:
    parts = b"x-covey-parts: %d\r\n" % head.parts if head.parts else b""
    return parts + (b"retry-after: %d\r\n" % head.retry_after_s if head.retry_after_s else b"")


def cors_lines(origin: str) -> bytes:
    if not origin:
        return b""
    return header_lines(
        (("access-control-allow-origin", origin), ("vary", "origin"), ("access-control-expose-headers", EXPOSED))
    )
