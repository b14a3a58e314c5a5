"""The input file of a batch: every mistake with its line, and the places of the good lines, however the bytes come."""

from __future__ import annotations

import json
import random

import pytest
from tests.support.batches import CHAT, line, places

from covey_gateway.core.batches.lines import InputChecker, body_of
from covey_gateway.core.batches.settings import BatchSettings

BODY = b'{"model":"m","n": 1.50e0, "u":"\\u00e9"}'
GOOD = {"custom_id": "a", "method": "POST", "url": CHAT, "body": {"model": "m"}}


def check(content: bytes, settings: BatchSettings | None = None, step: int = 0) -> InputChecker:
    checker = InputChecker(CHAT, settings or BatchSettings())
    for start in range(0, len(content), step or max(1, len(content))):
        checker.feed(content[start : start + (step or len(content))])
    checker.end()
    return checker


def without(name: str) -> bytes:
    return json.dumps({key: value for key, value in GOOD.items() if key != name}).encode()


def changed(**fields: object) -> bytes:
    return json.dumps({**GOOD, **fields}).encode()


MISTAKES = [
    (b"{not json", "invalid_json_line", None),
    (b"[1]", "invalid_json_line", None),
    (b"\xff\xfe", "invalid_json_line", None),
    (b"[" * 5000, "invalid_json_line", None),
    (without("custom_id"), "missing_required_parameter", "custom_id"),
    (changed(custom_id=""), "invalid_request", "custom_id"),
    (changed(custom_id=7), "invalid_request", "custom_id"),
    (changed(custom_id="x" * 513), "invalid_request", "custom_id"),
    (without("method"), "missing_required_parameter", "method"),
    (changed(method="GET"), "invalid_request", "method"),
    (without("url"), "missing_required_parameter", "url"),
    (changed(url="/v1/embeddings"), "url_mismatch", "url"),
    (without("body"), "missing_required_parameter", "body"),
    (changed(body=[1]), "missing_required_parameter", "body"),
    (changed(body={}), "missing_required_parameter", "body.model"),
    (changed(body={"model": 1}), "invalid_request", "body.model"),
    (changed(body={"model": "m", "stream": True}), "invalid_request", "body.stream"),
]


@pytest.mark.parametrize(("bad", "code", "param"), MISTAKES)
def test_each_mistake_is_told_with_its_line(bad: bytes, code: str, param: str | None) -> None:
    found = check(line("first") + b"\n" + bad + b"\n" + line("last"))
    assert [(e.code, e.line, e.param) for e in found.errors] == [(code, 3, param)]
    assert found.total == 2


def test_a_repeated_id_and_another_model_are_mistakes() -> None:
    found = check(line("a") + line("b", model="other") + line("a"))
    assert [(e.code, e.line) for e in found.errors] == [("model_mismatch", 2), ("duplicate_custom_id", 3)]


@pytest.mark.parametrize("content", [b"", b"\n\n  \n"])
def test_a_file_without_requests(content: bytes) -> None:
    assert [(e.code, e.line) for e in check(content).errors] == [("empty_file", None)]


def test_too_many_lines() -> None:
    found = check(b"".join(line(str(i)) for i in range(4)), BatchSettings(lines_max=3))
    assert [e.code for e in found.errors] == ["too_many_tasks"]
    assert found.stopped


def test_mistakes_are_bounded() -> None:
    found = check(b"x\n" * 500, BatchSettings(errors_reported_max=10))
    assert len(found.errors) == 10
    assert found.stopped


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_too_long_is_told_before_it_is_complete(end: bytes) -> None:
    found = check(line("a") + b"x" * 3000 + end, BatchSettings(line_bytes_max=2000, body_bytes_max=1000), step=100)
    assert ("invalid_request", 2) in [(e.code, e.line) for e in found.errors]
    assert found.stopped


def test_a_body_too_large() -> None:
    found = check(line("a", text="x" * 2000), BatchSettings(body_bytes_max=1000))
    assert [(e.code, e.param) for e in found.errors] == [("invalid_request", "body")]


def test_places_are_right_however_the_bytes_come() -> None:
    good = [line(f"id {i} é", text="y" * (i * 37 % 91)).strip() for i in range(40)]
    content = b"\xef\xbb\xbf" + b"".join(
        each + (b"\r\n", b"\n", b"  \n\n")[i % 3] for i, each in enumerate(good)
    ).rstrip(b"\n")
    seed = random.randrange(2**32)
    print("seed", seed)
    dice = random.Random(seed)
    for _ in range(20):
        checker, found, at = InputChecker(CHAT, BatchSettings()), [], 0
        while at < len(content):
            size = dice.choice((1, 3, 50, 1000))
            found += checker.feed(content[at : at + size])
            at += size
        found += checker.end()
        assert not checker.errors
        assert list(places(found, content)) == good
        assert [each.number for each in found] == sorted({each.number for each in found})
        assert checker.total == len(good)


def test_the_body_is_taken_as_it_stands() -> None:
    raw = b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body": ' + BODY + b"}"
    assert not check(raw).errors
    assert body_of(raw) == BODY
