"""Requests as units, and parts' answers as one: what one engine would have answered, made of what several did."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
from tests.support.simulated_attempt import CONTEXT_TOKENS

from covey_gateway.core import merging
from covey_gateway.core.cutting import REPEATED_BYTES_MAX, Units, units_of
from covey_gateway.core.events import DONE_EVENT
from covey_gateway.core.merging import MalformedAnswerError, PartStream, StreamIdentity
from covey_gateway.core.paths import ENGINE_PATHS
from covey_gateway.core.routing_fields import read_routing_fields
from covey_node.core import simulated_openai as openai
from covey_scheduler.core.sharding import Part, ShardingSettings, cut_choices

EMBED, TEXT, CHAT = "/v1/embeddings", "/v1/completions", "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hello"}]


def units(path: str, **fields: Any) -> Units | None:
    return units_from(path, json.dumps({"model": "m", **fields}).encode())


def units_from(path: str, body: bytes) -> Units | None:
    return units_of(path, body, read_routing_fields(body, ENGINE_PATHS[path]))


def cut(path: str, **fields: Any) -> Units:
    found = units(path, **fields)
    assert found is not None
    return found


def engine(path: str, body: bytes) -> bytes:
    """The simulated engine's whole answer."""
    call = openai.parse(path, body, "m", path == EMBED, CONTEXT_TOKENS)
    return openai.whole(call, "engine", 0, sum(choice.output_tokens for choice in call.choices))


@pytest.mark.parametrize(
    ("path", "fields", "count", "noun"),
    [
        (EMBED, {"input": ["a", "b", "c"]}, 3, "input"),
        (EMBED, {"input": [[1, 2], [3]], "encoding_format": "base64"}, 2, "input"),
        (EMBED, {"input": ["a", "b"], "encoding_format": None, "n": 7}, 2, "input"),
        (TEXT, {"prompt": ["a", "b"]}, 2, "prompt"),
        (TEXT, {"prompt": [[1, 2], [3]], "n": 2}, 4, "choice"),
        (TEXT, {"prompt": "a", "n": 4, "best_of": 1}, 4, "choice"),
        (TEXT, {"prompt": ["a"], "n": 4, "seed": 3, "temperature": None}, 4, "choice"),
        (CHAT, {"messages": MESSAGES, "n": 2, "stream": True, "temperature": 0.5}, 2, "choice"),
    ],
)
def test_what_can_be_cut(path: str, fields: dict[str, Any], count: int, noun: str) -> None:
    found = cut(path, **fields)
    assert (found.count, found.noun) == (count, noun)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (EMBED, {"input": "one"}),
        (EMBED, {"input": ["one"]}),
        (EMBED, {"input": [1, 2, 3]}),
        (EMBED, {"input": ["a", [1]]}),
        (EMBED, {"input": ["a", 7]}),
        (EMBED, {"input": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}),
        (EMBED, {"input": ["a", "b"], "encoding_format": "bytes"}),
        (EMBED, {"input": ["a", "b"], "stream": True}),
        (EMBED, {"input": ["a", "b"], "request_id": "x"}),
        (EMBED, {"input": {"a": "b"}}),
        (EMBED, {"messages": MESSAGES}),
        (TEXT, {"prompt": "a", "n": 1}),
        (TEXT, {"prompt": [1, 2], "n": 1}),
        (TEXT, {"prompt": "a", "n": 2, "temperature": 0}),
        (TEXT, {"prompt": "a", "n": 2, "temperature": 0.0}),
        (TEXT, {"prompt": "a", "n": 2, "use_beam_search": True}),
        (TEXT, {"prompt": "a", "n": 2, "best_of": 3}),
        (TEXT, {"prompt": "a", "n": 2, "seed": -7}),
        (TEXT, {"prompt": "a", "n": 2, "seed": 2**63 - 2}),
        (TEXT, {"prompt": "a", "n": 2, "seed": 1.5}),
        (TEXT, {"prompt": "x" * (REPEATED_BYTES_MAX + 1), "n": 2}),
        (CHAT, {"messages": MESSAGES}),
        ("/v1/responses", {"input": ["a", "b"], "n": 2}),
        ("/v1/score", {"input": ["a", "b"]}),
    ],
)
def test_what_stays_whole(path: str, fields: dict[str, Any]) -> None:
    assert units(path, **fields) is None


