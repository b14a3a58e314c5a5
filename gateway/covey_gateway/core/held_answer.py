"""One attempt's answer before the client has seen any of it: what may still be thrown away and asked for elsewhere.

Event streams are held only until their first whole event; other answers until complete or too large.
"""

from __future__ import annotations

from covey_gateway.core.event_stream import EventAligner, engine_fault
from covey_gateway.core.retrying import BufferBudget
from covey_gateway.core.splicing import Splicer
from covey_mesh.core.exchange import Failure, FailureCode

EVENT_STREAM = "text/event-stream"
ERROR_BODY_BYTES_MAX = 64 * 1024
NOT_RETRIED = frozenset({501, 505})
"""Server errors that every machine would repeat."""


class HeldAnswer:
    """Head and held bytes of one attempt. `aligner` is there for event streams only: `splicer` where one is given."""

    __slots__ = (
        "_budget",
        "_held",
        "_limit",
        "_size",
        "_splicer",
        "aligner",
        "content_type",
        "retry_after_s",
        "status",
    )

    def __init__(self, budget: BufferBudget, limit_bytes: int, splicer: Splicer | None = None) -> None:
        self._budget = budget
        self._limit = limit_bytes
        self._held: list[bytes] = []
        self._size = 0
        self.status = 0
        self.content_type = ""
        self.retry_after_s = 0
        self.aligner: EventAligner | Splicer | None = None
        self._splicer = splicer

    def head(self, status: int, content_type: str, retry_after_s: int) -> None:
        self.status, self.content_type, self.retry_after_s = status, content_type, retry_after_s
        if content_type.startswith(EVENT_STREAM):
            self.aligner = self._splicer or EventAligner()

    @property
    def is_machine_error(self) -> bool:
        """A 5xx that another machine might not give."""
        return self.status >= 500 and self.status not in NOT_RETRIED

    def add(self, chunk: bytes) -> Failure | bytes | None:
        """None: held. Bytes: they (and the head) must go out now. A Failure: the stream is a refusal in disguise."""
        if self.is_machine_error:
            if self._size + len(chunk) <= ERROR_BODY_BYTES_MAX:
                self._hold(chunk)
            return None
        if self.aligner is not None:
            events = self.aligner.feed(chunk)
            fault = engine_fault(events) if events else None
            if fault is not None and not fault[0]:
                return fault[1]
            return events or None
        if self._size + len(chunk) <= self._limit and self._hold(chunk):
            return None
        return self.take() + chunk

    def take(self) -> bytes:
        """Everything held, once; also gives the budget back."""
        held = b"".join(self._held) if len(self._held) != 1 else self._held[0]
        self.drop()
        return held + self.aligner.flush() if self.aligner is not None else held

    def drop(self) -> None:
        self._budget.give_back(self._size)
        self._held, self._size = [], 0

    def machine_failure(self) -> Failure:
        """What a 5xx means for the attempt: a full engine (503), or one that failed."""
        code = FailureCode.RESOURCE_EXHAUSTED if self.status == 503 else FailureCode.ENGINE_FAILED
        return Failure(code, f"the engine answered {self.status}", self.retry_after_s * 1000)

    def _hold(self, chunk: bytes) -> bool:
        if not self._budget.take(len(chunk)):
            return False
        self._held.append(chunk)
        self._size += len(chunk)
        return True
