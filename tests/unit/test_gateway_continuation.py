"""Which broken streams are continued and how: a table of requests, and the splice of first part and rest."""

from __future__ import annotations

import json
from typing import Any

import pytest

from covey_gateway.core import token_count
from covey_gateway.core.continuation import (
    RULES,
    SOUND,
    UNSOUND,
    ContinuedRequest,
    NothingLeft,
    WhyNot,
    continuation_of,
)
from covey_gateway.core.emitted import Emitted, read_emitted
from covey_gateway.core.kept_answer import GRANT_BYTES, KeptAnswer
from covey_gateway.core.retrying import BufferBudget
from covey_gateway.core.splicing import Splicer, ending

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "Hello"}]
SOME = Emitted(pieces=("One", " two"))
HEADER = {"id": "a", "object": "chat.completion.chunk", "created": 7, "model": "m"}


def plan(emitted: Emitted = SOME, path: str = CHAT, **fields: Any) -> Any:
    base: dict[str, Any] = {"model": "m", "stream": True}
    base |= {"messages": HELLO} if path == CHAT else {"prompt": "Say:"}
    return continuation_of(path, json.dumps(base | fields).encode(), emitted)


def sent(emitted: Emitted = SOME, path: str = CHAT, **fields: Any) -> dict[str, Any]:
    found = plan(emitted, path, **fields)
    assert isinstance(found, ContinuedRequest), found
    body: dict[str, Any] = json.loads(found.body)
    return body


def test_chat_goes_on_in_the_last_assistant_message() -> None:
    body = sent(temperature=0, seed=7, stop=["\n\n"], tools=[{"type": "function"}], tool_choice="auto")
    assert body["messages"] == [*HELLO, {"role": "assistant", "content": "One two"}]
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert (body["temperature"], body["seed"], body["stop"], body["stream"]) == (0, 7, ["\n\n"], True)
    assert "max_tokens" not in body


def test_a_message_that_the_client_had_begun_grows() -> None:
    messages = [*HELLO, {"role": "assistant", "content": "Zero. "}]
    body = sent(messages=messages, continue_final_message=True, add_generation_prompt=False)
    assert body["messages"] == [*HELLO, {"role": "assistant", "content": "Zero. One two"}]


def test_text_goes_on_after_the_prompt() -> None:
    body = sent(path=TEXT, max_tokens=10, min_tokens=5)
    assert (body["prompt"], body["max_tokens"], body["min_tokens"]) == ("Say:One two", 8, 3)
    assert sent(path=TEXT)["max_tokens"] == 14, "16 is the default of text completions"
    assert sent(path=TEXT, max_tokens=None)["max_tokens"] is None


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_what_was_written_counts(name: str) -> None:
    assert sent(**{name: 10})[name] == 8
    found = plan(**{name: 2})
    assert isinstance(found, NothingLeft)
    assert found.finish_reason == "length"
    assert sent(min_tokens=1)["min_tokens"] == 0


@pytest.mark.parametrize(
    ("pieces", "counted", "kept", "in_prompt"),
    [
        (("One", " two"), None, 2, 2),
        (("One two three",), 3, 3, 3),  # joined by a busy engine: the tokenizer knows
        (("O", "n", "e"), 1, 3, 1),  # the model wrote more tokens than the tokenizer would: the events know
        (("One", " two", "\n"), 2, 2, 2),
    ],
)
def test_tokens_written_are_the_larger_of_events_and_count(
    pieces: tuple[str, ...], counted: int | None, kept: int, in_prompt: int
) -> None:
    body = json.dumps({"model": "m", "messages": HELLO, "max_tokens": 10}).encode()
    found = continuation_of(CHAT, body, Emitted(pieces=pieces), counted)
    assert isinstance(found, ContinuedRequest)
    assert (found.kept_tokens, found.prompt_tokens) == (kept, in_prompt)
    assert json.loads(found.body)["max_tokens"] == 10 - kept
    assert found.to_count == ("" if counted else "".join(pieces).rstrip())


def test_nothing_is_counted_where_nothing_depends_on_it() -> None:
    assert plan().to_count == ""
    assert plan(stream_options={"include_usage": True}).to_count == "One two"
    assert plan(path=TEXT).to_count == "One two", "text completions are bounded by default"


@pytest.mark.parametrize(
    ("status", "body", "tokens"),
    [(200, b'{"count": 7, "tokens": [1]}', 7), (404, b"{}", None), (200, b"{}", None), (200, b"x", None)],
)
def test_reading_a_count(status: int, body: bytes, tokens: int | None) -> None:
    assert token_count.answer(status, body) == tokens


