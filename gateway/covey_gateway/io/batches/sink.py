"""Takes one line's answer from the front door and hands it over whole. Bounded, alone and together with the others."""

from __future__ import annotations

from collections.abc import Callable

from covey_gateway.core.batches.results import Answered
from covey_gateway.core.front import ActiveRequest, AnswerHead, ClientSink
from covey_gateway.core.retrying import BufferBudget
from covey_mesh.core.exchange import Failure


class LineSink(ClientSink):
    """A ClientSink. `done` is called once, unless the line is cancelled before."""

    def __init__(self, budget: BufferBudget, answer_bytes_max: int, done: Callable[[Answered], None]) -> None:
        self.active: ActiveRequest | None = None
        self._budget = budget
        self._most = answer_bytes_max
        self._done = done
        self._head: AnswerHead | None = None
        self._pieces: list[bytes] = []
        self._size = 0
        self._over = False

    def head(self, head: AnswerHead) -> None:
        self._head = head

    def data(self, chunk: bytes) -> None:
        if self._over:
            return
        if self._size + len(chunk) > self._most or not self._budget.take(len(chunk)):
            # Nothing of it can be kept: its engine need not go on.
            assert self.active is not None
            self.active.cancel()
            self._finish(Answered(0, "" if self._head is None else self._head.request_id, b""))
            return
        self._size += len(chunk)
        self._pieces.append(chunk)

    def end(self, failure: Failure | None) -> None:
        if self._over:
            return
        head = self._head
        if head is None or failure is not None:
            self._finish(Answered(0, "" if head is None else head.request_id, b""))
        else:
            self._finish(Answered(head.status, head.request_id, b"".join(self._pieces), float(head.retry_after_s)))

    def cancel(self) -> None:
        """The line is not wanted any more."""
        if not self._over:
            self._over = True
            self._release()
            if self.active is not None:
                self.active.cancel()

    def _finish(self, answered: Answered) -> None:
        self._over = True
        self._release()
        self._done(answered)

    def _release(self) -> None:
        self._pieces.clear()
        self._budget.give_back(self._size)
        self._size = 0
