"""What a simulated engine says: OpenAI-shaped bytes with text that follows from a seed and the prompt alone.

Token i of an answer is a word chosen by (seed, prompt, i), so an answer continued elsewhere from a partial one goes on
with the very words that an undisturbed run would have had. A `seed` in the request changes the words; of several
choices (`n`), choice i has those of seed + i, as in vLLM (v1/engine/parallel_sampling.py), and without a seed all have
the same. An embedding is a function of its input's text alone. A token is a word; nothing here pretends to be a real
tokenizer or a real model, and the engine is shown as "simulated" everywhere.
"""

from __future__ import annotations

import base64
import hashlib
import struct
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
CHOICES_MAX = 128
PROMPTS_MAX = 4096
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
class Choice:
    """One text to write. `skip`: output tokens that the client already has (a continued answer). `prompt_tokens`: to
    compute for it: of several choices to one prompt the first computes it, the others find it in the cache."""

    key: int
    skip: int
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Call:
    """One understood request. `choices` are in the order of the answer's `index`: prompt x n + choice.

    `prompt_tokens` counts each prompt once, as vLLM's usage does."""

    kind: str
    model: str
    stream: bool
    include_usage: bool
    prompt_tokens: int
    choices: tuple[Choice, ...]
    inputs: tuple[str, ...] = ()
    finish_reason: str = "length"
    base64: bool = False

    @property
    def output_tokens(self) -> int:
        """Of the first choice."""
        return self.choices[0].output_tokens

    @property
    def skip(self) -> int:
        """Of the first choice."""
        return self.choices[0].skip


def word(seed: int, key: int, index: int) -> str:
    """Output token `index` of the answer to the prompt hashed to `key`; all but the first begin with a space."""
    digest = hashlib.blake2b(f"{seed}:{key}:{index}".encode(), digest_size=4).digest()
    chosen = WORDS[int.from_bytes(digest, "big") % len(WORDS)]
    return chosen if index == 0 else " " + chosen


def key_of(prompt: str, asked_seed: int | None = None) -> int:
    """What the words of the answer to `prompt` are drawn from; `asked_seed`: the request's own."""
    salt = b"" if asked_seed is None else str(asked_seed).encode()
    return int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8, key=salt).digest(), "big")


def split_prompt(prompt: str, seed: int, asked_seed: int | None = None) -> tuple[str, str]:
    """A text prompt that ends with the beginning of its own answer: (what was asked, what was answered so far).

    The longest such end is taken, so that any prefix of an answer, given back, goes on with the same answer. A prompt
    that happens to end so is continued too: the text means nothing either way, and stays the same on every machine.
    """
    for begin in _beginnings(prompt):
        key, position, index = key_of(prompt[:begin], asked_seed), begin, 0
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
    if kind == "embed":
        return _embedding(request, model, context_tokens)
    return _generation(kind, request, model, context_tokens, seed)


def _generation(kind: str, request: Json, model: str, context_tokens: int, seed: int) -> Call:
    asked_seed = _asked_seed(request)
    prompts = _prompts(kind, request, seed, asked_seed)
    count = _whole(request, "n", 1, CHOICES_MAX) or 1
    asked = request.get("max_completion_tokens") or request.get("max_tokens")
    if asked is not None and (not isinstance(asked, int) or asked < 1 or asked > context_tokens):
        raise CallError(400, f"max_tokens must be between 1 and {context_tokens}, got {asked!r}", param="max_tokens")
    choices: list[Choice] = []
    total = longest = 0
    for prompt, partial in prompts:
        skip = len(partial.split())
        prompt_tokens = len(prompt.split()) + 1 + skip
        bound = asked or max(1, OUTPUT_TOKENS_DEFAULT[kind] - (skip if kind == "chat" else 0))
        output = min(max(1, context_tokens - prompt_tokens), bound)
        for number in range(count):
            key = key_of(prompt, None if asked_seed is None else asked_seed + number)
            choices.append(Choice(key, skip, 1 if number else prompt_tokens, output))
        total, longest = total + prompt_tokens, max(longest, prompt_tokens)
    _check_context(longest, context_tokens)
    options = request.get("stream_options")
    usage = isinstance(options, dict) and bool(options.get("include_usage"))
    return Call(kind, model, bool(request.get("stream")), usage, total, tuple(choices))


def _check_context(prompt_tokens: int, context_tokens: int) -> None:
    if prompt_tokens >= context_tokens:
        raise CallError(
            400, f"This model's maximum context length is {context_tokens} tokens, the prompt has {prompt_tokens}."
        )


def _whole(request: Json, name: str, least: int, most: int) -> int | None:
    value = request.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise CallError(400, f"{name} must be between {least} and {most}, got {value!r}", param=name)
    return value


def _asked_seed(request: Json) -> int | None:
    """-1 asks for none, as in vLLM."""
    seed = _whole(request, "seed", -(2**63), 2**63 - 1)
    return None if seed == -1 else seed


