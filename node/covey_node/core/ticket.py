"""What an attempt holds of an engine, from admission to its end. Not here: who gets one (admission.py)."""

from __future__ import annotations

import enum

from covey_mesh.core.marks import mark_of


class Place(enum.Enum):
    """Where an admitted attempt stands."""

    WAITING = "waiting"
    RUNNING = "running"
    GONE = "gone"


class Ticket:
    """One admitted attempt. Counts are tokens; `reserved_tokens` is held from admission to release while RUNNING.
    `prompt_due_s`: when its prompt should have been computed, once it was asked for."""

    output_tokens: int = 0
    prompt_due_s: float | None = None
    _mark: int = 0

    def __init__(
        self,
        request_id: str,
        attempt: int,
        prompt_tokens: int,
        expected_output_tokens: int,
        reserved_tokens: int,
        body_bytes: int,
        since_s: float,
        streaming: bool,
        place: Place,
    ) -> None:
        self.request_id = request_id
        self.attempt = attempt
        self.prompt_tokens = prompt_tokens
        self.expected_output_tokens = expected_output_tokens
        self.reserved_tokens = reserved_tokens
        self.body_bytes = body_bytes
        self.since_s = since_s
        self.streaming = streaming
        self.place = place

    @property
    def mark(self) -> int:
        """Worked out for those that a report finds here: most are gone before."""
        if not self._mark:
            self._mark = mark_of(self.request_id, self.attempt)
        return self._mark

    @property
    def queued_tokens(self) -> int:
        """Still to compute: the prompt until the first token came, and the rest of the expected output."""
        prompt = 0 if self.output_tokens else self.prompt_tokens
        return prompt + max(0, self.expected_output_tokens - self.output_tokens)
