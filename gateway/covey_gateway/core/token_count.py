"""One small question to an engine: how many tokens a text is (vLLM's /tokenize)."""

from __future__ import annotations

import msgspec

PATH = "/tokenize"
ANSWER_BYTES_MAX = 8 * 1024 * 1024
"""The answer lists every token; a longer one is not read."""


class _Counted(msgspec.Struct):
    count: int = 0


def question(model: str, text: str) -> bytes:
    """The body to send. Special tokens stand at a prompt's beginning, not within an answer."""
    return msgspec.json.encode({"model": model, "prompt": text, "add_special_tokens": False})


def answer(status: int, body: bytes) -> int | None:
    """Tokens; None where the engine cannot say (a simulated one, an error)."""
    if status != 200:
        return None
    try:
        return msgspec.json.decode(body, type=_Counted).count or None
    except msgspec.DecodeError:
        return None