def _prompts(kind: str, request: Json, seed: int, asked_seed: int | None) -> list[tuple[str, str]]:
    """Each prompt, and the part of its answer that was already written."""
    if kind == "text":
        given = request.get("prompt")
        prompts = [given] if isinstance(given, str) else given
        if not isinstance(prompts, list) or not prompts or not all(isinstance(each, str) for each in prompts):
            raise CallError(400, "prompt must be a string or a list of strings", param="prompt")
        if len(prompts) > PROMPTS_MAX:
            raise CallError(400, f"prompt has {len(prompts)} texts, {PROMPTS_MAX} are the most", param="prompt")
        return [split_prompt(each, seed, asked_seed) for each in prompts]
    messages = request.get("messages")
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages) or not messages:
        raise CallError(400, "messages must be a list of at least one message", param="messages")
    partial = ""
    if request.get("continue_final_message") and messages[-1].get("role") == "assistant":
        partial = str(messages[-1].get("content") or "")
        messages = messages[:-1]
    return [("\n".join(f"{m.get('role')}: {m.get('content')}" for m in messages), partial)]


def _embedding(request: Json, model: str, context_tokens: int) -> Call:
    """Any number of inputs, each with the context to itself, as in vLLM."""
    given = request.get("input")
    inputs = [given] if isinstance(given, str) else given
    if not isinstance(inputs, list) or not inputs or not all(isinstance(text, str) for text in inputs):
        raise CallError(400, "input must be a string or a list of strings", param="input")
    encoding = request.get("encoding_format")
    if encoding not in (None, "float", "base64"):
        raise CallError(400, f"encoding_format must be float or base64, got {encoding!r}", param="encoding_format")
    counts = [len(text.split()) + 2 for text in inputs]
    _check_context(max(counts) - 1, context_tokens)
    total = sum(counts)
    choice = Choice(0, 0, total, 0)
    return Call("embed", model, False, False, total, (choice,), tuple(inputs), base64=encoding == "base64")


def text(call: Call, seed: int, tokens: int, choice: int = 0) -> str:
    """The first `tokens` output tokens of one choice."""
    said = call.choices[choice]
    return "".join(word(seed, said.key, said.skip + i) for i in range(tokens))


def usage(call: Call, tokens: int) -> Json:
    """OpenAI's usage object."""
    return {
        "prompt_tokens": call.prompt_tokens,
        "total_tokens": call.prompt_tokens + tokens,
        "completion_tokens": tokens,
    }


def head_event(call: Call, answer_id: str) -> bytes:
    """What precedes the first token of a stream: the role of each choice, for chat."""
    if call.kind != "chat":
        return b""
    delta = {"role": "assistant", "content": ""}
    choices = [{"index": i, "delta": delta, "finish_reason": None} for i in range(len(call.choices))]
    return b"".join(_event(call, answer_id, [choice]) for choice in choices)


def token_event(call: Call, answer_id: str, seed: int, index: int, last: bool, choice: int = 0) -> bytes:
    """One output token."""
    said = call.choices[choice]
    piece = word(seed, said.key, said.skip + index)
    content: Json = {"delta": {"content": piece}} if call.kind == "chat" else {"text": piece}
    finish = call.finish_reason if last else None
    return _event(call, answer_id, [{"index": choice, **content, "logprobs": None, "finish_reason": finish}])


def tail_events(call: Call, answer_id: str, tokens: int) -> bytes:
    """Usage, where the client asked for it, and the end of the stream. `tokens`: of all choices."""
    final = _event(call, answer_id, [], usage(call, tokens)) if call.include_usage else b""
    return final + b"data: [DONE]\n\n"


def whole(call: Call, answer_id: str, seed: int, tokens: int) -> bytes:
    """An answer that is not streamed. `tokens`: of all choices."""
    if call.kind == "embed":
        vectors = [_packed(_vector(t)) if call.base64 else _vector(t) for t in call.inputs]
        data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
        return _encode({"object": "list", "id": answer_id, "model": call.model, "data": data, "usage": usage(call, 0)})
    named = "chat.completion" if call.kind == "chat" else "text_completion"
    return _encode(
        {
            "id": answer_id,
            "object": named,
            "created": 0,
            "model": call.model,
            "choices": [_said(call, seed, number) for number in range(len(call.choices))],
            "usage": usage(call, tokens),
        }
    )


def _said(call: Call, seed: int, number: int) -> Json:
    said = text(call, seed, call.choices[number].output_tokens, number)
    content: Json = {"message": {"role": "assistant", "content": said}} if call.kind == "chat" else {"text": said}
    return {"index": number, **content, "logprobs": None, "finish_reason": call.finish_reason}


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


def _packed(vector: list[float]) -> str:
    """OpenAI's base64: little-endian 32-bit floats."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _encode(value: Json) -> bytes:
    return msgspec.json.encode(value)
