"""How a broken stream goes on elsewhere: the request that makes another machine write the rest, or why there is none.

Chat: the partial answer becomes the last assistant message, with `continue_final_message` true and
`add_generation_prompt` false (vLLM's chat API; transformers, apply_chat_template); without them the chat template
would close the message and a second answer would be spliced on. Text: the prompt and what was sent of its answer.
`max_tokens` and `min_tokens` lose what was already written.

Not continued, and why (each rule is a row of RULES or UNSOUND):
- Structured outputs, forced tool choices: the grammar's automaton would start again inside its own output (vLLM
  v1/structured_output: the automaton begins with the first output token, the prompt does not move it).
- Several choices, beams, `best_of`: the choices are not independent parts of one text.
- Log probabilities, token ids, echo: what was sent of them cannot be joined with what would come.
- Penalties and bad words: they count output tokens; the part already written would count as prompt, or not at all
  (OpenAI API reference, presence_penalty and frequency_penalty; vLLM SamplingParams).
- Stop strings of which the text ends with a part: the rest would come alone and not be recognised.
- Tool calls, reasoning, sound already sent: no prompt carries on in the middle of them.
- A field that covey does not know: silence about it would be a guess.
Sampling with a temperature, seeded or not, is continued: not the same words as an undisturbed run would have had, but
the same distribution. An answer of which no text was sent yet starts again, whatever its fields.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from covey_gateway.core.emitted import Emitted

Json = dict[str, Any]

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
CONTINUED_PATHS = frozenset({CHAT, TEXT})
"""Responses and Anthropic's messages have events of their own, which nothing here knows how to join."""

COMPLETION_MAX_TOKENS_DEFAULT = 16
"""Of `/v1/completions` where the client names none (OpenAI API reference; vLLM keeps it)."""


@dataclass(frozen=True, slots=True)
class ContinuedRequest:
    """`body` is what to send. `kept_tokens`: tokens of the answer that its prompt holds, as the first machine wrote
    them; `prompt_tokens`: the same text as the tokenizer cuts it. `overlap`: white space that was sent but left out of
    the prompt, since chat templates strip it: the machine will write it again.

    `to_count`: the text whose tokens should be counted first (see continuation_of), "" if nothing depends on it.
    """

    body: bytes
    emitted: Emitted
    kept_tokens: int = 0
    overlap: str = ""
    prompt_tokens: int = 0
    to_count: str = ""


@dataclass(frozen=True, slots=True)
class NothingLeft:
    """All text was sent; only the stream's end was lost. `finish_reason` is what the end has to say."""

    emitted: Emitted
    finish_reason: str
    include_usage: bool


@dataclass(frozen=True, slots=True)
class WhyNot:
    """For people; completes "the answer was not continued: "."""

    reason: str


Plan = ContinuedRequest | NothingLeft | WhyNot

SOUND = frozenset(
    "model messages prompt stream stream_options max_tokens max_completion_tokens min_tokens temperature top_p top_k "
    "min_p seed user stop stop_token_ids include_stop_str_in_output ignore_eos logit_bias allowed_token_ids priority "
    "cache_salt request_id session_id metadata store service_tier safety_identifier prompt_cache_key chat_template "
    "chat_template_kwargs documents media_io_kwargs mm_processor_kwargs add_special_tokens add_generation_prompt "
    "continue_final_message tools tool_choice functions function_call parallel_tool_calls reasoning_effort verbosity "
    "include_reasoning".split()
)
"""Fields that mean the same for the rest of an answer as for its whole, or that a rule below looks at."""

NEUTRAL: Json = {
    "n": 1,
    "best_of": 1,
    "repetition_penalty": 1,
    "length_penalty": 1,
    "stream_interval": 1,
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    "response_format": {"type": "text"},
}
"""Values at which a field has no effect; beside them null, false, zero and emptiness are neutral everywhere."""

UNSOUND = {
    "n": "several choices were asked for",
    "best_of": "several choices were asked for",
    "use_beam_search": "it is a beam search",
    "logprobs": "log probabilities were asked for",
    "top_logprobs": "log probabilities were asked for",
    "prompt_logprobs": "log probabilities were asked for",
    "presence_penalty": "penalties count the tokens already written",
    "frequency_penalty": "penalties count the tokens already written",
    "repetition_penalty": "penalties count the tokens already written",
    "bad_words": "forbidden words may span the cut",
    "response_format": "a grammar cannot be entered in the middle",
    "structured_outputs": "a grammar cannot be entered in the middle",
    "echo": "the prompt is a part of the answer",
    "suffix": "the answer is to fit a suffix",
    "return_token_ids": "token ids were asked for",
}


