"""A request's body as JSON, as far as routing reads it: one pass, everything long stays raw bytes (msgspec.Raw).

Decided: a duplicate key counts by its last value, as in the engine; NaN and Infinity, lone surrogates, invalid UTF-8, a
byte-order mark and nesting beyond the interpreter's recursion limit are malformed. Not here: what the fields mean
(routing_fields.py).
"""

from __future__ import annotations

import msgspec

from covey_gateway.core.errors import invalid_field, malformed_json

ABSENT = msgspec.Raw(b"")
"""Stands for a field that is not there; compare with `is`."""

Number = int | float | None


class Body(msgspec.Struct, gc=False):
    """The fields that routing reads. Only what holds no references may do without the garbage collector: these do."""

    model: str | None = None
    stream: bool | None = None
    n: Number = None
    max_tokens: Number = None
    max_completion_tokens: Number = None
    max_output_tokens: Number = None
    tools: msgspec.Raw = ABSENT
    system: msgspec.Raw = ABSENT
    messages: msgspec.Raw = ABSENT
    prompt: msgspec.Raw = ABSENT
    input: msgspec.Raw = ABSENT
    user: msgspec.Raw = ABSENT
    service_tier: msgspec.Raw = ABSENT


_decode = msgspec.json.Decoder(Body).decode


def read_body(body: bytes) -> Body:
    """Raises GatewayError (400) for anything that is not a JSON object with fields of these types."""
    try:
        if not body.isascii():
            body.decode("utf-8")
        return _decode(body)
    except UnicodeDecodeError as error:
        raise malformed_json(f"invalid UTF-8 at byte {error.start}") from None
    except msgspec.ValidationError as error:
        raise invalid_field(*_field_error(str(error))) from None
    except msgspec.DecodeError as error:
        raise malformed_json(_position(str(error), body)) from None
    except RecursionError:
        raise malformed_json("it is nested too deeply") from None


def _position(detail: str, body: bytes) -> str:
    if not body or body.isspace():
        return "it is empty"
    if "truncated" in detail:
        return f"it ends early or has an incomplete escape (of {len(body)} bytes)"
    return detail.removeprefix("JSON is malformed: ")


def _field_error(detail: str) -> tuple[str, str | None]:
    message, _, where = detail.partition(" - at `$.")
    param = where.rstrip("`") or None
    return (f"`{param}`: {message}" if param else f"The body: {message}"), param
