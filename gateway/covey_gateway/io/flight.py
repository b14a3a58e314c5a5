"""One request in flight: feeds its state machine and runs the effects, in order.

Not here: any rule of what happens when (core.request), and what concerns more than one request (runner.py).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from covey_gateway.core import errors, token_count
from covey_gateway.core import request_events as ev
from covey_gateway.core.errors import JSON, GatewayError
from covey_gateway.core.front import AnswerHead, ClientSink
from covey_gateway.core.observer import Observer, RequestSummary
from covey_gateway.core.records import RequestRecord
from covey_gateway.core.request import Phase, RequestMachine
from covey_mesh.core.asking import Ask, AttemptReport
from covey_mesh.core.exchange import Failure, FailureCode, ForwardedRequest, PiecewiseSink, ResponseSink, Upstream
from covey_mesh.core.names import NodeId

logger = logging.getLogger(__name__)

RELAYING = Phase.RELAYING
"""Looked at for each token."""


class Cancellable(Protocol):
    def cancel(self) -> None: ...


class Timers(Protocol):
    """An asyncio event loop fits; tests bring their own."""

    def call_soon(self, callback: Callable[[], object]) -> Cancellable: ...

    def call_later(self, delay: float, callback: Callable[[], object]) -> Cancellable: ...


class Surroundings(Protocol):
    """What a flight needs of its runner."""

    timers: Timers
    observer: Observer

    def now_s(self) -> float: ...

    def send_ask(self, leader: NodeId, ask: Ask) -> bool:
        """False: it cannot be sent, or this leader was slow a moment ago."""

    def decide_alone(self, ask: Ask) -> ev.Assigned | ev.NoCandidate: ...

    def open_on(self, node_id: NodeId, request: ForwardedRequest, sink: ResponseSink) -> Upstream: ...

    def report(self, to: NodeId | None, report: AttemptReport) -> None: ...

    def attempt_ended(self, node_id: NodeId, model: str) -> None: ...

    def answered(self, node_id: NodeId, model: str) -> None:
        """The first byte of an attempt's answer."""

    def stalled(self, node_id: NodeId, model: str, label: str, silent_s: float) -> None:
        """It fell silent for `silent_s`; `label` names the model in metrics."""

    def ask_timed_out(self, leader: NodeId) -> None: ...

    def name_of(self, node_id: NodeId) -> str: ...

    def landed(self, flight: Flight) -> None:
        """It is over; forget it."""


class AttemptSink(PiecewiseSink):
    """Tags what one attempt sends with its number, so that the state machine can drop what is late."""

    __slots__ = ("_attempt", "_flight")

    def __init__(self, flight: Flight, attempt: int) -> None:
        self._flight = flight
        self._attempt = attempt

    def head(self, status: int, content_type: str, retry_after_s: int = 0) -> None:
        self._flight.feed(ev.UpstreamHead(self._attempt, status, content_type, retry_after_s))

    def data(self, chunk: bytes) -> None:
        flight = self._flight
        machine = flight.machine
        if machine.phase is RELAYING and machine.attempt == self._attempt:
            out = machine.relay(chunk)
            if out:
                if not flight.gone:
                    flight.client.data(out)
            elif machine.faulty:
                flight.feed(ev.EngineFault(self._attempt))
        else:
            flight.feed(ev.UpstreamData(self._attempt, chunk))

    def end(self, failure: Failure | None) -> None:
        self._flight.upstream_ended(self._attempt)
        self._flight.feed(ev.UpstreamEnd(self._attempt, failure))


class _CountSink(PiecewiseSink):
    """Collects the answer to a question about tokens."""

    __slots__ = ("_attempt", "_body", "_flight", "_status")

    def __init__(self, flight: Flight, attempt: int) -> None:
        self._flight = flight
        self._attempt = attempt
        self._status = 0
        self._body = b""

    def head(self, status: int, content_type: str, retry_after_s: int = 0) -> None:
        self._status = status

    def data(self, chunk: bytes) -> None:
        if len(self._body) + len(chunk) > token_count.ANSWER_BYTES_MAX:
            self._status = 0
        else:
            self._body += chunk

    def end(self, failure: Failure | None) -> None:
        tokens = None if failure is not None else token_count.answer(self._status, self._body)
        self._flight.counted(self._attempt, tokens)


