"""The token counts that are found in an answer's end are those that the obvious expressions find."""

import json
import random
import re

import pytest

from covey_mesh.core.exchange import Usage
from covey_node.core.usage import (
    CACHED_TOKENS,
    NOT_TOLD,
    OUTPUT_TOKENS,
    PROMPT_TOKENS,
    USAGE_TAIL_BYTES,
    last_count,
    read_usage,
)

NAMES = (PROMPT_TOKENS, OUTPUT_TOKENS, CACHED_TOKENS)
PIECES = (
    *NAMES,
    *(name.replace(b'"', b'\\"') for name in NAMES),
    *(name[1:] for name in NAMES),
    *(
        b" ",
        b"\n",
        b"\t\x0b",
        b"0",
        b"7",
        b"12",
        b"123456789",
        b"98765432109876",
        b"null",
        b"-3",
        b"1e5",
        b"2.5",
        b'"4"',
    ),
    *(b",", b"}", b"},", b'"', b":", b'"usage":{', b"\xff", "٣".encode(), b"x" * 300),
)


def by_expression(answer: bytes) -> Usage | None:
    """The reference."""
    tail = answer[-USAGE_TAIL_BYTES:]
    prompt, output, cached = ([int(n) for n in re.findall(name + rb"\s*(\d{1,9})", tail)] for name in NAMES)
    return Usage(prompt[-1], (output or [0])[-1], (cached or [0])[-1]) if prompt else None


@pytest.mark.parametrize("seed", range(60))
def test_as_the_expressions_find_them(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(200):
        answer = b"".join(dice.choices(PIECES, k=dice.choice((1, 2, 5, 20, 60))))
        assert read_usage(answer) == by_expression(answer), (seed, answer)


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_an_answer_with_usage_in_its_text(separators: tuple[str, str]) -> None:
    text = '"usage": {"prompt_tokens": 99, "completion_tokens": 98, "cached_tokens": 97}'
    usage = {"prompt_tokens": 190, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 64}}
    answer = {"choices": [{"message": {"content": text}}], "usage": usage, "more": text}
    assert read_usage(json.dumps(answer, separators=separators).encode()) == Usage(190, 2, 64)


def test_nothing_told() -> None:
    assert read_usage(b"") is None
    assert read_usage(b'{"usage":null}') is None
    assert read_usage(b'{"usage":{"completion_tokens":3}}') is None
    assert read_usage(b'{"usage":{"prompt_tokens":3}}') == Usage(3, 0, 0)
    assert last_count(b'{"cached_tokens":null}', CACHED_TOKENS) == NOT_TOLD


def test_only_the_end_is_looked_at() -> None:
    told = b'"prompt_tokens":3'
    assert read_usage(told + b"x" * (USAGE_TAIL_BYTES - len(told))) == Usage(3, 0, 0)
    assert read_usage(told + b"x" * (USAGE_TAIL_BYTES - len(told) + 1)) is None