@pytest.mark.parametrize(
    ("pieces", "content", "kept", "overlap"),
    [
        (("One", " two"), "One two", 2, ""),
        (("One", "\n"), "One", 1, "\n"),
        (("One", ".\n", "\n"), "One.", 2, "\n\n"),
        ((" One",), " One", 1, ""),
    ],
)
def test_white_space_at_the_cut_is_left_to_the_machine(
    pieces: tuple[str, ...], content: str, kept: int, overlap: str
) -> None:
    """Chat templates strip it: given, it might be written twice."""
    found = plan(Emitted(pieces=pieces))
    assert (found.kept_tokens, found.overlap) == (kept, overlap)
    assert json.loads(found.body)["messages"][-1]["content"] == content


def test_only_white_space_starts_again_and_keeps_what_was_sent() -> None:
    found = plan(Emitted(pieces=("\n",)))
    assert (found.kept_tokens, found.overlap) == (0, "\n")
    assert json.loads(found.body)["messages"] == HELLO


UNSOUND_FIELDS: list[dict[str, Any]] = [
    {"n": 2},
    {"best_of": 2},
    {"logprobs": True},
    {"top_logprobs": 3},
    {"prompt_logprobs": 1},
    {"presence_penalty": 0.5},
    {"frequency_penalty": -0.5},
    {"repetition_penalty": 1.1},
    {"bad_words": ["x"]},
    {"response_format": {"type": "json_object"}},
    {"response_format": {"type": "json_schema", "json_schema": {}}},
    {"structured_outputs": {"regex": "a+"}},
    {"guided_json": {}, "guided_regex": "a"},
    {"echo": True},
    {"use_beam_search": True},
    {"return_token_ids": True},
    {"skip_special_tokens": False},
    {"stream_interval": 4},
    {"truncate_prompt_tokens": 10},
    {"tools": [{}], "tool_choice": "required"},
    {"tool_choice": {"type": "function", "function": {"name": "f"}}},
    {"function_call": {"name": "f"}},
    {"add_generation_prompt": False},
    {"continue_final_message": True},
    {"messages": []},
    {"messages": "x"},
    {"something_new": 1},
    {"stop": ["wo!"]},
    {"stop": "o\n"},
    {"stop": ["x", " two"]},
]


@pytest.mark.parametrize("fields", UNSOUND_FIELDS, ids=json.dumps)
def test_unsound_requests_are_not_continued(fields: dict[str, Any]) -> None:
    found = plan(**fields)
    assert isinstance(found, WhyNot)
    assert found.reason


@pytest.mark.parametrize(
    "fields",
    [{"prompt": [1, 2]}, {"prompt": ["a", "b"]}, {"suffix": "x"}, {"logprobs": 0}, {"prompt_embeds": "x"}],
    ids=json.dumps,
)
def test_unsound_text_requests(fields: dict[str, Any]) -> None:
    assert isinstance(plan(path=TEXT, **fields), WhyNot)


NEUTRAL_FIELDS: list[dict[str, Any]] = [
    {"n": 1, "best_of": 1, "logprobs": False, "top_logprobs": 0, "presence_penalty": 0, "frequency_penalty": 0.0},
    {"repetition_penalty": 1.0, "response_format": {"type": "text"}, "echo": False, "skip_special_tokens": True},
    {"tools": [{}], "tool_choice": "none", "something_new": None, "bad_words": [], "stream_interval": 1},
    {"stop": None},
    {"stop": ["nothing of this", "two!!"][:1]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
]


@pytest.mark.parametrize("fields", NEUTRAL_FIELDS, ids=json.dumps)
def test_neutral_values_and_images_do_no_harm(fields: dict[str, Any]) -> None:
    assert isinstance(plan(**fields), ContinuedRequest)


@pytest.mark.parametrize("fields", UNSOUND_FIELDS, ids=json.dumps)
def test_what_has_not_begun_starts_again_whatever_it_asks_for(fields: dict[str, Any]) -> None:
    body = json.dumps({"model": "m", "messages": HELLO, "stream": True} | fields).encode()
    assert continuation_of(CHAT, body, Emitted(roles=frozenset({0}))) == ContinuedRequest(
        body, Emitted(roles=frozenset({0}))
    )


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses", "/v1/embeddings"])
def test_other_paths_never_are(path: str) -> None:
    assert isinstance(continuation_of(path, b"{}", SOME), WhyNot)


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"[" * 100_000])
def test_bodies_that_are_no_objects(body: bytes) -> None:
    assert isinstance(continuation_of(CHAT, body, SOME), WhyNot)


