"""A machine played over a FakeAttempt by the simulated engine's own words, event by event."""

from __future__ import annotations

from tests.support.gateway import FakeAttempt

from covey_mesh.core.exchange import Failure
from covey_node.core import simulated_openai as openai

EVENT_STREAM = "text/event-stream; charset=utf-8"
CONTEXT_TOKENS = 4096


class SimulatedAttempt:
    """Sends the answer to one attempt as far as the test wants."""

    def __init__(self, attempt: FakeAttempt, seed: int = 0) -> None:
        self.attempt = attempt
        self.call = openai.parse(attempt.request.path, attempt.request.body, "m", False, CONTEXT_TOKENS, seed)
        self._seed = seed
        self._next = 0
        self.begun = False
        self.over = False
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
