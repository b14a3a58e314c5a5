"""The rest of an answer, made to look like one stream with its first part: identity, role, white space, usage, flag.

Here every event is parsed; only answers that broke come this way. The last event before "[DONE]" (and the usage, where
it comes apart) carries `"covey": {"continued": N, "machines": [...]}`, a field that OpenAI's clients ignore.
"""

from __future__ import annotations

from typing import Any

import msgspec

from covey_gateway.core.continuation import ContinuedRequest, NothingLeft
from covey_gateway.core.event_stream import EventAligner
from covey_gateway.core.events import DONE, DONE_EVENT, EventSplitter, EventTooLargeError

Json = dict[str, Any]


class Splicer:
    """Used in an EventAligner's place for a continued attempt."""

    def __init__(self, continued: ContinuedRequest, flag: Json) -> None:
        self._splitter = EventSplitter()
        self._out = EventAligner()
        self._continued = continued
        self._overlap = continued.overlap
        self._flag = flag

    @property
    def events(self) -> int:
        return self._out.events

    @property
    def end(self) -> bytes:
        """The answer's last bytes, for the usage."""
        return self._out.end

    def feed(self, chunk: bytes) -> bytes:
        """Whole events, ready to send; may be empty. An endless event becomes the engine's error."""
        try:
            parts = [self._spliced(data) for data in self._splitter.feed(chunk)]
        except EventTooLargeError as error:
            parts = [encoded({"error": {"message": str(error), "code": 500}})]
        return self._out.feed(b"".join(parts)) if any(parts) else b""

    def flush(self) -> bytes:
        """A torn event at a good end is none of ours to repair: nothing."""
        return b""

    def _spliced(self, data: bytes) -> bytes:
        if data == DONE:
            return DONE_EVENT
        try:
            event = msgspec.json.decode(data)
        except (msgspec.DecodeError, RecursionError):
            event = None
        if not isinstance(event, dict) or "error" in event or not isinstance(event.get("choices"), list):
            return b"data: " + data + b"\n\n"
        event.update(self._continued.emitted.header or {})
        self._correct_usage(event)
        choices = [choice for choice in event["choices"] if not isinstance(choice, dict) or self._says_more(choice)]
        if event["choices"] and not choices:
            return b""
        event["choices"] = choices
        if not choices or any(isinstance(c, dict) and c.get("finish_reason") for c in choices):
            event["covey"] = self._flag
        return encoded(event)

    def _says_more(self, choice: Json) -> bool:
        """Takes away what the client already has; False if nothing is left of the choice."""
        part = choice.get("delta")
        name = "content"
        if not isinstance(part, dict):
            part, name = choice, "text"
        had_role = "role" in part and (choice.get("index") or 0) in self._continued.emitted.roles
        if had_role:
            del part["role"]
        before = part.get(name)
        if isinstance(before, str):
            part[name] = self._new(before)
        trimmed = had_role or (bool(before) and not part[name])
        others = any(value for key, value in part.items() if key != "index")
        return not trimmed or others or bool(choice.get("finish_reason"))

    def _new(self, text: str) -> str:
        """Without the white space that was sent before the cut and is now written again."""
        if not self._overlap or not text:
            return text
        same = 0
        for ours, theirs in zip(self._overlap, text, strict=False):
            if ours != theirs:
                break
            same += 1
        self._overlap = self._overlap[same:] if same == len(text) else ""
        return text[same:]

    def _correct_usage(self, event: Json) -> None:
        """The engine took the first part for prompt."""
        usage = event.get("usage")
        if not isinstance(usage, dict):
            return
        added, kept = self._continued.prompt_tokens, self._continued.kept_tokens
        prompt, output = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if isinstance(prompt, int) and isinstance(output, int):
            usage["prompt_tokens"], usage["completion_tokens"] = max(0, prompt - added), output + kept
            usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]


def ending(left: NothingLeft, prompt_tokens: int, flag: Json) -> bytes:
    """The events that were lost at the end of an answer whose text is complete.

    `prompt_tokens` is the gateway's estimate: the engine that knew the count is gone, and the flag says so.
    """
    emitted = left.emitted
    if emitted.done:
        return b""
    header = emitted.header or {}
    out = b""
    if not emitted.finish_reason:
        part: Json = {"delta": {}} if header.get("object") == "chat.completion.chunk" else {"text": ""}
        choice = {"index": 0, **part, "logprobs": None, "finish_reason": left.finish_reason}
        out += encoded({**header, "choices": [choice], "covey": flag})
    if left.include_usage and not emitted.usage_sent:
        output = len(emitted.pieces)
        usage = {
            "prompt_tokens": prompt_tokens,
            "total_tokens": prompt_tokens + output,
            "completion_tokens": output,
        }
        out += encoded({**header, "choices": [], "usage": usage, "covey": {**flag, "usage_estimated": True}})
    return out + DONE_EVENT


def encoded(event: Json) -> bytes:
    """One server-sent event."""
    return b"data: " + msgspec.json.encode(event) + b"\n\n"
