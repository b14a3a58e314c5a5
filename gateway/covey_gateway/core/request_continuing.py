"""How a stream that broke goes on: what to ask of another machine, or the one clean error where nothing sound can be.

The rules of what is sound are continuation.py's; here is when they are asked and what follows.
"""

from __future__ import annotations

from covey_gateway.core import errors
from covey_gateway.core import request_events as ev
from covey_gateway.core.continuation import (
    CONTINUED_PATHS,
    ContinuedRequest,
    NothingLeft,
    Plan,
    WhyNot,
    continuation_of,
)
from covey_gateway.core.emitted import read_emitted
from covey_gateway.core.kept_answer import KeptAnswer
from covey_gateway.core.request_placing import Placing
from covey_gateway.core.retrying import FINAL
from covey_gateway.core.splicing import ending
from covey_mesh.core.exchange import Failure


class Continuing(Placing):
    """From a broken stream to another attempt, or to its end."""

    def _keep(self, chunk: bytes) -> None:
        """The client is sent these whole events."""
        if self._kept is not None:
            self._kept.add(chunk)

    def _begin_keeping(self) -> None:
        self.committed = True
        self._streaming = self._aligner is not None
        if self._streaming and self.facts.path in CONTINUED_PATHS:
            self._kept = KeptAnswer(self._around.kept_budget, self._settings.kept_answer_bytes_max)

    def _interrupted(self, now_s: float, failure: Failure) -> list[ev.Effect]:
        """The machine failed after the client had seen a part of its answer."""
        self._broken_by = failure
        if failure.code in FINAL:
            return self._break(failure, errors.deadline_exceeded())
        plan = self._plan()
        if isinstance(plan, WhyNot):
            outcome = "too_long" if self._kept is not None and self._kept.overflowed else "unsound"
            told = [ev.ContinuationEnded(outcome, plan.reason)] if self._streaming else []
            return [*told, *self._break_with(failure, plan.reason)]
        assert self.node_id is not None
        self._ledger.note(now_s, self.node_id, failure)
        if isinstance(plan, NothingLeft):
            return self._end_here(plan, failure)
        return self._go_on(now_s, plan, failure)

    def _plan(self) -> Plan:
        if self._kept is None:
            return WhyNot("only streamed chat and text completions are")
        if self._kept.overflowed:
            return WhyNot("it is longer than what is kept of an answer")
        return continuation_of(self.facts.path, self._body, read_emitted(self._kept.all()))

    def _counted(self, now_s: float, event: ev.Counted) -> list[ev.Effect]:
        """The tokens already written are known: the bounds for the rest can be set."""
        before = self._continuing
        assert before is not None
        assert self.node_id is not None
        plan = continuation_of(self.facts.path, self._body, before.emitted, event.tokens or before.kept_tokens)
        if isinstance(plan, NothingLeft):
            assert self._broken_by is not None
            return self._end_here(plan, self._broken_by)
        assert isinstance(plan, ContinuedRequest), "what was sound before it was counted"
        self._continuing = plan
        return self._open(self.node_id)

    def _break_with(self, failure: Failure, reason: str) -> list[ev.Effect]:
        detail = f"{failure.message or failure.code.value}; it was not continued elsewhere: {reason}"
        return self._break(Failure(failure.code, detail), errors.stream_broken(detail))

    def _end_here(self, left: NothingLeft, failure: Failure) -> list[ev.Effect]:
        """Every token was sent; what is missing can be written without a machine."""
        chunk = ending(left, self.facts.prompt_tokens, self._flag(self._machines))
        self.usage = (0, len(left.emitted.pieces))
        delivered = [ev.DeliverData(chunk)] if chunk else []
        over = self._attempt_over(f"{failure.code.value}; the answer was complete", failed=True)
        return [*over, *delivered, ev.ContinuationEnded("finished_here", failure.code.value), *self._complete()]

    def _go_on(self, now_s: float, plan: ContinuedRequest, failure: Failure) -> list[ev.Effect]:
        told = f"{failure.code.value} after {len(plan.emitted.pieces)} tokens; continued elsewhere"
        effects = self._attempt_over(told, failed=True)
        self._events_before = self.events
        self._aligner = None
        self._drop_held()
        if self._ledger.exhausted():
            return [*effects, *self._give_up(self._unavailable(errors.Code.ATTEMPTS_EXHAUSTED))]
        self._continuing = plan
        self._patient_from_s = now_s
        return [*effects, ev.Continuing(failure.code.value), *self._ask(now_s)]
