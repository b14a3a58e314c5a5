"""Server-sent events as bytes: cut only between events, count them, find the usage at the end. Never decodes JSON.

A relay that passes torn events on could not end a broken stream cleanly: the client would glue the error to half an
event. Engines write an event per token and flush it, so holding back a torn tail delays nothing in practice.
"""

from __future__ import annotations

import re
from typing import ClassVar

from covey_mesh.core.exchange import Failure, FailureCode

EVENT_END = b"\n\n"
EVENT_MARK = b"data:"
EVENT_BYTES_MAX = 1024 * 1024
"""A longer tail without an event's end is passed on as it is."""

ERROR_EVENT = b'data: {"error"'
"""Begins an engine's error event; within an answer's text the quotes would be escaped."""

ERROR_BYTES_READ = 16 * 1024
_ERROR_CODE = re.compile(rb'"code"\s*:\s*"?(\d{3})\b')

USAGE_TAIL_BYTES = 2048
"""A usage object stands within this many bytes of an answer's end."""

_USAGE = {
    "prompt": re.compile(rb'"(?:prompt|input)_tokens"\s*:\s*(\d{1,10})'),
    "output": re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d{1,10})'),
    "cached": re.compile(rb'"(?:cached|cache_read_input)_tokens"\s*:\s*(\d{1,10})'),
}


class EventAligner:
    """Holds back the bytes after the last complete event."""

    __slots__ = ("_before", "_last", "_tail", "events")

    def __init__(self) -> None:
        self._tail = b""
        self.events = 0
        self._before = b""
        self._last = b""

    def feed(self, chunk: bytes) -> bytes:
        """Whole events, ready to send; may be empty. Nearly always one event, which is passed on as it is."""
        if self._tail or not chunk.endswith(EVENT_END):
            chunk = self._cut(chunk)
            if not chunk:
                return chunk
        self.events += chunk.count(EVENT_MARK)
        self._before, self._last = self._last, chunk
        return chunk

    def _cut(self, chunk: bytes) -> bytes:
        """What was held back and the new bytes, up to the last event's end; the rest is held back."""
        chunk, self._tail = self._tail + chunk, b""
        if chunk.endswith(EVENT_END):
            return chunk
        cut = chunk.rfind(EVENT_END) + len(EVENT_END)
        if cut < len(EVENT_END):
            cut = len(chunk) if len(chunk) > EVENT_BYTES_MAX else 0
        self._tail = chunk[cut:]
        return chunk[:cut]

    def flush(self) -> bytes:
        """What was held back; the source ended well."""
        tail, self._tail = self._tail, b""
        return tail

    @property
    def end(self) -> bytes:
        """The answer's last bytes, enough for `read_usage`: the usage may come in a piece before "[DONE]"."""
        return (self._before + self._last)[-USAGE_TAIL_BYTES:]


def read_usage(end: bytes) -> tuple[int, int]:
    """(prompt tokens, output tokens) from an answer's last bytes; 0 where not told."""
    return _last_number("prompt", end), _last_number("output", end)


def read_cached_tokens(end: bytes) -> int:
    """Prompt tokens that the engine had in its prefix cache; 0 where not told."""
    return _last_number("cached", end)


def _last_number(kind: str, end: bytes) -> int:
    found = _USAGE[kind].findall(end[-USAGE_TAIL_BYTES:])
    return int(found[-1]) if found else 0


def engine_fault(events: bytes) -> tuple[bytes, Failure] | None:
    """What came before an engine's own failure in these whole events, and the failure; None if there is none.

    vLLM answers 200 before it knows: a full queue (--max-num-queued-reqs) and an engine that dies are told by an error
    event in the stream. Errors that are the client's (4xx) are its answer, and none here.
    """
    at = events.find(ERROR_EVENT)
    if at < 0:
        return None
    found = _ERROR_CODE.search(events[at : at + ERROR_BYTES_READ])
    code = int(found[1]) if found else 500
    if code == 503:
        return events[:at], Failure(FailureCode.RESOURCE_EXHAUSTED, "the engine's queue is full")
    return (events[:at], Failure(FailureCode.ENGINE_FAILED, "the engine failed in mid-answer")) if code >= 500 else None


class TokenRatio:
    """Bytes of prompt JSON a token, per model: an exponential average over answers that told their usage.

    Bounded by MODELS_MAX models, oldest first out; each sample is clamped, so that a prompt made of images or a lying
    engine cannot derail the estimate.
    """

    MODELS_MAX: ClassVar = 256
    WEIGHT: ClassVar = 0.05
    SMALLEST: ClassVar = 0.5
    LARGEST: ClassVar = 16.0

    def __init__(self, initial: float) -> None:
        self._initial = initial
        self._ratios: dict[str, float] = {}

    def of(self, model: str) -> float:
        return self._ratios.get(model, self._initial)

    def learn(self, model: str, prompt_bytes: int, prompt_tokens: int) -> None:
        if prompt_tokens <= 0 or prompt_bytes <= 0:
            return
        sample = prompt_bytes / prompt_tokens
        if sample < self.SMALLEST:
            sample = self.SMALLEST
        elif sample > self.LARGEST:
            sample = self.LARGEST
        before = self._ratios.get(model)
        if before is None:
            if len(self._ratios) >= self.MODELS_MAX:
                del self._ratios[next(iter(self._ratios))]
            before = self._initial
        self._ratios[model] = before + self.WEIGHT * (sample - before)