def test_more_units_than_the_bound_stay_whole() -> None:
    assert units(EMBED, input=["a"] * 70_000) is None
    assert units(TEXT, prompt=["a"] * 10_000, n=10) is None


@pytest.mark.parametrize("n", [10_000, 10_001, 10**9, 10**30])
def test_more_choices_than_are_counted_are_the_engines_to_refuse(n: int) -> None:
    assert units(CHAT, messages=MESSAGES, n=9_999) is not None
    assert units(CHAT, messages=MESSAGES, n=n) is None


def test_bodies_keep_every_byte_that_is_not_theirs() -> None:
    body = b'{ "x": 1.50, "input" : [ "\\u00e9", "b" , "c"], "model":"m", "y": {"n": [1e3]} }'
    found = units_from(EMBED, body)
    assert found is not None
    assert found.body(Part(0, 2)) == b'{"x":1.50,"input":["\\u00e9","b"],"model":"m","y":{"n": [1e3]}}'
    assert found.body(Part(2, 3)) == b'{"x":1.50,"input":["c"],"model":"m","y":{"n": [1e3]}}'


def test_a_part_of_one_text_asks_as_one_text_would() -> None:
    found = cut(TEXT, prompt=["a", "b"], n=3, seed=10, stream=True)
    assert json.loads(found.body(Part(4, 5))) == {"model": "m", "prompt": "b", "seed": 11, "stream": True}
    assert json.loads(found.body(Part(4, 6))) == {"model": "m", "prompt": "b", "n": 2, "seed": 11, "stream": True}
    assert json.loads(found.body(Part(3, 6))) == {"model": "m", "prompt": "b", "n": 3, "seed": 10, "stream": True}
    assert found.prompt_tokens(Part(0, 6), 1.0) == [3, 3]
    assert [found.first_choices(Part(begin, begin + 1)) for begin in range(4)] == [True, False, False, True]


def test_token_ids_are_counted_exactly() -> None:
    assert cut(EMBED, input=[[1, 2, 3], [4]]).prompt_tokens(Part(0, 2), 99.0) == [3, 1]


@pytest.mark.parametrize("seed", range(60))
def test_merged_answers_are_what_one_engine_answers(seed: int) -> None:
    print(f"seed {seed}")
    dice = random.Random(seed)
    path = dice.choice((EMBED, TEXT, CHAT))
    words = [" ".join(dice.choices(("one", "twö", '"', "\\"), k=dice.randint(0, 9))) for _ in range(dice.randint(2, 9))]
    fields: dict[str, Any] = {"encoding_format": dice.choice(("float", "base64"))} if path == EMBED else {}
    fields |= {EMBED: {"input": words}, TEXT: {"prompt": words}, CHAT: {"messages": MESSAGES}}[path]
    if path != EMBED:
        fields |= {"n": dice.randint(1 if path == TEXT else 2, 5), "seed": dice.choice((None, 0, 10)), "max_tokens": 3}
    found = cut(path, **fields)
    whole = json.loads(engine(path, json.dumps({"model": "m", **fields}).encode()))
    if path == EMBED:
        edges = sorted(dice.sample(range(1, found.count), dice.randint(0, found.count - 1)))
        parts = [Part(a, b) for a, b in zip([0, *edges], [*edges, found.count], strict=True)]
    else:
        most = dice.randint(2, found.count + 1)
        parts = cut_choices(found.prompts, found.choices, ShardingSettings(choices_parts_max=most))
    name = "data" if path == EMBED else "choices"
    answers = [merging.read_part(engine(path, found.body(p)), name, p.begin, p.end - p.begin) for p in parts]
    usage = merging.merged_usage((a.usage, found.first_choices(p)) for a, p in zip(answers, parts, strict=True))
    joined = b",".join(answer.elements for answer in answers)
    assert json.loads(merging.opening(answers[0], name) + joined + merging.closing(usage)) == whole


