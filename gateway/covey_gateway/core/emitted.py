"""What a client of a broken stream already has, read from the events that it was sent.

Only chat and text completions; only ever called when a machine failed. Field names are those of OpenAI's streaming
chunks and of vLLM's additions to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from covey_gateway.core.events import DONE, data_of_events

Json = dict[str, Any]

IDENTITY = ("id", "object", "created", "model", "system_fingerprint", "service_tier")
"""Fields of a chunk that stay the same over one answer."""

_TOLD = {
    "tool_calls": "a tool call has begun",
    "function_call": "a function call has begun",
    "reasoning": "reasoning was sent, which cannot be given back as a part of an answer",
    "reasoning_content": "reasoning was sent, which cannot be given back as a part of an answer",
    "refusal": "the model refuses",
    "audio": "sound was sent",
}
"""Parts of a delta that no prompt can carry on from."""


@dataclass(frozen=True, slots=True)
class Emitted:
    """`pieces` are the texts of the events that carried any, in order: one token each, nearly always (vLLM joins
    tokens in one event where its reader lags). `header`: the first event's fields of IDENTITY. `roles`: choices whose
    role was told. `finish_reason` "": the answer was not finished. `unfit`: why nothing may follow, "" if something
    may.
    """

    pieces: tuple[str, ...] = ()
    header: Json | None = None
    roles: frozenset[int] = frozenset()
    finish_reason: str = ""
    usage_sent: bool = False
    done: bool = False
    unfit: str = ""

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def read_emitted(stream: bytes) -> Emitted:
    """From whole events. Anything that is not understood makes the result unfit, never raises."""
    reader = _Reader()
    for data in data_of_events(stream):
        if data == DONE:
            reader.done = True
            continue
        try:
            event = msgspec.json.decode(data)
        except (msgspec.DecodeError, RecursionError):
            event = None
        reader.read(event)
    return reader.emitted()


class _Reader:
    def __init__(self) -> None:
        self.done = False
        self._pieces: list[str] = []
        self._header: Json | None = None
        self._roles: set[int] = set()
        self._finish_reason = ""
        self._usage_sent = False
        self._unfit = ""

    def emitted(self) -> Emitted:
        return Emitted(
            tuple(self._pieces),
            self._header,
            frozenset(self._roles),
            self._finish_reason,
            self._usage_sent,
            self.done,
            self._unfit,
        )

    def read(self, event: object) -> None:
        choices = event.get("choices") if isinstance(event, dict) else None
        if not isinstance(event, dict) or not isinstance(choices, list) or "error" in event:
            self._unfit = self._unfit or "the engine sent something else than an answer's chunks"
            return
        if self._header is None:
            self._header = {name: event[name] for name in IDENTITY if name in event}
        self._usage_sent = self._usage_sent or (not choices and isinstance(event.get("usage"), dict))
        for choice in choices:
            if isinstance(choice, dict):
                self._choice(choice)

    def _choice(self, choice: Json) -> None:
        delta = choice.get("delta")
        delta = delta if isinstance(delta, dict) else {}
        if "role" in delta:
            self._roles.add(choice.get("index") or 0)
        for name, told in _TOLD.items():
            if delta.get(name):
                self._unfit = self._unfit or told
        text = delta.get("content") or choice.get("text") or ""
        if not isinstance(text, str):
            self._unfit = self._unfit or "the answer is not text"
        elif text:
            self._pieces.append(text)
            self._unfit = self._unfit or ("it has several choices" if choice.get("index") else "")
        if choice.get("finish_reason"):
            self._finish_reason = str(choice["finish_reason"])