def continuation_of(path: str, body: bytes, emitted: Emitted, counted_tokens: int | None = None) -> Plan:
    """What follows after `emitted` of the answer to `body`. Pure; never raises for what clients or machines sent.

    Events tell how many tokens were written only where each held one; an engine whose reader lags joins several. With
    a token bound (or usage asked for) that matters, so the plan first made names the text `to_count`; made again with
    the tokenizer's count, the larger of the two holds: each event held at least one token, and a model rarely writes
    fewer tokens than its tokenizer would.
    """
    if path not in CONTINUED_PATHS:
        return WhyNot(f"streams of {path} never are")
    if emitted.unfit:
        return WhyNot(emitted.unfit)
    try:
        request = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        request = None
    if not isinstance(request, dict):
        return WhyNot("the request is not a JSON object")
    if emitted.finish_reason:
        return NothingLeft(emitted, emitted.finish_reason, _include_usage(request))
    if not emitted.pieces:
        return ContinuedRequest(body, emitted)
    for rule in RULES:
        reason = rule(request, emitted)
        if reason:
            return WhyNot(reason)
    return _continued(path, body, request, emitted, counted_tokens)


def _continued(path: str, body: bytes, request: Json, emitted: Emitted, counted_tokens: int | None) -> Plan:
    text = emitted.text if path == TEXT else emitted.text.rstrip()
    overlap = emitted.text[len(text) :]
    if not text:
        return ContinuedRequest(body, emitted, 0, overlap)
    changed = _text_request(request, text) if path == TEXT else _chat_request(request, text)
    if isinstance(changed, WhyNot):
        return changed
    events = _tokens_within(emitted.pieces, len(text))
    kept_tokens = max(events, counted_tokens or 0)
    to_count = text if counted_tokens is None and (_include_usage(request) or _bounded(changed)) else ""
    for name in ("max_tokens", "max_completion_tokens"):
        if _is_number(changed.get(name)):
            changed[name] = int(changed[name]) - kept_tokens
            if changed[name] < 1:
                return NothingLeft(emitted, "length", _include_usage(request))
    if _is_number(changed.get("min_tokens")):
        changed["min_tokens"] = max(0, int(changed["min_tokens"]) - kept_tokens)
    prompt_tokens = counted_tokens or events
    return ContinuedRequest(msgspec.json.encode(changed), emitted, kept_tokens, overlap, prompt_tokens, to_count)


def _bounded(request: Json) -> bool:
    return any(_is_number(request.get(name)) for name in ("max_tokens", "max_completion_tokens", "min_tokens"))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _tokens_within(pieces: tuple[str, ...], length: int) -> int:
    """How many pieces begin within the first `length` characters."""
    count = position = 0
    for piece in pieces:
        if position >= length:
            break
        position += len(piece)
        count += 1
    return count


def _text_request(request: Json, text: str) -> Json | WhyNot:
    prompt = request.get("prompt")
    if not isinstance(prompt, str):
        return WhyNot("its prompt is not one text")
    limit = request.get("max_tokens", COMPLETION_MAX_TOKENS_DEFAULT)
    return {**request, "prompt": prompt + text, "max_tokens": limit}


def _chat_request(request: Json, text: str) -> Json | WhyNot:
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        return WhyNot("its messages are not a list of messages")
    last = messages[-1]
    if request.get("continue_final_message"):
        begun = last.get("content")
        if last.get("role") != "assistant" or not isinstance(begun, str):
            return WhyNot("it continues a message that is not text")
        messages = [*messages[:-1], {**last, "content": begun + text}]
    elif request.get("add_generation_prompt") is False:
        return WhyNot("it was to be answered without a turn of its own")
    else:
        messages = [*messages, {"role": "assistant", "content": text}]
    return {**request, "messages": messages, "continue_final_message": True, "add_generation_prompt": False}


# --- rules: each returns "" or the reason ---------------------------------------------------------------------------


def _fields_known(request: Json, emitted: Emitted) -> str:
    for name, value in request.items():
        if name not in SOUND and not _neutral(name, value):
            return UNSOUND.get(name, f"covey does not know what `{name[:64]}` means for the rest of an answer")
    return ""


def _neutral(name: str, value: object) -> bool:
    if name in NEUTRAL and value == NEUTRAL[name]:
        return True
    if name == "logprobs" and value == 0 and value is not False:
        return False  # text completions: 0 asks for the chosen tokens' own
    if name in ("skip_special_tokens", "spaces_between_special_tokens"):
        return value is None
    return value is None or value is False or value in (0, "", [], {})


def _tool_choice_free(request: Json, emitted: Emitted) -> str:
    choice = request.get("tool_choice") or request.get("function_call")
    return "" if choice in (None, "auto", "none") else "a forced tool call follows a grammar"


def _stop_not_begun(request: Json, emitted: Emitted) -> str:
    stop = request.get("stop")
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list):
        return ""
    longest = max((len(each) for each in stops if isinstance(each, str)), default=0)
    tail = emitted.text[-longest:] if longest else ""
    for each in stops:
        if isinstance(each, str) and any(tail.endswith(each[:size]) for size in range(1, len(each) + 1)):
            return "a stop string may have begun before the cut"
    return ""


RULES: tuple[Callable[[Json, Emitted], str], ...] = (_fields_known, _tool_choice_free, _stop_not_begun)


def _include_usage(request: Json) -> bool:
    options = request.get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))