def test_vectors_stay_the_bytes_that_the_engine_wrote() -> None:
    body = b'{"data": [{"index": 1, "embedding": [1.0e-05, -0]}, {"index":0,"embedding":[0.10]}], "id": "x"}'
    part = merging.read_part(body, "data", 10, 2)
    assert part.elements == b'{"index":10,"embedding":[0.10]},{"index":11,"embedding":[1.0e-05, -0]}'
    assert merging.opening(part, "data") + part.elements + merging.closing(part.usage) == (
        b'{"id":"x","data":[' + part.elements + b"]}"
    )


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b'{"data": 7}', b'{"data": []}', b'{"data": [{"index": 0}, {"index": 0}]}',
     b'{"data": [{}, {}]}', b'{"data": [{"index": 0}, {"index": 2}]}', b'{"data": [{"index": 0}, {"index": "1"}]}',
     b'{"data": [1, 2]}',
     b'{"data": [{"index": 0}, {"index": 1}], "usage": 7}', b'{"data": ' + b"[" * 100_000, b"\xff"],
)  # fmt: skip
def test_an_answer_that_is_not_one_is_not_merged(body: bytes) -> None:
    with pytest.raises(MalformedAnswerError):
        merging.read_part(body, "data", 0, 2)


def test_usage_counts_prompts_once_and_adds_up_the_rest() -> None:
    first = {
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    second = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8, "completion_tokens_details": {"r": 1}}
    assert merging.merged_usage([(first, True), (second, False), (first, True)]) == {
        "prompt_tokens": 10,
        "completion_tokens": 7,
        "total_tokens": 17,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"r": 1},
    }
    assert merging.merged_usage([({}, True), ({}, True)]) == {}
    odd = merging.merged_usage([({"prompt_tokens": None, "x": "y", "d": {"a": 1}}, True), ({"d": None, "x": 1}, True)])
    assert odd == {"prompt_tokens": None, "x": 1, "d": {"a": 1}}


def test_streams_get_their_index_and_one_identity() -> None:
    identity = StreamIdentity()
    first, second = PartStream(identity, 0, 1), PartStream(identity, 1, 2)
    out = second.feed(
        b'data: {"id": "b", "created": 2, "choices": [{"index": 1, "text": "x", "finish_reason": null}]}\n\n'
    )
    out += first.feed(b'data: {"id": "a", "created": 1, "choices": [{"index": 0, "text"')
    out += first.feed(b': "y", "finish_reason": "stop"}]}\n\ndata: {"choices": [], "usage": {"prompt_tokens": 3}}\n\n')
    assert first.feed(DONE_EVENT) == b""
    told = [json.loads(event[6:]) for event in out.split(b"\n\n")[:-1]]
    assert [(e["id"], e["created"], e["choices"][0]["index"]) for e in told] == [("b", 2, 2), ("b", 2, 0)]
    assert first.complete
    assert first.usage == {"prompt_tokens": 3}
    assert not second.complete
    assert json.loads(identity.usage_event({"total_tokens": 4}, {"parts": 2})[6:]) == {
        "id": "b", "created": 2, "choices": [], "usage": {"total_tokens": 4}, "covey": {"parts": 2},
    }  # fmt: skip


@pytest.mark.parametrize(
    "event",
    [b"7", b"{", b'{"choices": 7}', b'{"choices": [{"index": 2}]}', b'{"choices": [{"index": -1}]}',
     b'{"choices": [{}]}', b'{"usage": {}}'],
)  # fmt: skip
def test_an_event_that_is_none_is_not_passed_on(event: bytes) -> None:
    with pytest.raises(MalformedAnswerError):
        PartStream(StreamIdentity(), 5, 2).feed(b"data: " + event + b"\n\n")


def test_an_endless_event_is_not_kept() -> None:
    stream = PartStream(StreamIdentity(), 0, 1)
    with pytest.raises(MalformedAnswerError):
        stream.feed(b"data: " + b"x" * (9 * 1024 * 1024))


def test_an_error_ends_what_is_passed_on() -> None:
    stream = PartStream(StreamIdentity(), 0, 1)
    choice = b'data: {"choices": [{"index": 0, "text": "x"}]}\n\n'
    out = stream.feed(choice + b'data: {"error": {"message": "no", "code": 500}}\n\n' + choice + DONE_EVENT)
    assert out.count(b"data:") == 1
    assert stream.error == {"message": "no", "code": 500}
    assert not stream.complete


@pytest.mark.parametrize("body", [b"", b"7", b'{"error": 7}', b"{"])
def test_what_is_no_error(body: bytes) -> None:
    assert merging.error_of(body) is None


def test_raw_values_have_no_white_space_around() -> None:
    """What the comparisons in cutting.py rely on."""
    found = msgspec.json.decode(b'{"a" : "float" , "b":\n[ 1 ]\t}', type=dict[str, msgspec.Raw])
    assert (bytes(found["a"]), bytes(found["b"])) == (b'"float"', b"[ 1 ]")
