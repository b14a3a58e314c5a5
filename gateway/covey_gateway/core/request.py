"""The life of one request, from its arrival to its last byte: the gateway owns it, machines only serve attempts.

Per attempt the leader is asked where. Only a missing acknowledgement, a lost link or lost leadership lets the gateway
decide alone. Until the first byte of the body went to the client, whatever a machine does wrong is mended elsewhere,
within the bounds of RequestSettings; after it the answer ends in one clean error.

    NEW -> ASKING -> QUEUED -> OPENING -> RELAYING -> DONE
             |  ^       |        |  (a machine failed: ask again, without it)
             v  |       v        v
          DECIDING <-> BACKING_OFF (nobody can take it now)

Not here: sockets, clocks, the choice itself (covey_scheduler), error texts (errors.py).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from types import MappingProxyType

from covey_gateway.core import errors
from covey_gateway.core import request_events as ev
from covey_gateway.core.event_stream import EventAligner, read_usage
from covey_gateway.core.held_answer import HeldAnswer
from covey_gateway.core.retrying import FINAL, AttemptLedger, BufferBudget, backoff_s
from covey_gateway.core.settings import RequestSettings
from covey_mesh.core.asking import Ask, AttemptReport, Decision
from covey_mesh.core.exchange import Failure, FailureCode
from covey_mesh.core.names import NodeId

CLIENT_GONE_STATUS = 499
QUEUED_REMINDER_S = 5.0
"""A queued ask is repeated this often (same attempt: changes nothing where it is known), should the leader forget."""

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


class RequestMachine:
    """`step` takes an event and returns effects; `wake_at_s` is when the next Tick is due (None: never).

    `relay` is the one shortcut: in RELAYING, bytes may be passed through it instead of an UpstreamData event.
    """

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

    # --- stepping ----------------------------------------------------------------------------------------------------

    def step(self, now_s: float, event: ev.Event) -> list[ev.Effect]:
        """Raises AssertionError for an event that cannot happen in this phase: a bug of the caller."""
        attempt = getattr(event, "attempt", None)
        if attempt is not None and attempt != self.attempt:
            return []
        handler = TRANSITIONS.get((self.phase, type(event)))
        assert handler is not None, f"{type(event).__name__} in phase {self.phase.value}"
        effects = handler(self, now_s, event)
        deadline_s = self.facts.deadline_at_s
        dues = [due for due in (self._due_s, deadline_s) if due is not None]
        self.wake_at_s = None if self.phase is Phase.DONE else min(dues, default=None)
        return effects

    def relay(self, chunk: bytes) -> bytes:
        """Only in RELAYING: the bytes that may go to the client now."""
        assert self.phase is Phase.RELAYING
        return chunk if self._aligner is None else self._aligner.feed(chunk)

    def abandon(self) -> None:
        """After a bug of ours: the request ends here, whatever its phase."""
        self._drop_held()
        self.status, self.broken = 500, True
        self._enter(Phase.DONE, None)

    @property
    def events(self) -> int:
        """Server-sent events relayed so far."""
        return 0 if self._aligner is None else self._aligner.events

    @property
    def committed(self) -> bool:
        """True once the client has seen a part of an answer."""
        return self.phase is Phase.RELAYING

    # --- asking ------------------------------------------------------------------------------------------------------

    def _started(self, now_s: float, event: ev.Started) -> list[ev.Effect]:
        self._leader = event.leader
        return self._ask(now_s)

    def _ask(self, now_s: float) -> list[ev.Effect]:
        if self._leader is None:
            return self._decide_alone(now_s)
        ask = self._next_ask(now_s)
        self._enter(Phase.ASKING, now_s + self._settings.ask_acknowledged_within_s)
        self._asked = self._leader
        return [ev.SendAsk(self._leader, ask)]

    def _decide_alone(self, now_s: float) -> list[ev.Effect]:
        ask = self._next_ask(now_s)
        self._enter(Phase.DECIDING, None)
        self._asked = None
        return [ev.DecideAlone(ask)]

    def _next_ask(self, now_s: float) -> Ask:
        self.attempt += 1
        return self._as_ask(now_s)

    def _as_ask(self, now_s: float) -> Ask:
        facts = self.facts
        return Ask(
            request_id=facts.request_id,
            attempt=self.attempt,
            model=facts.model,
            prompt_tokens=facts.prompt_tokens,
            max_output_tokens=facts.max_output_tokens,
            prefix_hashes=facts.prefix_hashes,
            excluded=self._ledger.excluded(now_s),
            user=facts.user,
            priority=facts.priority,
            deadline_s=0.0 if facts.deadline_at_s is None else max(0.001, facts.deadline_at_s - now_s),
            waited_s=now_s - facts.arrived_s,
        )

    def _queued(self, now_s: float, event: ev.Queued) -> list[ev.Effect]:
        self.decision = event.decision or self.decision
        until_s = self.facts.arrived_s + self._settings.queue_wait_s
        self._enter(Phase.QUEUED, min(until_s, now_s + QUEUED_REMINDER_S))
        return []

    def _queued_tick(self, now_s: float, event: ev.Tick) -> list[ev.Effect]:
        if self._past_deadline(now_s):
            return self._refuse(now_s, errors.deadline_exceeded())
        if now_s < (self._due_s or 0.0):
            return []
        if now_s >= self.facts.arrived_s + self._settings.queue_wait_s:
            return self._refuse(now_s, self._busy_error())
        self._queued(now_s, ev.Queued(self.attempt))
        assert self._asked is not None
        return [ev.SendAsk(self._asked, self._as_ask(now_s))]

    def _asking_tick(self, now_s: float, event: ev.Tick) -> list[ev.Effect]:
        if self._past_deadline(now_s):
            return self._refuse(now_s, errors.deadline_exceeded())
        if now_s < (self._due_s or 0.0):
            return []
        assert self._asked is not None
        return [ev.AskTimedOut(self._asked), *self._withdraw(), *self._decide_alone(now_s)]

    def _leader_changed(self, now_s: float, event: ev.LeaderChanged) -> list[ev.Effect]:
        """While waiting for the old one's word: the request goes to the new one, or is decided here."""
        self._leader = event.leader
        if event.leader is not None and event.leader == self._asked:
            return []
        return [*self._withdraw(), *self._ask(now_s)]

    def _leader_noted(self, now_s: float, event: ev.LeaderChanged) -> list[ev.Effect]:
        self._leader = event.leader
        return []

    def _leader_found(self, now_s: float, event: ev.LeaderChanged) -> list[ev.Effect]:
        self._leader = event.leader
        return self._ask(now_s) if event.leader is not None else []

    def _leader_unreachable(self, now_s: float, event: ev.LeaderUnreachable) -> list[ev.Effect]:
        return self._decide_alone(now_s)

    # --- nobody can take it ------------------------------------------------------------------------------------------

    def _no_candidate(self, now_s: float, event: ev.NoCandidate) -> list[ev.Effect]:
        self.decision = event.decision or self.decision
        by_leader = self.phase is not Phase.DECIDING
        if by_leader and not self._ledger.excluded(now_s) and not event.retry_after_ms:
            return self._refuse(now_s, self._unserved_error(event.standing, busy=False))
        if self._waiting_since_s is None:
            self._waiting_since_s, self._rounds = now_s, 0
        busy = self._ledger.busy(now_s)
        hopeful = event.standing.hopeful or not by_leader or not event.standing.known
        until_s = self._wait_until_s(busy, hopeful)
        if now_s >= until_s:
            return self._refuse(now_s, self._unserved_error(event.standing, busy))
        at_least_s = max(event.retry_after_ms / 1000, self._ledger.next_return_s(now_s))
        pause_s = backoff_s(self._rounds, at_least_s, self._settings, self._jitter())
        self._rounds += 1
        self._enter(Phase.BACKING_OFF, min(now_s + pause_s, until_s))
        return []

    def _wait_until_s(self, busy: bool, hopeful: bool) -> float:
        assert self._waiting_since_s is not None
        if busy:
            return self.facts.arrived_s + self._settings.queue_wait_s
        return self._waiting_since_s + (self._settings.unserved_wait_s if hopeful else 0.0)

    def _unserved_error(self, standing: ev.ModelStanding, busy: bool) -> errors.GatewayError:
        if not standing.known:
            return errors.model_not_found(self.facts.model, standing.offered)
        if busy:
            return self._busy_error()
        if 0 < standing.context_tokens < self.facts.prompt_tokens:
            return errors.context_exceeded(standing.context_tokens, self.facts.prompt_tokens, "about")
        return self._unavailable(errors.Code.NOTHING_ABLE_TO_SERVE)

    def _backing_off_tick(self, now_s: float, event: ev.Tick) -> list[ev.Effect]:
        if self._past_deadline(now_s):
            return self._refuse(now_s, errors.deadline_exceeded())
        return self._ask(now_s) if now_s >= (self._due_s or 0.0) else []

    # --- an attempt --------------------------------------------------------------------------------------------------

    def _assigned(self, now_s: float, event: ev.Assigned) -> list[ev.Effect]:
        self.decision = event.decision or self.decision
        self.node_id = event.node_id
        self.opened += 1
        self._waiting_since_s = None
        self._last_error = None
        self._held = HeldAnswer(self._budget, self._settings.buffered_answer_bytes_max)
        self._enter(Phase.OPENING, None)
        return [ev.OpenOn(event.node_id, self.attempt)]

    def _head(self, now_s: float, event: ev.UpstreamHead) -> list[ev.Effect]:
        assert self._held is not None
        self._held.head(event.status, event.content_type, event.retry_after_s)
        return []

    def _first_data(self, now_s: float, event: ev.UpstreamData) -> list[ev.Effect]:
        assert self._held is not None
        out = self._held.add(event.chunk)
        if out is None:
            return []
        if isinstance(out, Failure):
            return [ev.CancelUpstream(), *self._attempt_failed(now_s, out)]
        return self._commit(out)

    def _commit(self, first: bytes) -> list[ev.Effect]:
        """The point of no return: the client sees the first byte."""
        held = self._held
        assert held is not None
        assert self.node_id is not None
        self._enter(Phase.RELAYING, None)
        self._aligner = held.aligner
        self.status = held.status
        head = ev.DeliverHead(held.status, held.content_type, self.node_id, held.retry_after_s)
        return [head, ev.DeliverData(first)] if first else [head]

    def _ended_before_first(self, now_s: float, event: ev.UpstreamEnd) -> list[ev.Effect]:
        held = self._held
        assert held is not None
        if event.failure is not None:
            return self._attempt_failed(now_s, event.failure)
        if not held.status:
            return self._attempt_failed(now_s, Failure(FailureCode.INTERNAL, "the attempt ended without an answer"))
        if held.is_machine_error:
            failure = held.machine_failure()
            self._last_error = (held.status, held.content_type, held.take())
            return self._attempt_failed(now_s, failure)
        body = held.take()
        self.usage = read_usage(body)
        return [*self._commit(body), *self._complete()]

    def _attempt_failed(self, now_s: float, failure: Failure) -> list[ev.Effect]:
        assert self.node_id is not None
        node_id, self.node_id = self.node_id, None
        self._drop_held()
        self._ledger.note(now_s, node_id, failure)
        effects: list[ev.Effect] = [
            ev.AttemptEnded(self.attempt, node_id, failure.code.value),
            ev.Report(None, AttemptReport(self.facts.request_id, self.attempt, node_id, failed=True)),
        ]
        if failure.code in FINAL:
            return [*effects, *self._refuse(now_s, errors.deadline_exceeded())]
        if self._ledger.exhausted() or now_s - self.facts.arrived_s > self._settings.retry_within_s:
            return [*effects, *self._exhausted(now_s, node_id)]
        return [*effects, ev.Retried(failure.code.value), *self._ask(now_s)]

    def _exhausted(self, now_s: float, node_id: NodeId) -> list[ev.Effect]:
        if self._last_error is None:
            busy = self._ledger.refusals >= self._settings.refusals_max
            return self._refuse(
                now_s, self._busy_error() if busy else self._unavailable(errors.Code.ATTEMPTS_EXHAUSTED)
            )
        self.status, content_type, body = self._last_error
        self._enter(Phase.DONE, None)
        return [ev.DeliverHead(self.status, content_type, node_id), ev.DeliverData(body), ev.DeliverEnd(None)]

    # --- after the first byte ----------------------------------------------------------------------------------------

    def _data(self, now_s: float, event: ev.UpstreamData) -> list[ev.Effect]:
        out = self.relay(event.chunk)
        return [ev.DeliverData(out)] if out else []

    def _ended(self, now_s: float, event: ev.UpstreamEnd) -> list[ev.Effect]:
        if event.failure is not None:
            error = errors.stream_broken(event.failure.message or event.failure.code.value)
            return self._break(event.failure, error)
        if self._aligner is None:
            return self._complete()
        rest = self._aligner.flush()
        self.usage = read_usage(self._aligner.end + rest)
        return [*([ev.DeliverData(rest)] if rest else []), *self._complete()]

    def _complete(self) -> list[ev.Effect]:
        assert self.node_id is not None
        self._enter(Phase.DONE, None)
        report = AttemptReport(
            self.facts.request_id, self.attempt, self.node_id, output_tokens=self.usage[1] or self.events
        )
        ended = ev.AttemptEnded(self.attempt, self.node_id, "completed")
        return [ev.DeliverEnd(None), ended, ev.Report(None, report)]

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

    # --- ends --------------------------------------------------------------------------------------------------------

    def _serving_tick(self, now_s: float, event: ev.Tick) -> list[ev.Effect]:
        if not self._past_deadline(now_s):
            return []
        error = errors.deadline_exceeded()
        if self.phase is Phase.RELAYING:
            return [ev.CancelUpstream(), *self._break(Failure(FailureCode.DEADLINE_EXCEEDED, error.message), error)]
        failure = Failure(FailureCode.DEADLINE_EXCEEDED, error.message)
        return [ev.CancelUpstream(), *self._attempt_failed(now_s, failure)]

    def _gone_waiting(self, now_s: float, event: ev.ClientGone) -> list[ev.Effect]:
        self.status = CLIENT_GONE_STATUS
        effects = self._withdraw()
        self._enter(Phase.DONE, None)
        return effects

    def _gone_serving(self, now_s: float, event: ev.ClientGone) -> list[ev.Effect]:
        assert self.node_id is not None
        self.status = CLIENT_GONE_STATUS
        self._drop_held()
        self._enter(Phase.DONE, None)
        report = AttemptReport(self.facts.request_id, self.attempt, self.node_id, output_tokens=self.events)
        ended = ev.AttemptEnded(self.attempt, self.node_id, "client gone")
        return [ev.CancelUpstream(), ended, ev.Report(None, report)]

    def _refuse(self, now_s: float, error: errors.GatewayError) -> list[ev.Effect]:
        effects = self._withdraw()
        self.status = error.status
        self._drop_held()
        self._enter(Phase.DONE, None)
        return [*effects, ev.Refuse(error)]

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


