"""The head of a connection's last request, remembered. A client that keeps its connection sends the same head again and
again, byte for byte, except for the body's length; what the parser, the framing checks and the access policy said of
these bytes holds then as well, and none of them has to be asked again.

Only what was admitted is remembered, on its own connection, for as long as it lives, and for one AccessPolicy: after a
change of keys every head is read anew. Not here: when it may be used (http_connection.py).
"""

from __future__ import annotations

from covey_gateway.core.access import AccessPolicy
from covey_gateway.core.errors import GatewayError
from covey_gateway.io import http_head
from covey_gateway.io.http_request import SMALL_BODY_BYTES, HttpRequest

HEAD_BYTES_MAX = 4096
"""A longer one is not remembered."""

MISSES_MAX = 8
"""After so many heads in a row that came once only, a connection remembers no more."""

DIGITS_MAX = 6
LENGTH_NAME = b"\r\ncontent-length:"


class KnownHead:
    """`request`: that head's, without a body; the requests that follow share it. `length`: of the body after the head
    that `body_at` looked at last."""

    def __init__(
        self, head: bytes, digits_at: int, digits_end: int, request: HttpRequest, access: AccessPolicy
    ) -> None:
        """Raises GatewayError where a header is not valid."""
        self.request = request.following(request.started_s)
        self.access = access
        self.cors = http_head.cors_lines(access.cors_origin(request.headers.get("origin", "")))
        self.priority = request.priority()
        self.deadline_s = request.deadline_s()
        self.length = 0
        self._before = head[:digits_at]
        self._digits_at = digits_at
        self._after = head[digits_end:]

    def body_at(self, data: bytes) -> int:
        """Where the body begins in `data`; 0 if `data` begins with another head, or with a part of this one."""
        if not data.startswith(self._before):
            return 0
        start = self._digits_at
        end = data.find(b"\r", start, start + DIGITS_MAX + 1)
        if end < 0 or not data.startswith(self._after, end):
            return 0
        digits = data[start:end]
        if not digits.isdigit():
            return 0
        self.length = int(digits)
        return end + len(self._after) if self.length <= SMALL_BODY_BYTES else 0


def known_head(data: bytes, request: HttpRequest, access: AccessPolicy) -> KnownHead | None:
    """`data`: what was read from the request's first byte on; `request` was admitted by `access`. None where the same
    bytes might be read differently another time, or where nothing would be saved."""
    length = request.length
    if length is None or length > SMALL_BODY_BYTES or request.close or request.version != "1.1":
        return None
    end = data.find(b"\r\n\r\n", 0, HEAD_BYTES_MAX) + 4
    if end < 4 or "expect" in request.headers:
        return None
    head = data[:end]
    lines = head.count(b"\r\n")
    # Each header on a line of its own, and none that ends in another way: what is found is what the parser found.
    if lines != request.header_count + 2 or head.count(b"\n") != lines or head.count(b"\r") != lines:
        return None
    lowered = head.lower()
    name_at = lowered.find(LENGTH_NAME)
    if name_at < 0 or lowered.count(LENGTH_NAME) != 1:
        return None
    value_at = name_at + len(LENGTH_NAME)
    value_end = head.find(b"\r", value_at)
    value = head[value_at:value_end]
    digits_at = value_at + len(value) - len(value.lstrip(b" \t"))
    # With a blank after the digits, or more of them than are looked for, it is left to the parser.
    if head[digits_at:value_end] != request.headers["content-length"].encode() or value_end - digits_at > DIGITS_MAX:
        return None
    try:
        return KnownHead(head, digits_at, value_end, request, access)
    except GatewayError:
        return None
