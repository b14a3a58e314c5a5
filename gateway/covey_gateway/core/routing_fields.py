"""Reads from a request's body what routing needs, and nothing else: the body itself goes to the engine untouched.

Prompts stay raw bytes (msgspec.Raw): never decoded, logged or kept. Decided: a duplicate key counts by its last value,
as in the engine; NaN and Infinity, lone surrogates, invalid UTF-8, a byte-order mark and nesting beyond the
interpreter's recursion limit are malformed; integral floats (16.0) are taken for integers, since JavaScript clients
send them.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from covey_gateway.core.errors import GatewayError, invalid_field, malformed_json
from covey_gateway.core.paths import PathKind

BYTES_PER_TOKEN = 4.0
"""Bytes of English JSON text a token, the planning figure until a model's own ratio is known (token_ratio.py)."""

BYTES_PER_TOKEN_MOST = 64
"""No vocabulary in use averages longer tokens over a whole prompt: a lower bound on tokens."""

BYTES_PER_ESCAPED_BYTE_MOST = 6
"""JSON may write one byte of text as six (a unicode escape)."""

TOKENS_MAX = 2**31 - 1
CHOICES_MAX = 10_000

_NOTHING = msgspec.Raw(b"")
_NOT_ONLY_TEXT = (b'"image_url"', b'"input_audio"', b'"audio_url"', b'"video_url"', b'"image"', b'"input_image"')
_UNKNOWN_LENGTH = b'"truncate_prompt_tokens"'

Number = int | float | None


class _Body(msgspec.Struct):
    model: str | None = None
    stream: bool | None = None
    n: Number = None
    max_tokens: Number = None
    max_completion_tokens: Number = None
    max_output_tokens: Number = None
    tools: msgspec.Raw = _NOTHING
    system: msgspec.Raw = _NOTHING
    messages: msgspec.Raw = _NOTHING
    prompt: msgspec.Raw = _NOTHING
    input: msgspec.Raw = _NOTHING


_decoder = msgspec.json.Decoder(_Body)


@dataclass(frozen=True, slots=True)
class RoutingFields:
    """`prompt` holds the raw JSON of tools, system text and messages/prompt/input, in the order a template uses.

    `max_output_tokens` is over all `choices`; None where the client names no bound. `prompt_tokens_least` is a safe
    lower bound of one prompt's length, 0 where none can be given.
    """

    model: str
    streaming: bool
    choices: int
    max_output_tokens: int | None
    prompt: bytes
    prompt_tokens_least: int


def read_routing_fields(body: bytes, kind: PathKind) -> RoutingFields:
    """Raises GatewayError (400) for anything that is not a JSON object with usable fields."""
    decoded = _decode(body)
    choices = _count(decoded.n, "n", CHOICES_MAX)
    prompt = b"".join(map(bytes, (decoded.tools, decoded.system, decoded.messages, decoded.prompt, decoded.input)))
    return RoutingFields(
        model=decoded.model or "",
        streaming=bool(decoded.stream),
        choices=1 if choices is None else max(1, choices),
        max_output_tokens=_output_bound(decoded, kind, choices),
        prompt=prompt or (body if kind is PathKind.OTHER else b""),
        prompt_tokens_least=_tokens_least(decoded, body),
    )


def estimate_prompt_tokens(prompt: bytes, bytes_per_token: float = BYTES_PER_TOKEN) -> int:
    """Planning figure, at least 1: length over the model's ratio. Images as data URLs are overestimated: harmless."""
    return max(1, round(len(prompt) / bytes_per_token))


def _decode(body: bytes) -> _Body:
    if not body or body.isspace():
        raise malformed_json("it is empty")
    try:
        if not body.isascii():
            body.decode("utf-8")
        return _decoder.decode(body)
    except UnicodeDecodeError as error:
        raise malformed_json(f"invalid UTF-8 at byte {error.start}") from None
    except msgspec.ValidationError as error:
        raise invalid_field(*_field_error(str(error))) from None
    except msgspec.DecodeError as error:
        raise malformed_json(_position(str(error), body)) from None
    except RecursionError:
        raise malformed_json("it is nested too deeply") from None


def _position(detail: str, body: bytes) -> str:
    if "truncated" in detail:
        return f"it ends early or has an incomplete escape (of {len(body)} bytes)"
    return detail.removeprefix("JSON is malformed: ")


def _field_error(detail: str) -> tuple[str, str | None]:
    message, _, where = detail.partition(" - at `$.")
    param = where.rstrip("`") or None
    return (f"`{param}`: {message}" if param else f"The body: {message}"), param


def _output_bound(decoded: _Body, kind: PathKind, choices: int | None) -> int | None:
    if kind in (PathKind.EMBEDDING, PathKind.OTHER):
        return 0
    bounds = [
        _count(getattr(decoded, name), name, TOKENS_MAX)
        for name in ("max_completion_tokens", "max_output_tokens", "max_tokens")
    ]
    bound = next((b for b in bounds if b is not None), None)
    return None if bound is None else min(TOKENS_MAX, bound * max(1, choices or 1))


def _count(value: Number, param: str, most: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, float) and not value.is_integer():
        raise invalid_field(f"`{param}`: Expected `int`, got `float`", param)
    if value < 0:
        raise invalid_field(f"`{param}`: must not be negative", param)
    return min(int(value), most)


def _tokens_least(decoded: _Body, body: bytes) -> int:
    messages = bytes(decoded.messages)
    text = messages or bytes(decoded.prompt)
    if not (messages or text.startswith(b'"')) or len(text) < 2 * BYTES_PER_TOKEN_MOST or _UNKNOWN_LENGTH in body:
        return 0
    if any(marker in text for marker in _NOT_ONLY_TEXT):
        return 0
    divisor = BYTES_PER_TOKEN_MOST * (BYTES_PER_ESCAPED_BYTE_MOST if b"\\u" in text else 1)
    return len(text) // divisor


__all__ = [
    "BYTES_PER_TOKEN",
    "GatewayError",
    "RoutingFields",
    "estimate_prompt_tokens",
    "read_routing_fields",
]
