"""What routing reads from a body, and what it makes of bodies that are wrong, hostile or strange."""

from __future__ import annotations

import json

import pytest

from covey_gateway.core.errors import Code, GatewayError
from covey_gateway.core.paths import PathKind
from covey_gateway.core.routing_fields import BYTES_PER_TOKEN, MEDIA_TOKENS, read_routing_fields

CHAT, COMPLETION, EMBEDDING, OTHER = PathKind.CHAT, PathKind.COMPLETION, PathKind.EMBEDDING, PathKind.OTHER


def test_reads_the_few_fields_and_leaves_the_prompt_raw() -> None:
    messages = '[{"role": "user", "content": "h\\u00e9 [\\"x\\"]"}]'
    body = f'{{"model":"m","stream":true,"messages":{messages},"max_tokens":7,"n":2,"future":{{"a":[1]}}}}'.encode()
    fields = read_routing_fields(body, CHAT)
    assert (fields.model, fields.streaming, fields.choices, fields.max_output_tokens) == ("m", True, 2, 14)
    assert fields.prompt == messages.encode()
    assert not fields.batch


@pytest.mark.parametrize(
    ("fields", "kind", "expected"),
    [
        ({}, CHAT, None),
        ({"max_tokens": None}, CHAT, None),
        ({"max_tokens": 5}, COMPLETION, 5),
        ({"max_tokens": 5.0}, COMPLETION, 5),
        ({"max_tokens": 5, "max_completion_tokens": 3}, CHAT, 3),
        ({"max_output_tokens": 9}, CHAT, 9),
        ({"max_tokens": 0}, COMPLETION, 0),
        ({"max_tokens": 10**30}, COMPLETION, 2**31 - 1),
        ({"max_tokens": 10, "n": 3}, COMPLETION, 30),
        ({"max_tokens": 10, "n": None}, COMPLETION, 10),
        ({"max_tokens": 10, "n": 0}, COMPLETION, 10),
        ({"max_tokens": 10}, EMBEDDING, 0),
    ],
)
def test_output_bound(fields: dict[str, object], kind: PathKind, expected: int | None) -> None:
    assert read_routing_fields(json.dumps({"model": "m", **fields}).encode(), kind).max_output_tokens == expected


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "empty"),
        (b" \n\t", "empty"),
        (b"{", "ends early"),
        (b'{"model":"m"', "ends early"),
        (b'{"model":"m"}x', "byte 14"),
        (b'{"x":NaN}', "byte 5"),
        (b'{"x":Infinity}', "byte 5"),
        (b'{"x":01}', "byte 6"),
        (b'{"messages":["\x01"]}', "byte 14"),
        (b'{"messages":["\xff"]}', "invalid UTF-8 at byte 14"),
        (b'{"model":"\xed\xa0\x80"}', "invalid UTF-8"),
        (b'{"messages":["\\ud800"]}', "incomplete escape"),
        (b"\xef\xbb\xbf{}", "byte 0"),
        (b'{"messages":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
        (b'{"unknown":' + b'{"a":' * 200_000 + b"1" + b"}" * 200_000 + b"}", "nested too deeply"),
        (b"{'model': 'm'}", "byte 1"),
    ],
)
def test_malformed_json_is_told_with_its_place(body: bytes, says: str) -> None:
    with pytest.raises(GatewayError) as caught:
        read_routing_fields(body, CHAT)
    assert (caught.value.status, caught.value.code) == (400, Code.MALFORMED_JSON)
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"[]", None),
        (b"null", None),
        (b'"text"', None),
        (b'{"model":1}', "model"),
        (b'{"model":["m"]}', "model"),
        (b'{"stream":"yes"}', "stream"),
        (b'{"stream":1}', "stream"),
        (b'{"max_tokens":"16"}', "max_tokens"),
        (b'{"max_tokens":1.5}', "max_tokens"),
        (b'{"max_tokens":-1}', "max_tokens"),
        (b'{"max_tokens":1e400}', "max_tokens"),
        (b'{"n":-2}', "n"),
        (b'{"n":true}', "n"),
    ],
)
def test_wrong_types_name_the_field(body: bytes, param: str | None) -> None:
    with pytest.raises(GatewayError) as caught:
        read_routing_fields(body, CHAT)
    error = json.loads(caught.value.body())["error"]
    assert caught.value.status == 400
    assert error["code"] == "invalid_field"
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


def test_the_last_of_duplicate_keys_counts() -> None:
    assert read_routing_fields(b'{"model":"a","model":"b"}', CHAT).model == "b"


def test_a_body_of_the_largest_size_is_read() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"' + b"a " * (16 * 1024 * 1024 - 40) + b'"}]}'
    fields = read_routing_fields(body, CHAT)
    assert len(fields.prompt) > 33_000_000
    assert fields.prompt_tokens_least > 500_000