Handler = Callable[..., list[ev.Effect]]
Row = dict[type, Handler]


def _table() -> Mapping[tuple[Phase, type], Handler]:
    m = RequestMachine
    waiting: Row = {
        ev.Assigned: m._assigned,
        ev.Queued: m._queued,
        ev.NoCandidate: m._no_candidate,
        ev.LeaderChanged: m._leader_changed,
        ev.LeaderUnreachable: m._leader_unreachable,
        ev.ClientGone: m._gone_waiting,
    }
    deaf: Row = {
        # Duplicated answers to the attempt that runs.
        ev.Assigned: m._ignore,
        ev.Queued: m._ignore,
        ev.NoCandidate: m._ignore,
        ev.LeaderUnreachable: m._ignore,
        ev.LeaderChanged: m._leader_noted,
    }
    serving: Row = {**deaf, ev.Tick: m._serving_tick, ev.ClientGone: m._gone_serving}
    over: Row = {**deaf, ev.UpstreamHead: m._ignore, ev.UpstreamData: m._ignore, ev.UpstreamEnd: m._ignore}
    rows: dict[Phase, Row] = {
        Phase.NEW: {
            ev.Started: m._started,
            ev.ClientGone: m._gone_waiting,
            ev.LeaderChanged: m._leader_noted,
            ev.LeaderUnreachable: m._ignore,
        },
        Phase.ASKING: {**waiting, ev.Tick: m._asking_tick},
        Phase.QUEUED: {**waiting, ev.Tick: m._queued_tick},
        Phase.DECIDING: {ev.Assigned: m._assigned, ev.NoCandidate: m._no_candidate},
        Phase.BACKING_OFF: {
            **over,
            ev.LeaderChanged: m._leader_found,
            ev.Tick: m._backing_off_tick,
            ev.ClientGone: m._gone_waiting,
        },
        Phase.OPENING: {
            **serving,
            ev.UpstreamHead: m._head,
            ev.UpstreamData: m._first_data,
            ev.UpstreamEnd: m._ended_before_first,
        },
        Phase.RELAYING: {**serving, ev.UpstreamHead: m._ignore, ev.UpstreamData: m._data, ev.UpstreamEnd: m._ended},
        Phase.DONE: {**over, ev.ClientGone: m._ignore, ev.Tick: m._ignore},
    }
    return MappingProxyType({(phase, event): handler for phase, row in rows.items() for event, handler in row.items()})


TRANSITIONS = _table()
"""(phase, event) -> handler. Everything not listed cannot happen."""
