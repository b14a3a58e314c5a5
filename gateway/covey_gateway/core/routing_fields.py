"""Reads from a request's body what routing needs, and nothing else: the body itself goes to the engine untouched.

Prompts stay raw bytes (msgspec.Raw): never decoded, logged or kept. Decided: a duplicate key counts by its last value,
as in the engine; NaN and Infinity, lone surrogates, invalid UTF-8, a byte-order mark and nesting beyond the
interpreter's recursion limit are malformed; integral floats (16.0) are taken for integers, since JavaScript clients
send them.
"""

from __future__ import annotations

import re

import msgspec

from covey_gateway.core.errors import invalid_field, malformed_json
from covey_gateway.core.paths import PathKind
from covey_mesh.core.frozen import frozen

BYTES_PER_TOKEN = 4.0
"""Bytes of English JSON text a token: the planning figure until a model's own is known (event_stream.TokenRatio)."""

BYTES_PER_TOKEN_MOST = 64
"""No vocabulary in use averages longer tokens over a whole prompt: a lower bound on tokens."""

BYTES_PER_ESCAPED_BYTE_MOST = 6
"""JSON may write one byte of text as six (a unicode escape)."""

MEDIA_TOKENS = 1000
"""An image or sound costs a model roughly this much, whatever its size in bytes."""

MEDIA_BYTES_LEAST = 512

TOKENS_MAX = 2**31 - 1
CHOICES_MAX = 10_000
"""More are counted as so many."""

_MEDIA = re.compile(rb'(?:base64,|"data"\s*:\s*")[A-Za-z0-9+/=_\\-]*')
_NOTHING = msgspec.Raw(b"")
_NOT_ONLY_TEXT = re.compile(rb'"(?:image_url|input_audio|audio_url|video_url|image|input_image)"')
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
    user: msgspec.Raw = _NOTHING
    service_tier: msgspec.Raw = _NOTHING


_decoder = msgspec.json.Decoder(_Body)


@frozen
class RoutingFields:
    """`prompt` holds the raw JSON of tools, system text and messages/prompt/input, in the order a template uses.

    `max_output_tokens` is over all `choices`; None where the client names no bound. `prompt_tokens_least` is a safe
    lower bound of one prompt's length, 0 where none can be given. `batch`: many independent prompts or inputs.
    `token_ids`: how many token ids the prompt lists, 0 for text. `text_bytes`: the prompt without embedded media.
    `user` and `service_tier` are raw JSON, whatever their type, b"" if absent.
    """

    model: str
    streaming: bool
    choices: int
    max_output_tokens: int | None
    prompt: bytes
    text_bytes: int
    token_ids: int
    batch: bool
    prompt_tokens_least: int
    user: bytes = b""
    service_tier: bytes = b""

    @property
    def units_most(self) -> int:
        """No more independent parts than this, counted without parsing: every text has two quotes, every list of token
        ids a bracket."""
        prompts = self.prompt.count(b"[" if self.token_ids else b'"') if self.batch else 1
        return self.choices * (prompts if self.token_ids else max(1, prompts // 2))

    def prompt_tokens(self, bytes_per_token: float, context_tokens: int) -> int:
        """Planning figure, at least 1, over all prompts. A batch counts as one context at most (`context_tokens`; 0:
        unknown), since each of its parts has a context of its own."""
        estimate = self.token_ids or max(1, round(self.text_bytes / bytes_per_token))
        if self.batch and context_tokens:
            estimate = min(estimate, context_tokens)
        return min(estimate, TOKENS_MAX)


def read_routing_fields(body: bytes, kind: PathKind) -> RoutingFields:
    """Raises GatewayError (400) for anything that is not a JSON object with usable fields."""
    decoded = _decode(body)
    choices = _count(decoded.n, "n", CHOICES_MAX)
    content = bytes(decoded.messages) or bytes(decoded.prompt) or bytes(decoded.input)
    prompt = bytes(decoded.tools) + bytes(decoded.system) + content
    shape = content[:64].translate(None, b" \t\r\n")[:2]
    embeds = kind is PathKind.EMBEDDING
    if not content and kind in (PathKind.EMBEDDING, PathKind.OTHER):
        prompt = body
    is_ids = shape[:1] == b"[" and (shape[1:].isdigit() or shape == b"[[")
    return RoutingFields(
        model=decoded.model or "",
        streaming=bool(decoded.stream),
        choices=1 if choices is None else max(1, choices),
        max_output_tokens=_output_bound(decoded, kind, choices),
        prompt=prompt,
        text_bytes=_text_bytes(prompt),
        token_ids=content.count(b",") + 1 if is_ids else 0,
        batch=shape in (b'["', b"[[") or (embeds and shape[:1] != b'"' and not shape[1:].isdigit()),
        prompt_tokens_least=_tokens_least(decoded, body),
        user=bytes(decoded.user),
        service_tier=bytes(decoded.service_tier),
    )


def _text_bytes(prompt: bytes) -> int:
    """Length without base64 media, each of which is taken for a typical image's tokens."""
    if b"base64," not in prompt and b'"data"' not in prompt:
        return len(prompt)
    media = [len(found.group()) for found in _MEDIA.finditer(prompt) if len(found.group()) > MEDIA_BYTES_LEAST]
    return len(prompt) - sum(media) + round(len(media) * MEDIA_TOKENS * BYTES_PER_TOKEN)


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
    newest = _count(decoded.max_completion_tokens, "max_completion_tokens", TOKENS_MAX)
    responses = _count(decoded.max_output_tokens, "max_output_tokens", TOKENS_MAX)
    bound = _count(decoded.max_tokens, "max_tokens", TOKENS_MAX)
    if newest is not None or responses is not None:
        bound = responses if newest is None else newest
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
    if _NOT_ONLY_TEXT.search(text):
        return 0
    divisor = BYTES_PER_TOKEN_MOST * (BYTES_PER_ESCAPED_BYTE_MOST if b"\\u" in text else 1)
    return len(text) // divisor
