"""Typed gRPC messages to OpenAI JSON and back: pure functions over wire types.

Not here: transport, pool, errors of machines. Fields that the engine adds and covey does not name are dropped on the
way back; on the way in they travel through `extra_json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from covey_gateway.core.errors import JSON
from covey_gateway.core.front import AnswerHead
from covey_mesh.wire.v1 import inference_pb2 as wire

Json = dict[str, Any]

EXTRA_JSON_BYTES_MAX = 1024 * 1024
"""Largest `extra_json` of one request."""

_RESERVED = frozenset({"model", "messages", "prompt", "input", "stream", "stream_options"})
"""Set by the typed fields alone: an extra that changed them would make the typed answer a lie."""


class InvalidRequestError(ValueError):
    """The client's message cannot be translated; the text says which field and what it takes."""


def chat_body(request: wire.ChatRequest, *, streaming: bool) -> bytes:
    """The OpenAI chat request for a typed one. Raises InvalidRequestError."""
    if not request.messages:
        raise InvalidRequestError("messages is empty: send at least one message with a role and content")
    body: Json = {"model": request.model, "messages": [_message(m) for m in request.messages]}
    if request.tools:
        body["tools"] = [_tool(t) for t in request.tools]
    if request.tool_choice:
        body["tool_choice"] = _tool_choice(request.tool_choice)
    if request.response_json_schema:
        schema = _json_object(request.response_json_schema, "response_json_schema")
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return _finish(body, request, streaming=streaming)


def complete_body(request: wire.CompleteRequest, *, streaming: bool) -> bytes:
    """The OpenAI completion request for a typed one. Raises InvalidRequestError."""
    return _finish({"model": request.model, "prompt": request.prompt}, request, streaming=streaming)


def embed_body(request: wire.EmbedRequest) -> bytes:
    """The OpenAI embedding request for a typed one. Raises InvalidRequestError."""
    if not request.inputs:
        raise InvalidRequestError("inputs is empty: send at least one text")
    body: Json = {"model": request.model, "input": list(request.inputs), "encoding_format": "float"}
    if request.HasField("dimensions"):
        body["dimensions"] = request.dimensions
    if request.user:
        body["user"] = request.user
    return _encode(_with_extra(body, request.extra_json))


def _finish(body: Json, request: wire.ChatRequest | wire.CompleteRequest, *, streaming: bool) -> bytes:
    body.update(_set_fields(request.sampling))
    if request.user:
        body["user"] = request.user
    if streaming:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    return _encode(_with_extra(body, request.extra_json))


def _set_fields(sampling: wire.Sampling) -> Json:
    """Sampling field names are OpenAI's and vLLM's own; only those that the client set are sent."""
    return {
        descriptor.name: list(value) if descriptor.name == "stop" else value
        for descriptor, value in sampling.ListFields()
    }


def _with_extra(body: Json, extra_json: str) -> Json:
    if not extra_json:
        return body
    extra = _json_object(extra_json, "extra_json")
    clash = sorted((_RESERVED | body.keys()) & extra.keys())
    if clash:
        raise InvalidRequestError(f"extra_json repeats {', '.join(clash)}: set the typed field instead")
    return body | extra


def _json_object(text: str, field: str) -> Json:
    if len(text) > EXTRA_JSON_BYTES_MAX:
        raise InvalidRequestError(f"{field} is longer than {EXTRA_JSON_BYTES_MAX} bytes")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{field} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{field} must be a JSON object")
    return value


def _encode(body: Json) -> bytes:
    return json.dumps(body, ensure_ascii=False, allow_nan=False).encode() if _finite(body) else b""


def _finite(body: Json) -> bool:
    for name, value in body.items():
        if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
            raise InvalidRequestError(f"{name} must be a finite number")
    return True


def _message(message: wire.ChatMessage) -> Json:
    if not message.role:
        raise InvalidRequestError("a message has no role: use system, user, assistant or tool")
    body: Json = {"role": message.role, "content": [_part(p) for p in message.parts] or message.content}
    if message.tool_calls:
        body["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments_json}}
            for c in message.tool_calls
        ]
    if message.tool_call_id:
        body["tool_call_id"] = message.tool_call_id
    if message.name:
        body["name"] = message.name
    return body


def _part(part: wire.ContentPart) -> Json:
    if part.WhichOneof("kind") == "image_url":
        return {"type": "image_url", "image_url": {"url": part.image_url}}
    return {"type": "text", "text": part.text}


def _tool(tool: wire.Tool) -> Json:
    function: Json = {"name": tool.name, "description": tool.description}
    if tool.parameters_json_schema:
        function["parameters"] = _json_object(tool.parameters_json_schema, "tools.parameters_json_schema")
    return {"type": "function", "function": function}


