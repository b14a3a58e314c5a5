"""A machine played over a FakeAttempt by the simulated engine's own words, event by event."""

from __future__ import annotations

import json

from tests.support.gateway import FakeAttempt

from covey_mesh.core.exchange import Failure
from covey_node.core import simulated_openai as openai

EVENT_STREAM = "text/event-stream; charset=utf-8"
CONTEXT_TOKENS = 4096


class SimulatedAttempt:
    """Sends the answer to one attempt as far as the test wants."""

    def __init__(self, attempt: FakeAttempt, seed: int = 0) -> None:
        self.attempt = attempt
        self.over = attempt.request.path == "/tokenize"
        self._next = 0
        self.begun = False
        if self.over:
            return
        self.call = openai.parse(attempt.request.path, attempt.request.body, "m", False, CONTEXT_TOKENS, seed)
        self._seed = seed
        self._id = f"simulated-{attempt.request.attempt}"

    def role(self) -> None:
        """The head, and the event before the first token."""
        self.begun = True
        self.attempt.sink.head(200, EVENT_STREAM)
        event = openai.head_event(self.call, self._id)
        if event:
            self.attempt.sink.data(event)

    def tokens(self, count: int, torn: bool = False) -> None:
        """So many more; `torn`: and half of the one after."""
        for _ in range(min(count, self.left)):
            self.attempt.sink.data(self._event(self._next))
            self._next += 1
        if torn and self.left:
            event = self._event(self._next)
            self.attempt.sink.data(event[: len(event) // 2])

    def joined(self, count: int) -> None:
        """The head and so many tokens in one event, as an engine does whose reader lags."""
        self.role()
        text = openai.text(self.call, self._seed, count)
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
        event = {"id": self._id, "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
        self.attempt.sink.data(b"data: " + json.dumps(event).encode() + b"\n\n")
        self._next += count

    def end(self) -> None:
        self.over = True
        self.attempt.sink.data(openai.tail_events(self.call, self._id, self._next))
        self.attempt.sink.end(None)

    def finish(self) -> None:
        """All that is left, to a good end."""
        self.role()
        self.tokens(self.left)
        self.end()

    def die(self, failure: Failure) -> None:
        self.over = True
        self.attempt.sink.end(failure)

    @property
    def left(self) -> int:
        return self.call.output_tokens - self._next

    def _event(self, index: int) -> bytes:
        return openai.token_event(self.call, self._id, self._seed, index, index == self.call.output_tokens - 1)
