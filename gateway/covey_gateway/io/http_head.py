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
def _who(node_id: str, node_name: str, model: str) -> str:
    lines = (("x-covey-node", node_name), ("x-covey-node-id", node_id), ("x-covey-model", model))
    return header_lines((name, value) for name, value in lines if value).decode("ascii")


def answer_lines(head: AnswerHead) -> bytes:
    """content-type and everything that tells where the answer came from."""
    parts = f"x-covey-parts: {head.parts}\r\n" if head.parts else ""
    who = _who(head.node_id or "", head.node_name, head.model)
    retry = f"retry-after: {head.retry_after_s}\r\n" if head.retry_after_s else ""
    why = f"x-covey-why: {clean(head.why)}\r\n" if head.why else ""
    return (
        f"content-type: {clean(head.content_type)}\r\nx-request-id: {clean(head.request_id)}\r\n"
        f"{who}x-covey-attempts: {head.attempts}\r\n{parts}{why}{retry}"
    ).encode("ascii")


def cors_lines(origin: str) -> bytes:
    if not origin:
        return b""
    return header_lines(
        (("access-control-allow-origin", origin), ("vary", "origin"), ("access-control-expose-headers", EXPOSED))
    )
