"""What a request's state machine knows, and how a request ends; the moves are in its siblings.

Not here: where to ask (request_placing.py), what a machine answers (request_serving.py), the table (request.py).
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from covey_gateway.core import errors
from covey_gateway.core import request_events as ev
from covey_gateway.core.event_stream import EventAligner
from covey_gateway.core.held_answer import HeldAnswer
from covey_gateway.core.retrying import AttemptLedger, BufferBudget
from covey_gateway.core.settings import RequestSettings
from covey_mesh.core.asking import AttemptReport, Decision
from covey_mesh.core.exchange import Failure
from covey_mesh.core.names import NodeId

NAMED_EVENT_PATHS = frozenset({"/v1/messages", "/v1/responses"})
"""Streams whose events carry a type; their clients read `event: error`."""


class Phase(enum.Enum):
    NEW = "new"
    ASKING = "asking"
    QUEUED = "queued"
    DECIDING = "deciding"
    BACKING_OFF = "backing off"
    OPENING = "opening"
    RELAYING = "relaying"
    DONE = "done"


class RequestState:
    """`wake_at_s` is when the next Tick is due (None: never)."""

    def __init__(
        self,
        facts: ev.RequestFacts,
        settings: RequestSettings,
        budget: BufferBudget,
        jitter: Callable[[], float],
    ) -> None:
        self.facts = facts
        self.phase = Phase.NEW
        self.attempt = 0
        self.opened = 0
        self.node_id: NodeId | None = None
        self.decision: Decision | None = None
        self.status = 0
        self.broken = False
        self.usage = (0, 0)
        self.wake_at_s: float | None = None
        self._settings = settings
        self._budget = budget
        self._jitter = jitter
        self._ledger = AttemptLedger(settings)
        self._leader: NodeId | None = None
        self._asked: NodeId | None = None
        self._due_s: float | None = None
        self._waiting_since_s: float | None = None
        self._rounds = 0
        self._held: HeldAnswer | None = None
        self._aligner: EventAligner | None = None
        self._last_error: tuple[int, str, bytes] | None = None

    @property
    def events(self) -> int:
        """Server-sent events relayed so far."""
        return 0 if self._aligner is None else self._aligner.events

    def _refuse(self, now_s: float, error: errors.GatewayError) -> list[ev.Effect]:
        effects = self._withdraw()
        self.status = error.status
        self._drop_held()
        self._enter(Phase.DONE, None)
        return [*effects, ev.Refuse(error)]

    def _break(self, failure: Failure, error: errors.GatewayError) -> list[ev.Effect]:
        """One clean error event for a stream; a cut body for anything else."""
        assert self.node_id is not None
        self.broken = True
        self._enter(Phase.DONE, None)
        request_id = self.facts.request_id
        report = AttemptReport(request_id, self.attempt, self.node_id, failed=True, output_tokens=self.events)
        named = self.facts.path in NAMED_EVENT_PATHS
        event = [ev.DeliverData(error.event(named))] if self._aligner is not None else []
        ended = ev.AttemptEnded(self.attempt, self.node_id, failure.code.value)
        return [*event, ev.DeliverEnd(failure), ended, ev.Report(None, report)]

    def _withdraw(self) -> list[ev.Effect]:
        """The leader asked need not keep or count this attempt any longer."""
        if self.phase not in (Phase.ASKING, Phase.QUEUED) or self._asked is None:
            return []
        return [ev.Report(self._asked, AttemptReport(self.facts.request_id, self.attempt, withdrawn=True))]

    def _busy_error(self) -> errors.GatewayError:
        return errors.pool_busy(self.facts.model, self._settings.retry_after_s)

    def _unavailable(self, code: errors.Code) -> errors.GatewayError:
        why = self._ledger.last_message or (self.decision.why if self.decision else "no machine answers")
        facts = self.facts
        return errors.nothing_serves(code, facts.model, why, facts.request_id, self._settings.retry_after_s)

    def _past_deadline(self, now_s: float) -> bool:
        return self.facts.deadline_at_s is not None and now_s >= self.facts.deadline_at_s

    def _drop_held(self) -> None:
        if self._held is not None:
            self._held.drop()
            self._held = None

    def _enter(self, phase: Phase, due_s: float | None) -> None:
        self.phase, self._due_s = phase, due_s

    def _ignore(self, now_s: float, event: ev.Event) -> list[ev.Effect]:
        return []
