"""What a request's state machine knows, and how a request ends; the moves are in its siblings.

Not here: where to ask (request_placing.py), what a machine answers (request_serving.py), the table (request.py).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from covey_gateway.core import errors
from covey_gateway.core import request_events as ev
from covey_gateway.core.continuation import ContinuedRequest
from covey_gateway.core.event_stream import EventAligner
from covey_gateway.core.held_answer import HeldAnswer
from covey_gateway.core.kept_answer import KeptAnswer
from covey_gateway.core.progress import Pace, Work, pace_of
from covey_gateway.core.retrying import AttemptLedger, BufferBudget
from covey_gateway.core.settings import RequestSettings
from covey_gateway.core.splicing import Splicer
from covey_mesh.core.asking import AttemptReport, Decision
from covey_mesh.core.exchange import Failure
from covey_mesh.core.names import NodeId

NAMED_EVENT_PATHS = frozenset({"/v1/messages", "/v1/responses"})
"""Streams whose events carry a type; their clients read `event: error`."""


class Phase(enum.Enum):
    __hash__ = object.__hash__  # a key of the transition table, looked up for each event; enum's own is Python code

    NEW = "new"
    ASKING = "asking"
    QUEUED = "queued"
    DECIDING = "deciding"
    BACKING_OFF = "backing off"
    OPENING = "opening"
    RELAYING = "relaying"
    DONE = "done"


def _first_digits(node_id: NodeId) -> str:
    return node_id[:8]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a request reads of its gateway and its pool; the defaults stand for a gateway that knows nothing."""

    kept_budget: BufferBudget = field(default_factory=lambda: BufferBudget(RequestSettings().kept_total_bytes_max))
    excluded: Callable[[float, str], Mapping[NodeId, str]] = lambda now_s, model: {}
    """Machines that no request for this model should go to now, with the reason."""
    pace: Callable[[NodeId, str, Work], Pace] = lambda node_id, model, work: pace_of(None, work)
    name_of: Callable[[NodeId], str] = _first_digits
    reopens_s: Callable[[float, str], float] = lambda now_s, model: 0.0
    """Seconds until the first of the `excluded` machines is tried again; 0 if none is left out."""
    leader_heard_s: Callable[[], float] = lambda: float("-inf")
    """When the leader last answered any request of this gateway."""


