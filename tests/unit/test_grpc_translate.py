"""Typed messages to OpenAI JSON and back."""

from __future__ import annotations

import json

import pytest

from covey_gateway.core.front import AnswerHead
from covey_gateway.io import grpc_translate as translate
from covey_gateway.io.grpc_translate import InvalidRequestError
from covey_mesh.core.names import NodeId
from covey_mesh.wire.v1 import inference_pb2 as wire

HEAD = AnswerHead(200, "application/json", "req-1", "m", NodeId("a" * 32), "desk", 2, "best of 2")


def _chat(**fields: object) -> wire.ChatRequest:
    return wire.ChatRequest(model="m", messages=[wire.ChatMessage(role="user", content="hi")], **fields)  # type: ignore[arg-type]


def test_only_what_was_set_is_sent() -> None:
    body = json.loads(translate.chat_body(_chat(), streaming=False))
    assert body == {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def test_a_zero_that_was_set_is_sent() -> None:
    request = _chat(sampling=wire.Sampling(temperature=0, max_tokens=5, stop=["a", "b"]))
    body = json.loads(translate.chat_body(request, streaming=True))
    assert body["temperature"] == 0
    assert body["stop"] == ["a", "b"]
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}


def test_tools_schema_images_and_extras() -> None:
    request = _chat(
        tools=[wire.Tool(name="get_weather", description="d", parameters_json_schema='{"type": "object"}')],
        tool_choice="get_weather",
        response_json_schema='{"type": "object"}',
        extra_json='{"chat_template_kwargs": {"x": 1}}',
    )
    request.messages.append(
        wire.ChatMessage(role="user", parts=[wire.ContentPart(text="t"), wire.ContentPart(image_url="data:,")])
    )
    body = json.loads(translate.chat_body(request, streaming=False))
    assert body["tools"][0]["function"]["parameters"] == {"type": "object"}
    assert body["tool_choice"] == {"type": "function", "function": {"name": "get_weather"}}
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert body["messages"][1]["content"][1] == {"type": "image_url", "image_url": {"url": "data:,"}}
    assert body["chat_template_kwargs"] == {"x": 1}


@pytest.mark.parametrize(
    ("request_", "part"),
    [
        (wire.ChatRequest(model="m"), "messages is empty"),
        (wire.ChatRequest(model="m", messages=[wire.ChatMessage(content="x")]), "no role"),
        (_chat(extra_json="[1]"), "must be a JSON object"),
        (_chat(extra_json="{"), "not JSON"),
        (_chat(extra_json='{"stream": true}'), "repeats stream"),
        (_chat(extra_json='{"temperature": 1}', sampling=wire.Sampling(temperature=0)), "repeats temperature"),
        (_chat(extra_json='{"a": "' + "x" * translate.EXTRA_JSON_BYTES_MAX + '"}'), "longer than"),
        (_chat(extra_json="[" * 100_000), "not JSON"),
        (_chat(sampling=wire.Sampling(temperature=float("nan"))), "finite"),
    ],
)
def test_refusals_name_the_field(request_: wire.ChatRequest, part: str) -> None:
    with pytest.raises(InvalidRequestError, match=part):
        translate.chat_body(request_, streaming=False)


def test_an_answer_with_a_tool_call() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    response = translate.chat_response(
        {
            "choices": [{"message": {"content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
        },
        HEAD,
    )  # fmt: skip
    assert response.message.tool_calls[0].name == "f"
    assert response.finish_reason == "tool_calls"
    assert response.usage.total_tokens == 7
    assert (response.served.node_name, response.served.attempts) == ("desk", 2)


def test_chunks_of_a_stream() -> None:
    event = {"choices": [{"index": 0, "delta": {"content": "He"}, "finish_reason": None}]}
    (chunk,) = translate.chat_chunks(event)
    assert chunk.content == "He"
    (usage,) = translate.chat_chunks({"choices": [], "usage": {"prompt_tokens": 1}})
    assert usage.usage.prompt_tokens == 1
    (text,) = translate.complete_chunks({"choices": [{"text": "a", "finish_reason": "stop"}]})
    assert (text.text, text.finish_reason) == ("a", "stop")


def test_embeddings_keep_the_order_of_the_inputs() -> None:
    rows = [{"index": 1, "embedding": [2.0]}, {"index": 0, "embedding": [1.0]}]
    response = translate.embed_response({"data": rows}, HEAD)
    assert [list(e.values) for e in response.embeddings] == [[1.0], [2.0]]
