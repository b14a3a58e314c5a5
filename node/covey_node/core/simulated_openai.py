"""What a simulated engine says: OpenAI-shaped bytes with text that follows from a seed and the prompt alone.

Token i of an answer is a word chosen by (seed, prompt, i), so an answer continued elsewhere from a partial one goes on
with the very words that an undisturbed run would have had. A token is a word; nothing here pretends to be a real
tokenizer or a real model, and the engine is shown as "simulated" everywhere.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec

WORDS = (
    "the wing wind over field and hedge birds turn together toward evening light one calls another answers low grass "
    "moves they rise settle listen again then north by hill river morning feather watch keep near slow bright small"
).split()
OUTPUT_TOKENS_DEFAULT = {"chat": 64, "text": 16}
"""Where the client names no bound; 16 is OpenAI's for text completions."""

EMBEDDING_DIMENSIONS = 16
BEGINNINGS_MAX = 8192
"""Places looked at in one prompt."""
PATHS = {"/v1/chat/completions": "chat", "/v1/completions": "text", "/v1/embeddings": "embed"}

Json = dict[str, Any]


class CallError(Exception):
    """The request cannot be answered: an HTTP status and an OpenAI-shaped body."""

    def __init__(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": status}})


@dataclass(frozen=True, slots=True)
class Call:
    """One understood request. `skip`: output tokens that the client already has (a continued answer)."""

    kind: str
    model: str
    stream: bool
    include_usage: bool
    prompt_tokens: int
    output_tokens: int
    key: int
    skip: int
    inputs: tuple[str, ...] = ()
    finish_reason: str = "length"


def word(seed: int, key: int, index: int) -> str:
    """Output token `index` of the answer to the prompt hashed to `key`; all but the first begin with a space."""
    digest = hashlib.blake2b(f"{seed}:{key}:{index}".encode(), digest_size=4).digest()
    chosen = WORDS[int.from_bytes(digest, "big") % len(WORDS)]
    return chosen if index == 0 else " " + chosen


def key_of(prompt: str) -> int:
    """What the words of the answer to `prompt` are drawn from."""
    return int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8).digest(), "big")


def split_prompt(prompt: str, seed: int) -> tuple[str, str]:
    """A text prompt that ends with the beginning of its own answer: (what was asked, what was answered so far).

    The longest such end is taken, so that any prefix of an answer, given back, goes on with the same answer. A prompt
    that happens to end so is continued too: the text means nothing either way, and stays the same on every machine.
    """
    for begin in _beginnings(prompt):
        key, position, index = key_of(prompt[:begin]), begin, 0
        while position < len(prompt):
            expected = word(seed, key, index)
            if not prompt.startswith(expected, position):
                break
            position, index = position + len(expected), index + 1
        if position == len(prompt):
            return prompt[:begin], prompt[begin:]
    return prompt, ""


def _beginnings(prompt: str) -> list[int]:
    """Where an answer may begin in `prompt`, earliest first: its tail is words of ours, the first perhaps glued on."""
    found: list[int] = []
    end = len(prompt)
    while end > 0:
        start = prompt.rfind(" ", 0, end) + 1
        piece = prompt[start:end]
        found += [end - len(each) for each in WORDS if piece.endswith(each)]
        if piece not in WORDS or start == 0 or len(found) > BEGINNINGS_MAX:
            break
        end = start - 1
    return sorted(set(found))


def parse(path: str, body: bytes, model: str, embeds: bool, context_tokens: int, seed: int = 0) -> Call:
    """Raises CallError with the status that vLLM answers in the same case."""
    kind = PATHS.get(path)
    if kind is None or embeds != (kind == "embed"):
        raise CallError(404, f"{path} is not served for {model}", "NotFoundError")
    try:
        request = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise CallError(400, f"the body is not JSON: {error}") from error
    if not isinstance(request, dict):
        raise CallError(400, "the body must be a JSON object")
    if request.get("model", model) != model:
        raise CallError(404, f"The model `{request.get('model')}` does not exist.", "NotFoundError", "model")
    call = _embedding(request, model) if kind == "embed" else _generation(kind, request, model, context_tokens, seed)
    if call.prompt_tokens >= context_tokens + (kind == "embed"):
        raise CallError(
            400, f"This model's maximum context length is {context_tokens} tokens, the prompt has {call.prompt_tokens}."
        )
    return call