@pytest.mark.parametrize(
    ("prompt", "kind", "tokens", "batch"),
    [
        ("x" * 398, COMPLETION, 100, False),
        (["x" * 96, "y" * 96], COMPLETION, 50, True),
        ([1, 2, 3, 4], COMPLETION, 4, False),
        ([[1, 2], [3]], COMPLETION, 3, True),
        ([{"role": "user", "content": "abcd"}], CHAT, 9, False),
    ],
)
def test_prompt_estimates(prompt: object, kind: PathKind, tokens: int, batch: bool) -> None:
    fields = read_routing_fields(json.dumps({"model": "m", "prompt": prompt}).encode(), kind)
    assert fields.prompt_tokens(BYTES_PER_TOKEN, 0) == tokens
    assert fields.batch is batch


def test_a_batch_counts_as_one_context_at_most() -> None:
    inputs = ["some words of one input"] * 1000
    fields = read_routing_fields(json.dumps({"model": "m", "input": inputs}).encode(), EMBEDDING)
    assert fields.prompt_tokens(BYTES_PER_TOKEN, 512) == 512
    assert fields.prompt_tokens(BYTES_PER_TOKEN, 0) > 5000


def test_an_image_is_not_counted_by_its_bytes() -> None:
    url = "data:image/png;base64," + "iVBORw0KGgo+/" * 100_000
    content = [{"type": "text", "text": "what is this"}, {"type": "image_url", "image_url": {"url": url}}]
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": content}]}).encode()
    fields = read_routing_fields(body, CHAT)
    assert MEDIA_TOKENS <= fields.prompt_tokens(BYTES_PER_TOKEN, 0) < MEDIA_TOKENS + 100
    assert fields.prompt_tokens_least == 0


def test_paths_with_other_fields_are_estimated_by_their_whole_body() -> None:
    body = json.dumps({"model": "m", "query": "q", "documents": ["d" * 400] * 3}).encode()
    fields = read_routing_fields(body, EMBEDDING)
    assert fields.prompt == body
    assert fields.batch


@pytest.mark.parametrize(
    ("extra", "least"),
    [({}, 100), ({"truncate_prompt_tokens": 10}, 0), ({"prompt": "\\" + "u0041"}, 0)],
)
def test_the_lower_bound_is_given_only_where_it_holds(extra: dict[str, object], least: int) -> None:
    body = json.dumps({"model": "m", "prompt": "a" * (64 * 100 - 2), **extra}).encode()
    assert read_routing_fields(body, COMPLETION).prompt_tokens_least == least


def test_escapes_lower_the_lower_bound() -> None:
    text = "a" * 6394 + "\u00e9"
    plain = read_routing_fields(json.dumps({"prompt": text}, ensure_ascii=False).encode(), COMPLETION)
    escaped = read_routing_fields(json.dumps({"prompt": text}).encode(), COMPLETION)
    assert plain.prompt_tokens_least == 99
    assert escaped.prompt_tokens_least == 16


@pytest.mark.parametrize("context_tokens", [0, 1, 99, 100, 101])
@pytest.mark.parametrize("extra", [{}, {"truncate_prompt_tokens": 10}, {"prompt": ["a" * 6400]}])
def test_what_may_fit_is_all_but_what_is_above_the_lower_bound(context_tokens: int, extra: dict[str, object]) -> None:
    fields = read_routing_fields(json.dumps({"prompt": "a" * (64 * 100 - 2), **extra}).encode(), COMPLETION)
    assert fields.may_fit(context_tokens) is not (0 < context_tokens < fields.prompt_tokens_least)


@pytest.mark.parametrize(
    ("prompt", "token_ids", "batch", "units"),
    [
        (' [ "a" , "b" ]', 0, True, 2),
        ("[ 1, 2 ]", 2, False, 1),
        ("[\n[1], [2, 3] ]", 3, True, 3),
        ("[ ]", 0, False, 1),
        ("null", 0, False, 1),
        ("7", 0, False, 1),
        ("{}", 0, False, 1),
    ],
)
def test_prompts_of_every_shape(prompt: str, token_ids: int, batch: bool, units: int) -> None:
    fields = read_routing_fields(f'{{"prompt": {prompt}}}'.encode(), COMPLETION)
    assert (fields.token_ids, fields.batch, fields.units_most) == (token_ids, batch, units)


def test_the_prompt_is_in_the_order_of_a_template() -> None:
    body = (
        b'{"messages": ["c"], "system": "b", "tools": ["a"], "prompt": "not this", "user": 7, "service_tier": "flex"}'
    )
    fields = read_routing_fields(body, CHAT)
    assert fields.prompt == b'["a"]"b"["c"]'
    assert (fields.user, fields.service_tier) == (b"7", b'"flex"')


def test_of_several_wrong_bounds_the_newest_name_is_told() -> None:
    with pytest.raises(GatewayError) as caught:
        read_routing_fields(b'{"max_tokens": -1, "max_completion_tokens": -2, "max_output_tokens": -3}', CHAT)
    assert caught.value.param == "max_completion_tokens"