class RequestState:
    """`wake_at_s` is when the next Tick is due (None: never)."""

    def __init__(
        self,
        facts: ev.RequestFacts,
        settings: RequestSettings,
        budget: BufferBudget,
        jitter: Callable[[], float],
        body: bytes = b"",
        around: Surroundings | None = None,
    ) -> None:
        self.facts = facts
        self.committed = False
        self._streaming = False
        self.paused = False
        self.continued = 0
        self._body = body
        self._around = around or Surroundings()
        self.phase = Phase.NEW
        self.attempt = 0
        self.opened = 0
        self.node_id: NodeId | None = None
        self.decision: Decision | None = None
        self.status = 0
        self.broken = False
        self.usage = (0, 0)
        self.cached_prompt_tokens = 0
        self.wake_at_s: float | None = None
        self._settings = settings
        self._budget = budget
        self._jitter = jitter
        self._ledger = AttemptLedger(settings)
        self._leader: NodeId | None = None
        self._asked: NodeId | None = None
        self._asked_at_s = facts.arrived_s
        self._due_s: float | None = None
        self._waiting_since_s: float | None = None
        self._rounds = 0
        self._held: HeldAnswer | None = None
        self._aligner: EventAligner | Splicer | None = None
        self._events_before = 0
        self._kept: KeptAnswer | None = None
        self._continuing: ContinuedRequest | None = None
        self._machines: list[str] = []
        self._patient_from_s = facts.arrived_s
        self._broken_by: Failure | None = None
        self._pace: Pace | None = None
        self.opened_at_s = facts.arrived_s
        self._moved = False
        self._idle_ticks = 0
        self._last_error: tuple[int, str, bytes] | None = None

    @property
    def events(self) -> int:
        """Server-sent events relayed so far."""
        return self._events_before + (0 if self._aligner is None else self._aligner.events)

    @property
    def prompt_tokens(self) -> int:
        """Of the next attempt, about: what is continued has the answer's first part in its prompt."""
        return self.facts.prompt_tokens + self._kept_tokens

    @property
    def max_output_tokens(self) -> int:
        most = self.facts.max_output_tokens
        return max(1, most - self._kept_tokens) if most else 0

    @property
    def _kept_tokens(self) -> int:
        return self._continuing.kept_tokens if self._continuing is not None else 0

    def _refuse(self, now_s: float, error: errors.GatewayError) -> list[ev.Effect]:
        effects = self._withdraw()
        if self.committed:
            return [*effects, *self._give_up(error)]
        self.status = error.status
        self._drop_held()
        self._enter(Phase.DONE, None)
        return [*effects, ev.Refuse(error)]

    def last_event(self, error: errors.GatewayError) -> bytes:
        """What tells the client of a stream that it ends here, broken; empty for any other answer."""
        return error.event(self.facts.path in NAMED_EVENT_PATHS) if self._streaming else b""

    def _break(self, failure: Failure, error: errors.GatewayError) -> list[ev.Effect]:
        """One clean error event for a stream; a cut body for anything else."""
        self.broken = True
        last = self.last_event(error)
        event = [ev.DeliverData(last)] if last else []
        effects = [*event, ev.DeliverEnd(failure), *self._attempt_over(failure.code.value, failed=True)]
        self._enter(Phase.DONE, None)
        return effects

    def _give_up(self, error: errors.GatewayError) -> list[ev.Effect]:
        """A broken stream for which no machine was found that goes on with it."""
        cause = self._broken_by
        assert cause is not None
        detail = f"{cause.message or cause.code.value}; no other machine went on with it: {error.message}"
        told = error if error.code is errors.Code.DEADLINE_EXCEEDED else errors.stream_broken(detail)
        return [ev.ContinuationEnded("gave_up", error.code.value), *self._break(cause, told)]

    def _complete(self) -> list[ev.Effect]:
        effects = [ev.DeliverEnd(None), *self._attempt_over("completed")]
        self._enter(Phase.DONE, None)
        return effects

    def _attempt_over(self, outcome: str, failed: bool = False, refused: bool = False) -> list[ev.Effect]:
        """Tell the record and the leader of the open attempt's end, if one is open."""
        node_id, self.node_id = self.node_id, None
        if node_id is None:
            return []
        tokens = self.events if failed else self.usage[1] or self.events
        report = AttemptReport(
            self.facts.request_id,
            self.attempt,
            node_id,
            failed=failed,
            output_tokens=tokens,
            refused=refused,
            prompt_tokens=0 if failed else self.usage[0],
            cached_prompt_tokens=0 if failed else self.cached_prompt_tokens,
        )
        return [ev.AttemptEnded(self.attempt, node_id, outcome), ev.Report(None, report)]

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
        reopens_s = self._around.reopens_s(self._asked_at_s, facts.model)
        retry_after_s = max(self._settings.retry_after_s, math.ceil(reopens_s))
        return errors.nothing_serves(code, facts.model, why, facts.request_id, retry_after_s)

    def _past_deadline(self, now_s: float) -> bool:
        return self.facts.deadline_at_s is not None and now_s >= self.facts.deadline_at_s

    def _drop_held(self) -> None:
        if self._held is not None:
            self._held.drop()
            self._held = None

    def _enter(self, phase: Phase, due_s: float | None) -> None:
        self.phase, self._due_s = phase, due_s
        if phase is Phase.DONE:
            self._body = b""
            if self._kept is not None:
                self._kept.drop()

    def _ignore(self, now_s: float, event: ev.Event) -> list[ev.Effect]:
        return []
