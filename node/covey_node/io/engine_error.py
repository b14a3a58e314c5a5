"""What an engine's error says, whether it came as an answer's body or, behind status 200, as the first event of a
stream (vLLM answers before it knows that its queue is full)."""

from __future__ import annotations

import msgspec

ERROR_EVENTS = (b'data: {"error"', b'data:{"error"', b'data: {"object":"error"')
"""How an event stream begins that is no answer."""

MESSAGE_BYTES_MAX = 200
"""Of an error that is not JSON."""


class _ErrorDetail(msgspec.Struct):
    message: str = ""
    code: int | str | None = None


class _ErrorBody(msgspec.Struct):
    error: _ErrorDetail


def read_error(status: int, held: bytes) -> tuple[int, str, bytes]:
    """(HTTP status, message, JSON body) of an engine's error, as a body or as the first event of a stream."""
    body = held
    if body.startswith(b"data:"):
        body = body[5:].split(b"\n", 1)[0].strip()
    try:
        detail = msgspec.json.decode(body, type=_ErrorBody).error
    except (msgspec.DecodeError, msgspec.ValidationError):
        return (status if status >= 400 else 500), held[:MESSAGE_BYTES_MAX].decode("utf-8", "replace"), body
    code = str(detail.code)
    inner = int(code) if code.isdecimal() else status
    return (inner if inner >= 400 else 500), detail.message, body
