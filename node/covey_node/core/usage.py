"""The token counts near the end of an engine's answer, found without decoding it.

A count is the last number that follows its name in quotes and a colon. Within an answer's text the quotes would be
escaped, so that no text is mistaken for one. Not here: what follows from the counts.
"""

from __future__ import annotations

import re

from covey_mesh.core.exchange import Usage

USAGE_TAIL_BYTES = 4096
"""A whole answer's usage object stands near its end."""

PROMPT_TOKENS = b'"prompt_tokens":'
OUTPUT_TOKENS = b'"completion_tokens":'
CACHED_TOKENS = b'"cached_tokens":'

DIGITS_MAX = 9
NOT_TOLD = -1

_NUMBER = re.compile(rb"\s*(\d{1,9})")


def read_usage(answer: bytes) -> Usage | None:
    """Of a whole answer, from its last USAGE_TAIL_BYTES; None where it tells no prompt tokens."""
    from_byte = max(0, len(answer) - USAGE_TAIL_BYTES)
    prompt_tokens = last_count(answer, PROMPT_TOKENS, from_byte)
    if prompt_tokens < 0:
        return None
    output_tokens = last_count(answer, OUTPUT_TOKENS, from_byte)
    cached_tokens = last_count(answer, CACHED_TOKENS, from_byte)
    return Usage(prompt_tokens, max(0, output_tokens), max(0, cached_tokens))


def last_count(answer: bytes, name: bytes, from_byte: int = 0) -> int:
    """NOT_TOLD where no number follows the name."""
    at = answer.rfind(name, from_byte)
    while at >= 0:
        after = at + len(name)
        digits = answer[after : after + DIGITS_MAX].partition(b",")[0]
        if digits.isdigit():  # nearly always: no space before it, and another field behind it
            return int(digits)
        found = _NUMBER.match(answer, after)
        if found is not None:
            return int(found[1])
        at = answer.rfind(name, from_byte, at)
    return NOT_TOLD