def test_sound_and_unsound_are_apart() -> None:
    assert not SOUND & UNSOUND.keys()
    assert len(RULES) == 3


# --- what was sent ---------------------------------------------------------------------------------------------------


def event(*choices: Any, **more: Any) -> bytes:
    return b"data: " + json.dumps({**HEADER, "choices": list(choices), **more}).encode() + b"\n\n"


def delta(text: str, **more: Any) -> dict[str, Any]:
    return {"index": 0, "delta": {"content": text}, "finish_reason": None, **more}


ROLE = event({"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None})


def test_reading_what_was_sent() -> None:
    found = read_emitted(ROLE + b": comment\n\n" + event(delta("One")) + event(delta(" two")))
    assert (found.text, found.pieces, found.header, found.roles) == ("One two", ("One", " two"), HEADER, {0})
    assert (found.finish_reason, found.done, found.unfit) == ("", False, "")
    ended = read_emitted(
        event(delta("", finish_reason="stop")) + event(usage={"prompt_tokens": 1}) + b"data: [DONE]\n\n"
    )
    assert (ended.finish_reason, ended.usage_sent, ended.done) == ("stop", True, True)


@pytest.mark.parametrize(
    "stream",
    [
        event({"index": 0, "delta": {"tool_calls": [{"index": 0}]}}),
        event({"index": 0, "delta": {"reasoning_content": "hm"}}),
        event({"index": 0, "delta": {"reasoning": "hm"}}),
        event({"index": 0, "delta": {"audio": {"id": "x"}}}),
        event({"index": 1, "text": "second choice"}),
        event({"index": 0, "delta": {"content": [1]}}),
        b"data: not json\n\n",
        b"data: [1]\n\n",
        b"data: {}\n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
        b'data: {"error": {"code": 400}, "choices": []}\n\n',
    ],
)
def test_what_cannot_be_carried_on_from(stream: bytes) -> None:
    found = read_emitted(ROLE + stream)
    assert found.unfit
    assert isinstance(plan(found), WhyNot)


# --- the splice ---------------------------------------------------------------------------------------------------


def splice(first: bytes, rest: bytes, cut: int = 7, **fields: Any) -> list[Any]:
    """Events of the rest, as the client gets them."""
    splicer = Splicer(plan(read_emitted(first), **fields), {"continued": 1, "machines": ["a", "b"]})
    out = b"".join(splicer.feed(rest[i : i + cut]) for i in range(0, len(rest), cut)) + splicer.flush()
    return [
        data if data == "[DONE]" else json.loads(data) for data in out.decode().replace("data: ", "").split("\n\n")[:-1]
    ]


OTHER = {"id": "other", "created": 99}


@pytest.mark.parametrize("cut", [1, 7, 10_000])
def test_one_identity_no_second_role_total_usage_and_the_flag(cut: int) -> None:
    rest = (
        event({"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}, **OTHER)
        + event(delta(" three"), **OTHER)
        + event(delta(" four", finish_reason="stop"), **OTHER)
        + event(usage={"prompt_tokens": 12, "completion_tokens": 2, "total_tokens": 14}, **OTHER)
        + b"data: [DONE]\n\n"
    )
    found = splice(ROLE + event(delta("One")) + event(delta(" two")), rest, cut)
    assert [e if e == "[DONE]" else [c["delta"]["content"] for c in e["choices"]] for e in found] == [
        [" three"],
        [" four"],
        [],
        "[DONE]",
    ]
    assert all(e == "[DONE]" or (e["id"], e["created"]) == ("a", 7) for e in found)
    assert found[2]["usage"] == {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
    assert ["covey" in e for e in found[:3]] == [False, True, True]
    assert found[1]["covey"] == {"continued": 1, "machines": ["a", "b"]}


@pytest.mark.parametrize(
    ("before", "after", "joined"),
    [
        (("One", "\n", "\n"), ("\n\n", "Two"), "Two"),
        (("One", "\n", "\n"), ("\n", "\n", "Two"), "Two"),
        (("One", "\n\n"), ("\n", "Two"), "Two"),
        (("One", "\n"), ("\n\nTwo",), "\nTwo"),
        (("One", "\n"), ("Two",), "Two"),
        (("One", " "), ("\n", "Two"), "\nTwo"),
    ],
)
def test_white_space_is_not_written_twice(before: tuple[str, ...], after: tuple[str, ...], joined: str) -> None:
    first = b"".join(event(delta(piece)) for piece in before)
    found = splice(first, b"".join(event(delta(piece)) for piece in after))
    assert "".join(e["choices"][0]["delta"]["content"] for e in found) == joined


@pytest.mark.parametrize("first", [ROLE, b""], ids=["role told", "role untold"])
def test_a_token_that_comes_with_the_role_passes_and_the_role_where_it_is_news(first: bytes) -> None:
    both = {"index": 0, "delta": {"role": "assistant", "content": " two"}, "finish_reason": None}
    (found,) = splice(first + event(delta("One")), event(both))
    told = {} if first else {"role": "assistant"}
    assert found["choices"][0]["delta"] == {**told, "content": " two"}


def test_an_end_that_comes_with_the_role_passes() -> None:
    last = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": "stop"}
    (found,) = splice(ROLE + event(delta("One")), event(last))
    assert found["choices"][0]["finish_reason"] == "stop"


def test_usage_beside_tokens_is_not_the_answers_usage() -> None:
    assert not read_emitted(ROLE + event(delta("One"), usage={"prompt_tokens": 1})).usage_sent


def test_tool_calls_after_the_cut_pass() -> None:
    call = {"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "c"}]}, "finish_reason": None}
    (found,) = splice(event(delta("One")), event(call))
    assert found["choices"][0]["delta"] == call["delta"]


def test_the_engines_error_passes_as_it_is_and_an_endless_event_becomes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = splice(event(delta("One")), b'data: {"error": {"code": 500}}\n\n')
    assert found == {"error": {"code": 500}}
    monkeypatch.setattr("covey_gateway.core.events.EVENT_BYTES_MAX", 10)
    (found, *_) = splice(event(delta("One")), b"data: 123456789012", 100)
    assert found["error"]["code"] == 500


@pytest.mark.parametrize(
    ("first", "fields", "expected"),
    [
        (event(delta("One", finish_reason="stop")), {}, ["[DONE]"]),
        (
            event(delta("One", finish_reason="stop")),
            {"stream_options": {"include_usage": True}},
            ["usage", "[DONE]"],
        ),
        (event(delta("One")), {"max_tokens": 1}, ["length", "[DONE]"]),
        (event(delta("One", finish_reason="stop")) + b"data: [DONE]\n\n", {}, []),
    ],
)
def test_an_end_that_was_lost_is_written_here(first: bytes, fields: dict[str, Any], expected: list[str]) -> None:
    left = plan(read_emitted(first), **fields)
    assert isinstance(left, NothingLeft)
    found = []
    for data in ending(left, 5, {"continued": 0, "machines": ["a"]}).decode().split("\n\n")[:-1]:
        text = data.removeprefix("data: ")
        parsed = None if text == "[DONE]" else json.loads(text)
        if parsed is None:
            found.append(text)
        elif parsed.get("usage"):
            assert parsed["usage"] == {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}
            assert parsed["covey"]["usage_estimated"] is True
            found.append("usage")
        else:
            found.append(parsed["choices"][0]["finish_reason"])
    assert found == expected


def test_what_is_kept_is_bounded_each_and_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("covey_gateway.core.kept_answer.GRANT_BYTES", 1)
    budget = BufferBudget(10)
    one, two = KeptAnswer(budget, 6), KeptAnswer(budget, 100)
    one.add(b"12345")
    two.add(b"12345")
    assert (one.all(), two.all(), budget.used) == (b"12345", b"12345", 10)
    two.add(b"6")
    assert (two.overflowed, budget.used) == (True, 5)
    two.add(b"6")
    one.add(b"67")
    assert (one.overflowed, budget.used) == (True, 0)
    one.add(b"8")
    one.drop()
    assert budget.used == 0


def test_what_is_kept_is_granted_in_blocks() -> None:
    budget = BufferBudget(2 * GRANT_BYTES)
    kept = KeptAnswer(budget, 10 * GRANT_BYTES)
    for _ in range(GRANT_BYTES // 8):
        kept.add(b"12345678")
    assert budget.used == GRANT_BYTES
    kept.add(b"9")
    assert (budget.used, len(kept.all())) == (2 * GRANT_BYTES, GRANT_BYTES + 1)
    kept.add(b"x" * GRANT_BYTES)
    assert (kept.overflowed, budget.used) == (True, 0)