def _generation(kind: str, request: Json, model: str, context_tokens: int, seed: int) -> Call:
    prompt, partial = _prompt(kind, request, seed)
    prompt_tokens = len(prompt.split()) + 1
    skip = len(partial.split())
    room = max(1, context_tokens - prompt_tokens - skip)
    asked = request.get("max_completion_tokens") or request.get("max_tokens")
    if asked is not None and (not isinstance(asked, int) or asked < 1 or asked > context_tokens):
        raise CallError(400, f"max_tokens must be between 1 and {context_tokens}, got {asked!r}", param="max_tokens")
    if asked is None:
        asked = max(1, OUTPUT_TOKENS_DEFAULT[kind] - (skip if kind == "chat" else 0))
    output = min(room, asked)
    options = request.get("stream_options")
    usage = isinstance(options, dict) and bool(options.get("include_usage"))
    streams = bool(request.get("stream"))
    return Call(kind, model, streams, usage, prompt_tokens + skip, output, key_of(prompt), skip)


def _prompt(kind: str, request: Json, seed: int) -> tuple[str, str]:
    """The prompt, and the part of its answer that was already written."""
    if kind == "text":
        prompt = request.get("prompt")
        if not isinstance(prompt, str):
            raise CallError(400, "prompt must be a string", param="prompt")
        return split_prompt(prompt, seed)
    messages = request.get("messages")
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages) or not messages:
        raise CallError(400, "messages must be a list of at least one message", param="messages")
    partial = ""
    if request.get("continue_final_message") and messages[-1].get("role") == "assistant":
        partial = str(messages[-1].get("content") or "")
        messages = messages[:-1]
    return "\n".join(f"{m.get('role')}: {m.get('content')}" for m in messages), partial


def _embedding(request: Json, model: str) -> Call:
    given = request.get("input")
    inputs = [given] if isinstance(given, str) else given
    if not isinstance(inputs, list) or not inputs or not all(isinstance(text, str) for text in inputs):
        raise CallError(400, "input must be a string or a list of strings", param="input")
    tokens = sum(len(text.split()) + 2 for text in inputs)
    return Call("embed", model, False, False, tokens, 0, 0, 0, tuple(inputs))


def text(call: Call, seed: int, tokens: int) -> str:
    """The first `tokens` output tokens of this call."""
    return "".join(word(seed, call.key, call.skip + i) for i in range(tokens))


def usage(call: Call, tokens: int) -> Json:
    """OpenAI's usage object."""
    return {
        "prompt_tokens": call.prompt_tokens,
        "total_tokens": call.prompt_tokens + tokens,
        "completion_tokens": tokens,
    }


def head_event(call: Call, answer_id: str) -> bytes:
    """What precedes the first token of a stream: the role, for chat."""
    if call.kind != "chat":
        return b""
    return _event(call, answer_id, [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])


def token_event(call: Call, answer_id: str, seed: int, index: int, last: bool) -> bytes:
    """One output token."""
    piece = word(seed, call.key, call.skip + index)
    content: Json = {"delta": {"content": piece}} if call.kind == "chat" else {"text": piece}
    finish = call.finish_reason if last else None
    return _event(call, answer_id, [{"index": 0, **content, "logprobs": None, "finish_reason": finish}])


def tail_events(call: Call, answer_id: str, tokens: int) -> bytes:
    """Usage, where the client asked for it, and the end of the stream."""
    final = _event(call, answer_id, [], usage(call, tokens)) if call.include_usage else b""
    return final + b"data: [DONE]\n\n"


def whole(call: Call, answer_id: str, seed: int, tokens: int) -> bytes:
    """An answer that is not streamed."""
    if call.kind == "embed":
        data = [{"object": "embedding", "index": i, "embedding": _vector(t)} for i, t in enumerate(call.inputs)]
        return _encode({"object": "list", "id": answer_id, "model": call.model, "data": data, "usage": usage(call, 0)})
    said = text(call, seed, tokens)
    content: Json = {"message": {"role": "assistant", "content": said}} if call.kind == "chat" else {"text": said}
    choice = {"index": 0, **content, "logprobs": None, "finish_reason": call.finish_reason}
    named = "chat.completion" if call.kind == "chat" else "text_completion"
    return _encode(
        {
            "id": answer_id,
            "object": named,
            "created": 0,
            "model": call.model,
            "choices": [choice],
            "usage": usage(call, tokens),
        }
    )


def _event(call: Call, answer_id: str, choices: list[Json], usage: Json | None = None) -> bytes:
    named = "chat.completion.chunk" if call.kind == "chat" else "text_completion"
    event: Json = {"id": answer_id, "object": named, "created": 0, "model": call.model, "choices": choices}
    if usage is not None:
        event["usage"] = usage
    return b"data: " + _encode(event) + b"\n\n"


def _vector(text: str) -> list[float]:
    digest = hashlib.blake2b(text.encode(), digest_size=EMBEDDING_DIMENSIONS).digest()
    vector = [byte / 255 - 0.5 for byte in digest]
    norm = sum(x * x for x in vector) ** 0.5
    return [x / norm for x in vector]


def _encode(value: Json) -> bytes:
    return msgspec.json.encode(value)