class Flight:
    """Implements covey_gateway.core.front.ActiveRequest."""

    __slots__ = (
        "_around",
        "_body",
        "_feeding",
        "_open_node",
        "_paused",
        "_pending",
        "_place_left",
        "_timer",
        "_timer_at_s",
        "_upstream",
        "client",
        "gone",
        "machine",
        "model_label",
        "on_usage",
        "record",
    )

    def __init__(
        self, around: Surroundings, machine: RequestMachine, record: RequestRecord, body: bytes, client: ClientSink
    ) -> None:
        self.machine = machine
        self.record = record
        self.client = client
        self.model_label = ""
        self.on_usage: Callable[[int], None] | None = None
        self._around = around
        self._body = body
        self._upstream: Upstream | None = None
        self._timer: Cancellable | None = None
        self._timer_at_s: float | None = None
        self._feeding = False
        self._pending: deque[ev.Event] = deque()
        self._paused = False
        self.gone = False
        self._place_left: Callable[[AttemptReport], None] | None = None
        self._open_node: NodeId | None = None

    # --- the edge's side ---------------------------------------------------------------------------------------------

    @property
    def request_id(self) -> str:
        return self.machine.facts.request_id

    def cancel(self) -> None:
        if not self.gone:
            self.gone = True
            self.feed(ev.ClientGone())

    def pause(self) -> None:
        self._paused = self.machine.paused = True
        if self._upstream is not None:
            self._upstream.pause()

    def resume(self) -> None:
        self._paused = self.machine.paused = False
        if self._upstream is not None:
            self._upstream.resume()

    # --- events in, effects out --------------------------------------------------------------------------------------

    def feed(self, event: ev.Event) -> None:
        """Steps the machine; events that effects give rise to follow in order, without recursion.

        A bug of ours ends this request with 500 and a log entry: others share the link that the event came from.
        """
        if self._feeding:
            self._pending.append(event)
            return
        machine = self.machine
        self._feeding = True
        try:
            self._step(event)
            while self._pending and machine.phase is not Phase.DONE:
                self._step(self._pending.popleft())
        except Exception:
            logger.exception("bug in the request runner", extra={"request_id": self.request_id})
            self._fail()
        finally:
            self._pending.clear()
            self._feeding = False
        if machine.phase is Phase.DONE:
            self._land()
        elif machine.wake_at_s != self._timer_at_s:
            self._arm(machine.wake_at_s)

    def begin_granted(
        self,
        granted: ev.Granted,
        place_left: Callable[[AttemptReport], None],
        upstream: Upstream | None = None,
    ) -> None:
        """In place of Started: the first attempt runs where the leader granted it. `upstream`: it is open already.
        `place_left` hears of its end in place of the leader, until `tell_leader`."""
        self._place_left, self._upstream = place_left, upstream
        self.record.decided(replace(granted.decision, request_id=self.request_id))
        self.feed(granted)

    def tell_leader(self, leader: NodeId | None) -> None:
        """What began under a grant goes on: from now on the leader knows it as it knows others."""
        self._place_left = None
        if self.machine.attempt == 1 and self.machine.phase in (Phase.OPENING, Phase.RELAYING):
            self.feed(ev.LeaderChanged(leader))

    def upstream_ended(self, attempt: int) -> None:
        if attempt == self.machine.attempt:
            self._upstream = None

    def _fail(self) -> None:
        """The client still gets an answer, and the machine its freedom."""
        if self._upstream is not None:
            upstream, self._upstream = self._upstream, None
            upstream.cancel()
        if self._open_node is not None:
            self._around.attempt_ended(self._open_node, self.machine.facts.model)
        if self.record.first_byte_s is None:
            self._refuse(errors.internal())
        elif not self.gone:
            last = self.machine.last_event(errors.internal())
            if last:
                self.client.data(last)
            self.client.end(Failure(FailureCode.INTERNAL, errors.internal().message))
        self.machine.abandon()

    def _step(self, event: ev.Event) -> None:
        if self.machine.phase is not Phase.DONE:
            for effect in self.machine.step(self._around.now_s(), event):
                EFFECTS[type(effect)](self, effect)

    def _arm(self, at_s: float | None) -> None:
        """A timer that is set for an earlier time stays: it will find nothing due and set the next. Most requests pass
        through all their phases before their first timer."""
        if at_s is None or (self._timer_at_s is not None and self._timer_at_s <= at_s):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at_s = at_s
        self._timer = self._around.timers.call_later(max(0.0, at_s - self._around.now_s()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._timer_at_s = None
        wake_at_s = self.machine.wake_at_s
        if self.machine.phase is Phase.DONE or wake_at_s is None:
            return
        if self._around.now_s() < wake_at_s:
            self._arm(wake_at_s)
        else:
            self.feed(ev.Tick())

    def _land(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.record.total_s is not None:
            return
        machine, record = self.machine, self.record
        record.status = machine.status
        record.total_s = self._around.now_s() - machine.facts.arrived_s
        if machine.usage[0] and self.on_usage is not None:
            self.on_usage(machine.usage[0])
        self._body = b""
        self._around.observer.finished(self._summary())
        self._around.landed(self)

    def _summary(self) -> RequestSummary:
        machine, record = self.machine, self.record
        prompt_tokens, output_tokens = machine.usage
        return RequestSummary(
            path=record.path,
            model=self.model_label,
            node_id=record.node_id,
            status=machine.status,
            streaming=record.streaming,
            seconds=record.total_s or 0.0,
            first_byte_s=record.first_byte_s,
            chunks=machine.events,
            prompt_tokens=prompt_tokens or record.prompt_tokens,
            output_tokens=output_tokens or machine.events,
            attempts=machine.opened,
            broken=machine.broken,
            continued=machine.continued,
        )

    # --- effects -----------------------------------------------------------------------------------------------------

    def _send_ask(self, effect: ev.SendAsk) -> None:
        if not self._around.send_ask(effect.leader, effect.ask):
            self.feed(ev.LeaderUnreachable())

    def _decide_alone(self, effect: ev.DecideAlone) -> None:
        self._around.observer.decided_alone()
        self.heard(self._around.decide_alone(effect.ask))

    def heard(self, answer: ev.Assigned | ev.Queued | ev.NoCandidate) -> None:
        """An answer to an ask, the leader's or our own."""
        if answer.attempt == self.machine.attempt:
            self.record.decided(answer.decision)
        self.feed(answer)

    def counted(self, attempt: int, tokens: int | None) -> None:
        """The engine said how many tokens were written, or that it cannot."""
        self.upstream_ended(attempt)
        if self._open_node is not None and attempt == self.machine.attempt:
            node_id, self._open_node = self._open_node, None
            self._around.attempt_ended(node_id, self.machine.facts.model)
        self.feed(ev.Counted(attempt, tokens))

    def _count_on(self, effect: ev.CountOn) -> None:
        facts = self.machine.facts
        question = token_count.question(facts.model, effect.text)
        request_id = f"{facts.request_id}-count"
        request = ForwardedRequest(request_id, effect.attempt, facts.model, token_count.PATH, question, False, 1, 1)
        self._open_node = effect.node_id
        self._upstream = self._around.open_on(effect.node_id, request, _CountSink(self, effect.attempt))

    def _open_on(self, effect: ev.OpenOn) -> None:
        facts, now_s = self.machine.facts, self._around.now_s()
        self._open_node = effect.node_id
        self.record.opened(effect.attempt, effect.node_id, self.machine.opened_at_s)
        if self._upstream is not None:
            return
        deadline_at_s = facts.deadline_at_s
        request = ForwardedRequest(
            request_id=facts.request_id,
            attempt=effect.attempt,
            model=facts.model,
            path=facts.path,
            body=self._body if effect.body is None else effect.body,
            streaming=facts.streaming,
            prompt_tokens=self.machine.prompt_tokens,
            max_output_tokens=self.machine.max_output_tokens,
            deadline_ms=0 if deadline_at_s is None else max(1, round((deadline_at_s - now_s) * 1000)),
        )
        self._upstream = self._around.open_on(effect.node_id, request, AttemptSink(self, effect.attempt))
        if self._paused:
            self._upstream.pause()

    def _cancel_upstream(self, effect: ev.CancelUpstream) -> None:
        if self._upstream is not None:
            upstream, self._upstream = self._upstream, None
            upstream.cancel()

    def _deliver_head(self, effect: ev.DeliverHead) -> None:
        machine, record, now_s = self.machine, self.record, self._around.now_s()
        record.first_byte_s = now_s - machine.facts.arrived_s
        self._answered(effect.node_id, now_s)
        self._around.observer.first_byte(self.model_label, effect.node_id, record.first_byte_s)
        if not self.gone:
            head = self._answer_head(effect.status, effect.content_type, effect.node_id, effect.retry_after_s)
            self.client.head(head)

    def _answered(self, node_id: NodeId, now_s: float) -> None:
        record = self.record
        record.node_id = node_id
        if record.attempts:
            record.attempts[-1].first_byte_s = now_s - record.attempts[-1].started_s
        self._around.answered(node_id, self.machine.facts.model)

    def _deliver_data(self, effect: ev.DeliverData) -> None:
        if not self.gone:
            self.client.data(effect.chunk)

    def _deliver_end(self, effect: ev.DeliverEnd) -> None:
        if effect.failure is not None:
            self.record.error = f"{effect.failure.code.value}: {effect.failure.message}"
        self._body = b""
        if not self.gone:
            self.client.end(effect.failure)

    def _refused(self, effect: ev.Refuse) -> None:
        self._refuse(effect.error)

    def _refuse(self, error: GatewayError) -> None:
        self.record.error = error.message
        self._around.observer.refused(error.code.value)
        if self.gone:
            return
        self.client.head(self._answer_head(error.status, JSON, None, error.retry_after_s))
        self.client.data(error.body())
        self.client.end(None)

    def _answer_head(self, status: int, content_type: str, node_id: NodeId | None, retry_after_s: int) -> AnswerHead:
        machine = self.machine
        return AnswerHead(
            status=status,
            content_type=content_type,
            request_id=machine.facts.request_id,
            model=machine.facts.model,
            node_id=node_id,
            node_name="" if node_id is None else self._around.name_of(node_id),
            attempts=machine.opened,
            why="" if machine.decision is None else machine.decision.why,
            retry_after_s=retry_after_s,
        )

    def _report(self, effect: ev.Report) -> None:
        place_left, self._place_left = self._place_left, None
        if place_left is None:
            self._around.report(effect.to, effect.report)
        else:
            place_left(effect.report)

    def _attempt_ended(self, effect: ev.AttemptEnded) -> None:
        self.record.ended(effect.attempt, effect.outcome, self._around.now_s())
        self._open_node = None
        self._around.attempt_ended(effect.node_id, self.machine.facts.model)

    def _retried(self, effect: ev.Retried) -> None:
        logger.info("attempt failed, trying again", extra={"request_id": self.request_id, "reason": effect.reason})
        self._around.observer.retried(effect.reason)

    def _continuing(self, effect: ev.Continuing) -> None:
        logger.info("stream broke, continuing it", extra={"request_id": self.request_id, "reason": effect.reason})

    def _resumed(self, effect: ev.Resumed) -> None:
        self._answered(effect.node_id, self._around.now_s())
        self._around.observer.stream_broke("resumed", effect.pause_s)

    def _continuation_ended(self, effect: ev.ContinuationEnded) -> None:
        about = {"request_id": self.request_id, "outcome": effect.outcome, "reason": effect.reason}
        logger.info("stream broke, not continued", extra=about)
        self._around.observer.stream_broke(effect.outcome)

    def _stalled(self, effect: ev.Stalled) -> None:
        self._around.stalled(effect.node_id, self.machine.facts.model, self.model_label, effect.silent_s)

    def _ask_timed_out(self, effect: ev.AskTimedOut) -> None:
        self._around.ask_timed_out(effect.leader)


EFFECTS: dict[type, Callable[..., None]] = {
    ev.SendAsk: Flight._send_ask,
    ev.DecideAlone: Flight._decide_alone,
    ev.OpenOn: Flight._open_on,
    ev.CountOn: Flight._count_on,
    ev.CancelUpstream: Flight._cancel_upstream,
    ev.DeliverHead: Flight._deliver_head,
    ev.DeliverData: Flight._deliver_data,
    ev.DeliverEnd: Flight._deliver_end,
    ev.Refuse: Flight._refused,
    ev.Report: Flight._report,
    ev.AttemptEnded: Flight._attempt_ended,
    ev.Retried: Flight._retried,
    ev.Continuing: Flight._continuing,
    ev.Resumed: Flight._resumed,
    ev.ContinuationEnded: Flight._continuation_ended,
    ev.Stalled: Flight._stalled,
    ev.AskTimedOut: Flight._ask_timed_out,
}
