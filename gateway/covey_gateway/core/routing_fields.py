"""Reads from a request's body what routing needs, and nothing else: the body itself goes to the engine untouched.

Prompts stay raw bytes: never decoded, logged or kept. Integral floats (16.0) are taken for integers, since JavaScript
clients send them. Most requests are a chat of one answer with at most `max_tokens`: what is unusual has functions of
its own, what few ask for is worked out when they ask. Not here: JSON, and what is wrong with it (request_body.py).
"""

from __future__ import annotations

import re

from covey_gateway.core.errors import invalid_field
from covey_gateway.core.paths import PathKind
from covey_gateway.core.request_body import ABSENT, Body, read_body

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
_NOT_ONLY_TEXT = re.compile(rb'"(?:image_url|input_audio|audio_url|video_url|image|input_image)"')
_UNKNOWN_LENGTH = b'"truncate_prompt_tokens"'

_EMBEDDING, _OTHER = PathKind.EMBEDDING, PathKind.OTHER


class RoutingFields:
    """`prompt` holds the raw JSON of tools, system text and messages/prompt/input, in the order a template uses.

    `max_output_tokens` is over all `choices`; None where the client names no bound. `batch`: many independent prompts
    or inputs. `token_ids`: how many token ids the prompt lists, 0 for text. `text_bytes`: the prompt without embedded
    media. `user` and `service_tier` are raw JSON, whatever their type, b"" if absent.
    """

    __slots__ = (
        "_body",
        "_one_prompt",
        "batch",
        "choices",
        "max_output_tokens",
        "model",
        "prompt",
        "service_tier",
        "streaming",
        "text_bytes",
        "token_ids",
        "user",
    )

    def __init__(
        self,
        model: str,
        streaming: bool,
        choices: int,
        max_output_tokens: int | None,
        prompt: bytes,
        text_bytes: int,
        token_ids: int,
        batch: bool,
        user: bytes,
        service_tier: bytes,
        one_prompt: bytes,
        body: bytes,
    ) -> None:
        """`one_prompt`: raw messages, or a prompt that is one text; b"" otherwise."""
        self.model = model
        self.streaming = streaming
        self.choices = choices
        self.max_output_tokens = max_output_tokens
        self.prompt = prompt
        self.text_bytes = text_bytes
        self.token_ids = token_ids
        self.batch = batch
        self.user = user
        self.service_tier = service_tier
        self._one_prompt = one_prompt
        self._body = body

    @property
    def prompt_tokens_least(self) -> int:
        """A safe lower bound of one prompt's length, 0 where none can be given."""
        text = self._one_prompt
        if (
            len(text) < 2 * BYTES_PER_TOKEN_MOST
            or self._body.rfind(_UNKNOWN_LENGTH) >= 0
            or _NOT_ONLY_TEXT.search(text)
        ):
            return 0
        return len(text) // (BYTES_PER_TOKEN_MOST * (BYTES_PER_ESCAPED_BYTE_MOST if text.rfind(b"\\u") >= 0 else 1))

    def may_fit(self, context_tokens: int) -> bool:
        """False if `prompt_tokens_least` alone is above a context; 0: unknown."""
        if not context_tokens or len(self._one_prompt) <= context_tokens * BYTES_PER_TOKEN_MOST:
            return True
        return self.prompt_tokens_least <= context_tokens

    @property
    def units_most(self) -> int:
        """No more independent parts than this, counted without parsing: every text has two quotes, every list of token
        ids a bracket."""
        if not self.batch:
            return self.choices
        prompts = self.prompt.count(b"[" if self.token_ids else b'"')
        return self.choices * (prompts if self.token_ids else max(1, prompts // 2))

    def prompt_tokens(self, bytes_per_token: float, context_tokens: int) -> int:
        """Planning figure, at least 1, over all prompts. A batch counts as one context at most (`context_tokens`; 0:
        unknown), since each of its parts has a context of its own."""
        estimate = self.token_ids or round(self.text_bytes / bytes_per_token) or 1
        if self.batch and context_tokens:
            estimate = min(estimate, context_tokens)
        return estimate if estimate < TOKENS_MAX else TOKENS_MAX


def read_routing_fields(body: bytes, kind: PathKind) -> RoutingFields:
    """Raises GatewayError (400) for anything that is not a JSON object with usable fields."""
    decoded = read_body(body)
    choices = 1 if decoded.n is None else max(1, _count(decoded.n, "n", CHOICES_MAX))
    if decoded.messages is not ABSENT:
        one_prompt = content = bytes(decoded.messages)
    else:
        one_prompt, content = _other_content(decoded)
    prompt = content
    if decoded.tools is not ABSENT or decoded.system is not ABSENT:
        prompt = bytes(decoded.tools) + bytes(decoded.system) + content
    if not content and (kind is _EMBEDDING or kind is _OTHER):
        prompt = body
    token_ids, batch = 0, False
    if content[:2] == b"[{":
        batch = kind is _EMBEDDING
    elif content[:1] != b'"':
        token_ids, batch = _listed(content, kind)
    user, tier = decoded.user, decoded.service_tier
    return RoutingFields(
        decoded.model or "",
        decoded.stream is True,
        choices,
        _output_bound(decoded, kind, choices),
        prompt,
        _text_bytes(prompt),
        token_ids,
        batch,
        b"" if user is ABSENT else bytes(user),
        b"" if tier is ABSENT else bytes(tier),
        one_prompt,
        body,
    )


def _other_content(decoded: Body) -> tuple[bytes, bytes]:
    """Without messages: what is one prompt for certain, and what stands for the prompt, be it one or many; raw JSON."""
    if decoded.prompt is ABSENT:
        return b"", bytes(decoded.input)
    content = bytes(decoded.prompt)
    return content if content.startswith(b'"') else b"", content


def _listed(content: bytes, kind: PathKind) -> tuple[int, bool]:
    """Token ids in a list that is neither messages nor one text, and whether it holds many prompts."""
    shape = content[:64].translate(None, b" \t\r\n")[:2]
    is_ids = shape[:1] == b"[" and (shape[1:].isdigit() or shape == b"[[")
    batch = shape in (b'["', b"[[") or (kind is _EMBEDDING and shape[:1] != b'"' and not shape[1:].isdigit())
    return content.count(b",") + 1 if is_ids else 0, batch


def _text_bytes(prompt: bytes) -> int:
    """Length without base64 media, each of which is taken for a typical image's tokens."""
    # From the end, which takes CPython half the time.
    if len(prompt) <= MEDIA_BYTES_LEAST or (prompt.rfind(b"base64,") < 0 and prompt.rfind(b'"data"') < 0):
        return len(prompt)
    media = [len(found.group()) for found in _MEDIA.finditer(prompt) if len(found.group()) > MEDIA_BYTES_LEAST]
    return len(prompt) - sum(media) + round(len(media) * MEDIA_TOKENS * BYTES_PER_TOKEN)


def _output_bound(decoded: Body, kind: PathKind, choices: int) -> int | None:
    if kind is _EMBEDDING or kind is _OTHER:
        return 0
    bound: int | None = None
    if decoded.max_completion_tokens is not None or decoded.max_output_tokens is not None:
        bound = _newer_bound(decoded)
    elif decoded.max_tokens is not None:
        bound = _count(decoded.max_tokens, "max_tokens", TOKENS_MAX)
    if bound is None or choices == 1:
        return bound
    return min(TOKENS_MAX, bound * choices)


def _newer_bound(decoded: Body) -> int | None:
    """Of the newer names for it one counts; what stands under the others must be numbers all the same."""
    bound: int | None = None
    if decoded.max_completion_tokens is not None:
        bound = _count(decoded.max_completion_tokens, "max_completion_tokens", TOKENS_MAX)
    if decoded.max_output_tokens is not None:
        responses = _count(decoded.max_output_tokens, "max_output_tokens", TOKENS_MAX)
        bound = responses if bound is None else bound
    if decoded.max_tokens is not None:
        _count(decoded.max_tokens, "max_tokens", TOKENS_MAX)
    return bound


def _count(value: int | float, param: str, most: int) -> int:
    if isinstance(value, float) and not value.is_integer():
        raise invalid_field(f"`{param}`: Expected `int`, got `float`", param)
    if value < 0:
        raise invalid_field(f"`{param}`: must not be negative", param)
    return int(value) if value < most else most