def _tool_choice(choice: str) -> str | Json:
    if choice in ("auto", "none", "required"):
        return choice
    return {"type": "function", "function": {"name": choice}}


def served(head: AnswerHead) -> wire.Served:
    """Which machine answered, and why that one."""
    return wire.Served(
        request_id=head.request_id,
        node_id=head.node_id or "",
        node_name=head.node_name,
        model=head.model,
        attempts=head.attempts,
        why=head.why,
        parts=head.parts,
        machines=head.node_name.split(", ") if head.parts and head.content_type == JSON else [],
    )


def usage(body: Mapping[str, Any]) -> wire.Usage | None:
    """None where the engine did not say."""
    found = body.get("usage")
    if not found:
        return None
    details = found.get("prompt_tokens_details") or {}
    return wire.Usage(
        prompt_tokens=found.get("prompt_tokens") or 0,
        completion_tokens=found.get("completion_tokens") or 0,
        total_tokens=found.get("total_tokens") or 0,
        cached_tokens=details.get("cached_tokens") or 0,
    )


def continued(event: Mapping[str, Any]) -> wire.Served | None:
    """The flag of a stream that another machine went on with (covey_gateway.core.splicing), or that several wrote."""
    flag = event.get("covey")
    if not isinstance(flag, dict):
        return None
    continued, parts = flag.get("continued"), flag.get("parts")
    if not isinstance(continued, int) and not isinstance(parts, int):
        return None
    machines = flag.get("machines")
    names = [str(name) for name in machines] if isinstance(machines, list) else []
    known = {name: max(0, count) for name, count in (("continued", continued), ("parts", parts)) if count}
    return wire.Served(machines=names, **known)


def chat_response(body: Mapping[str, Any], head: AnswerHead) -> wire.ChatResponse:
    """A complete chat answer."""
    messages = [_answer_message(choice["message"]) for choice in body["choices"]]
    return wire.ChatResponse(
        message=messages[0],
        finish_reason=body["choices"][0].get("finish_reason") or "",
        usage=usage(body),
        served=served(head),
        choices=messages if len(messages) > 1 else [],
    )


def complete_response(body: Mapping[str, Any], head: AnswerHead) -> wire.CompleteResponse:
    """A complete text answer."""
    texts = [choice["text"] for choice in body["choices"]]
    return wire.CompleteResponse(
        text=texts[0],
        finish_reason=body["choices"][0].get("finish_reason") or "",
        usage=usage(body),
        served=served(head),
        choices=texts if len(texts) > 1 else [],
    )


def embed_response(body: Mapping[str, Any], head: AnswerHead) -> wire.EmbedResponse:
    """Embeddings in the order of the inputs."""
    rows = sorted(body["data"], key=lambda row: int(row["index"]))
    return wire.EmbedResponse(
        embeddings=[wire.Embedding(values=row["embedding"]) for row in rows], usage=usage(body), served=served(head)
    )


def chat_chunks(event: Mapping[str, Any]) -> Iterable[wire.ChatChunk]:
    """The typed chunks of one server-sent event: one a choice, or one that holds only the usage."""
    if not event.get("choices"):
        yield wire.ChatChunk(usage=usage(event), served=continued(event))
        return
    for choice in event["choices"]:
        delta = choice.get("delta") or {}
        yield wire.ChatChunk(
            index=choice.get("index") or 0,
            role=delta.get("role") or "",
            content=delta.get("content") or "",
            reasoning=delta.get("reasoning") or delta.get("reasoning_content") or "",
            tool_calls=_tool_calls(delta),
            finish_reason=choice.get("finish_reason") or "",
            usage=usage(event),
        )


def complete_chunks(event: Mapping[str, Any]) -> Iterable[wire.CompleteChunk]:
    """Likewise for text completions."""
    if not event.get("choices"):
        yield wire.CompleteChunk(usage=usage(event), served=continued(event))
        return
    for choice in event["choices"]:
        yield wire.CompleteChunk(
            index=choice.get("index") or 0,
            text=choice.get("text") or "",
            finish_reason=choice.get("finish_reason") or "",
            usage=usage(event),
        )


def _answer_message(message: Mapping[str, Any]) -> wire.ChatMessage:
    return wire.ChatMessage(
        role=message.get("role") or "assistant", content=message.get("content") or "", tool_calls=_tool_calls(message)
    )


def _tool_calls(message: Mapping[str, Any]) -> list[wire.ToolCall]:
    return [
        wire.ToolCall(
            id=call.get("id") or "",
            name=(call.get("function") or {}).get("name") or "",
            arguments_json=(call.get("function") or {}).get("arguments") or "",
            index=call.get("index", position),
        )
        for position, call in enumerate(message.get("tool_calls") or [])
    ]
