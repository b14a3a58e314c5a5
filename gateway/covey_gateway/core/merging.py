"""The answers to the parts of one request, made to look like one answer: index, order, usage, identity.

Whole answers: the elements of `data` or `choices` are renumbered and otherwise stay as the engine wrote them (vectors
are never decoded, base64 stays base64). Streams: each part's events are passed on as they come, with the index that
their choice has in the whole, under one id.

Usage: prompts are counted once, as vLLM counts them (a prompt's tokens come from the part with its first choice),
everything else is added up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from covey_gateway.core.events import DONE, EventSplitter, EventTooLargeError

Json = dict[str, Any]

_fields_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_elements_of = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
_usage_of = msgspec.json.Decoder(Json | None).decode
_index_of = msgspec.json.Decoder(int).decode

MISSING = msgspec.Raw(b"null")


class MalformedAnswerError(Exception):
    """The engine's answer is not what its API promises; the text says what is wrong and quotes nothing."""


@dataclass(frozen=True, slots=True)
class PartAnswer:
    """A whole answer to one part. `elements`: those of its list, renumbered, joined by commas. `others`: the answer's
    other fields."""

    elements: bytes
    usage: Json
    others: dict[str, bytes]


def read_part(body: bytes, list_name: str, begin: int, count: int) -> PartAnswer:
    """`count` elements are expected and become `begin`, `begin + 1` and so on. Raises MalformedAnswerError."""
    try:
        found = _fields_of(body)
        elements = _elements_of(found.pop(list_name, MISSING))
        indexes = [_index_of(each.get("index", MISSING)) for each in elements]
        usage = _usage_of(found.pop("usage", MISSING)) or {}
    except (msgspec.DecodeError, RecursionError):
        raise MalformedAnswerError(f"it is no JSON object with a list `{list_name}`") from None
    if sorted(indexes) != list(range(count)):
        raise MalformedAnswerError(f"`{list_name}` has {len(indexes)} elements, or not each index once, of {count}")
    for index, element in zip(indexes, elements, strict=True):
        element["index"] = msgspec.Raw(b"%d" % (begin + index))
    if indexes != list(range(count)):
        elements = [element for _, element in sorted(zip(indexes, elements, strict=True), key=lambda pair: pair[0])]
    encoded = msgspec.json.encode(elements)
    return PartAnswer(encoded[1:-1], usage, {name: bytes(value) for name, value in found.items()})


def opening(first: PartAnswer, list_name: str) -> bytes:
    """Everything before the first element; the first part's own fields stand for the whole."""
    others = {name: msgspec.Raw(value) for name, value in first.others.items()}
    head = msgspec.json.encode(others)[:-1]
    comma = b"," if others else b""
    return head + comma + b'"' + list_name.encode() + b'":['


def closing(usage: Json) -> bytes:
    """Everything after the last element."""
    return b"]" + (b',"usage":' + msgspec.json.encode(usage) if usage else b"") + b"}"


def merged_usage(usages: Iterable[tuple[Json, bool]]) -> Json:
    """(usage of a part, True if it counts its prompts). Empty if no part told one."""
    total: Json = {}
    for usage, with_prompts in usages:
        _add(total, {k: v for k, v in usage.items() if with_prompts or not k.startswith("prompt")})
    if "total_tokens" in total:
        total["total_tokens"] = total.get("prompt_tokens", 0) + total.get("completion_tokens", 0)
    return total


def _add(total: Json, more: Json) -> None:
    for name, value in more.items():
        if isinstance(value, dict):
            inner = total.get(name)
            total[name] = inner if isinstance(inner, dict) else {}
            _add(total[name], value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            before = total.get(name)
            total[name] = value + (before if isinstance(before, int | float) else 0)
        else:
            total.setdefault(name, value)


@dataclass(slots=True)
class StreamIdentity:
    """One for all parts of a stream: whoever speaks first gives its id and time to all."""

    header: dict[str, msgspec.Raw] = field(default_factory=dict)
    last: dict[str, msgspec.Raw] = field(default_factory=dict)
    """An event without its choices: what a final usage event is made of."""

    def put_on(self, event: dict[str, msgspec.Raw]) -> None:
        if not self.header:
            self.header = {name: event[name].copy() for name in ("id", "created") if name in event}
            names = ("object", "model", "system_fingerprint")
            self.last = self.header | {name: event[name].copy() for name in names if name in event}
        event.update(self.header)

    def usage_event(self, usage: Json, flag: Json) -> bytes:
        """`flag`: the `covey` field, as in continued streams (splicing.py)."""
        added = {"choices": [], "usage": usage, "covey": flag}
        return _event(self.last | {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in added.items()})


class PartStream:
    """One part's events, renumbered. `error` is the engine's or the gateway's own error object, once one came."""

    def __init__(self, identity: StreamIdentity, begin: int, count: int) -> None:
        self.usage: Json = {}
        self.error: Json | None = None
        self.done = False
        self.usage_estimated = False
        self._identity = identity
        self._begin = begin
        self._count = count
        self._finished: set[int] = set()
        self._splitter = EventSplitter()

    @property
    def complete(self) -> bool:
        """Every choice has finished, and the engine said that this was all."""
        return self.done and len(self._finished) == self._count

    def feed(self, chunk: bytes) -> bytes:
        """Whole events to pass on. Raises MalformedAnswerError."""
        try:
            return b"".join([self._passed_on(data) for data in self._splitter.feed(chunk) if self.error is None])
        except EventTooLargeError as error:
            raise MalformedAnswerError(str(error)) from None
        except (msgspec.DecodeError, RecursionError):
            raise MalformedAnswerError("an event is no JSON object with choices") from None

    def _passed_on(self, data: bytes) -> bytes:
        if data == DONE:
            self.done = True
            return b""
        event = _fields_of(data)
        if "error" in event:
            self.error = error_of(data) or {}
            return b""
        choices = _elements_of(event.get("choices", MISSING))
        self._identity.put_on(event)
        if not choices:
            self.usage = _usage_of(event.get("usage", MISSING)) or self.usage
            self.usage_estimated = b"usage_estimated" in bytes(event.get("covey", MISSING))
            return b""
        event["choices"] = msgspec.Raw(msgspec.json.encode([self._renumbered(choice) for choice in choices]))
        return _event(event)

    def _renumbered(self, choice: dict[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
        index = _index_of(choice.get("index", MISSING))
        if not 0 <= index < self._count:
            raise MalformedAnswerError(f"an event's index is {index}, of {self._count}")
        if bytes(choice.get("finish_reason", MISSING)) != b"null":
            self._finished.add(index)
        choice["index"] = msgspec.Raw(b"%d" % (self._begin + index))
        return choice


def _event(fields: dict[str, msgspec.Raw]) -> bytes:
    return b"data: " + msgspec.json.encode(fields) + b"\n\n"


def error_of(body: bytes) -> Json | None:
    """The error object of an OpenAI-shaped error; None where the answer is none."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None
    error = found.get("error") if isinstance(found, dict) else None
    return error if isinstance(error, dict) else None
