"""Cutting event streams between events, and reading the usage at an answer's end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covey_gateway.core.event_stream import (
    EVENT_BYTES_MAX,
    EventAligner,
    TokenRatio,
    engine_fault,
    read_usage,
)
from covey_mesh.core.exchange import FailureCode


@given(st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\n", b"."))), st.data())
def test_any_chunking_gives_the_same_bytes_cut_between_events(texts: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(b"data: " + text + b"\n\n" for text in texts) + data.draw(st.sampled_from([b"", b"data: torn"]))
    aligner, sent = EventAligner(), b""
    rest = whole
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        out, rest = aligner.feed(rest[:size]), rest[size:]
        sent += out
        assert not sent or sent.endswith(b"\n\n")
    assert aligner.events == sent.count(b"data:")
    assert sent + aligner.flush() == whole


def test_an_endless_event_is_not_held_for_ever() -> None:
    aligner = EventAligner()
    assert aligner.feed(b"x" * EVENT_BYTES_MAX) == b""
    assert len(aligner.feed(b"xx")) == EVENT_BYTES_MAX + 2


@pytest.mark.parametrize(
    ("end", "usage"),
    [
        (b'{"usage":{"prompt_tokens":3,"total_tokens":7,"completion_tokens":4}}', (3, 4)),
        (b'data: {"usage": {"prompt_tokens": 3, "completion_tokens": 4}}\n\ndata: [DONE]\n\n', (3, 4)),
        (b'data: {"usage":{"input_tokens":1,"output_tokens":2}}\n\n', (1, 2)),
        (b'data: {"usage":{"prompt_tokens":1}}\n\ndata: {"usage":{"prompt_tokens":9}}\n\n', (9, 0)),
        (b"", (0, 0)),
        (b'"prompt_tokens": "many"', (0, 0)),
    ],
)
def test_usage(end: bytes, usage: tuple[int, int]) -> None:
    assert read_usage(end) == usage


@pytest.mark.parametrize(
    ("events", "before", "code"),
    [
        (b'data: {"error": {"message": "full", "code": 503}}\n\n', b"", FailureCode.RESOURCE_EXHAUSTED),
        (b'data: {"error":{"message":"full","code":"503"}}\n\n', b"", FailureCode.RESOURCE_EXHAUSTED),
        (b'data: 1\n\ndata: {"error": {"code": 500}}\n\n', b"data: 1\n\n", FailureCode.ENGINE_FAILED),
        (b'data: {"error": "no code"}\n\n', b"", FailureCode.ENGINE_FAILED),
        (b'data: {"error": {"message": "bad", "code": 400}}\n\n', b"", None),
        (b'data: {"choices":[{"text":"data: {\\"error\\" code: 503"}]}\n\n', b"", None),
    ],
)
def test_an_engines_own_failure_within_a_stream(events: bytes, before: bytes, code: FailureCode | None) -> None:
    found = engine_fault(events)
    assert (None if found is None else (found[0], found[1].code)) == (None if code is None else (before, code))


def test_the_ratio_is_bounded_in_value_and_number() -> None:
    ratio = TokenRatio(4.0)
    for _ in range(500):
        ratio.learn("images", 10**9, 1)
        ratio.learn("lies", 1, 10**9)
    assert ratio.of("images") <= TokenRatio.LARGEST
    assert ratio.of("lies") >= TokenRatio.SMALLEST
    for number in range(TokenRatio.MODELS_MAX + 10):
        ratio.learn(f"m{number}", 8, 1)
    assert len(ratio._ratios) == TokenRatio.MODELS_MAX
