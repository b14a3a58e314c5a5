"""One cut request in flight: feeds its state machine, begins and ends its parts' flights, delivers.

Not here: any rule of what happens when (core.sharded_request), how a part is placed and retried (flight.py, runner.py).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Protocol

from covey_gateway.core import errors
from covey_gateway.core import request_events as ev
from covey_gateway.core import sharded_request as sharded
from covey_gateway.core.front import ActiveRequest, AnswerHead, ClientSink
from covey_gateway.core.observer import Observer, RequestSummary
from covey_gateway.core.parting import CutRequest
from covey_gateway.core.records import PartRecord, RequestRecord
from covey_gateway.core.sharded_request import ShardedRequest
from covey_gateway.io.flight import Cancellable, Flight, Surroundings, Timers
from covey_mesh.core.asking import Ask, AttemptReport
from covey_mesh.core.exchange import Failure, FailureCode, ForwardedRequest, ResponseSink, Upstream
from covey_mesh.core.names import NodeId
from covey_scheduler.core.sharding import Part

logger = logging.getLogger(__name__)


class Owner(Protocol):
    """What a cut request needs of its runner."""

    timers: Timers
    observer: Observer

    def now_s(self) -> float: ...

    def open_part(self, cut: CutRequest, number: int, attempt: int, part: Part, sink: ClientSink) -> Flight:
        """Begin a request for one part; the sink is not called before this returned."""

    def parts_landed(self, request_id: str) -> None:
        """It is over; forget it."""


class _PartSink(ClientSink):
    """Tags what the request for one part sends, so that the state machine can drop what is late."""

    __slots__ = ("_attempt", "_number", "_whole")

    def __init__(self, whole: ShardedFlight, number: int, attempt: int) -> None:
        self._whole, self._number, self._attempt = whole, number, attempt

    def head(self, head: AnswerHead) -> None:
        whole = self._whole
        whole.note_head(self._number, head)
        whole.feed(lambda: whole.machine.part_head(self._number, self._attempt, head))

    def data(self, chunk: bytes) -> None:
        whole = self._whole
        whole.feed(lambda: whole.machine.part_data(self._number, self._attempt, chunk))

    def end(self, failure: Failure | None) -> None:
        whole = self._whole
        whole.note_end(self._number, failure)
        whole.feed(lambda: whole.machine.part_ended(self._number, self._attempt, failure))


class ShardedFlight:
    """Implements covey_gateway.core.front.ActiveRequest."""

    def __init__(
        self, owner: Owner, cut: CutRequest, machine: ShardedRequest, record: RequestRecord, client: ClientSink
    ) -> None:
        self.machine = machine
        self._owner = owner
        self._cut = cut
        self._record = record
        self._client = client
        self._flights: dict[int, ActiveRequest] = {}
        self._pending: deque[Callable[[], list[sharded.Effect]]] | None = None
        self._held = False
        self._gone = False
        self._attempts = 0
        self._begin: Cancellable = owner.timers.call_soon(lambda: self.feed(machine.started))

    # --- the edge's side ---------------------------------------------------------------------------------------------

    @property
    def request_id(self) -> str:
        return self._cut.facts.request_id

    def cancel(self) -> None:
        if not self._gone:
            self._gone = True
            self._begin.cancel()
            self.feed(self.machine.client_gone)

    def pause(self) -> None:
        self.feed(self.machine.pause)

    def resume(self) -> None:
        self.feed(self.machine.resume)

    # --- events in, effects out --------------------------------------------------------------------------------------

    def feed(self, event: Callable[[], list[sharded.Effect]]) -> None:
        """Runs one event and its effects; events that these give rise to follow in order, without recursion.

        A bug of ours ends this request with 500 and a log entry: others share the link that the event came from.
        """
        if self._pending is not None:
            self._pending.append(event)
            return
        self._pending = deque((event,))
        try:
            while self._pending:
                for effect in self._pending.popleft()():
                    EFFECTS[type(effect)](self, effect)
                if not self._pending and (more := self.machine.proceed()):
                    self._pending.append(lambda more=more: more)  # type: ignore[misc]
        except Exception:
            logger.exception("bug in a cut request", extra={"request_id": self.request_id})
            self._fail()
        finally:
            self._pending = None
        if self.machine.over:
            self._land()

    def note_head(self, number: int, head: AnswerHead) -> None:
        part = self._record.parts[number]
        part.status, part.node_id = head.status, head.node_id
        self._attempts += head.attempts

    def note_end(self, number: int, failure: Failure | None) -> None:
        part = self._record.parts[number]
        part.total_s = self._owner.now_s() - part.started_s
        if failure is not None:
            part.error = failure.code.value
        self._flights.pop(number, None)

    def _fail(self) -> None:
        """The client still gets an answer, the parts their end."""
        for flight in self._flights.values():
            flight.cancel()
        self._flights.clear()
        error = errors.internal()
        head_sent = self._record.first_byte_s is not None
        self.machine.client_gone()
        self.machine.status, self.machine.error, self.machine.broken = 500, error.message, head_sent
        if self._gone:
            return
        if not head_sent:
            self._client.head(AnswerHead(500, errors.JSON, self.request_id))
            self._client.data(error.body())
        self._client.end(Failure(FailureCode.INTERNAL, error.message) if head_sent else None)

    def _land(self) -> None:
        record, machine, owner = self._record, self.machine, self._owner
        if record.total_s is not None:
            return
        facts = self._cut.facts
        record.status, record.error = machine.status, machine.error
        record.total_s = owner.now_s() - facts.arrived_s
        owner.observer.finished(self._summary())
        owner.parts_landed(self.request_id)

    def _summary(self) -> RequestSummary:
        """Tokens and attempts were counted with the parts."""
        record = self._record
        return RequestSummary(
            path=record.path,
            model=self._cut.facts.model,
            node_id=None,
            status=self.machine.status,
            streaming=record.streaming,
            seconds=record.total_s or 0.0,
            first_byte_s=record.first_byte_s,
            chunks=0,
            prompt_tokens=0,
            output_tokens=0,
            attempts=0,
            broken=self.machine.broken,
        )

    # --- effects -----------------------------------------------------------------------------------------------------

    def _open_part(self, effect: sharded.OpenPart) -> None:
        number = effect.number
        units, sink = self.machine.parts[number].units, _PartSink(self, number, effect.attempt)
        flight = self._owner.open_part(self._cut, number, effect.attempt, units, sink)
        self._flights[number] = flight
        part = PartRecord(flight.request_id, units.begin, units.end, self._owner.now_s())
        if number < len(self._record.parts):
            self._record.parts[number] = part
        else:
            self._record.parts.append(part)
        if self._held:
            flight.pause()

    def _cancel_part(self, effect: sharded.CancelPart) -> None:
        flight = self._flights.pop(effect.number, None)
        if flight is not None:
            flight.cancel()
            self._record.parts[effect.number].error = "cancelled"

    def _deliver_head(self, effect: sharded.DeliverHead) -> None:
        facts, machine = self._cut.facts, self.machine
        self._record.first_byte_s = self._owner.now_s() - facts.arrived_s
        first = next((part.node_id for part in self._record.parts if part.node_id is not None), None)
        if facts.streaming and first is not None:
            self._owner.observer.first_byte(self._cut.facts.model, first, self._record.first_byte_s)
        if self._gone:
            return
        self._client.head(
            AnswerHead(
                status=effect.status,
                content_type=effect.content_type,
                request_id=self.request_id,
                model=facts.model,
                node_name=", ".join(machine.machines),
                attempts=self._attempts,
                why=f"cut into {len(machine.parts)} parts",
                retry_after_s=effect.retry_after_s,
                parts=len(machine.parts),
            )
        )

    def _deliver_data(self, effect: sharded.DeliverData) -> None:
        if not self._gone:
            self._client.data(effect.chunk)

    def _deliver_end(self, effect: sharded.DeliverEnd) -> None:
        if not self._gone:
            self._client.end(effect.failure)

    def _hold_parts(self, effect: sharded.HoldParts) -> None:
        self._held = effect.paused
        for flight in list(self._flights.values()):
            if effect.paused:
                flight.pause()
            else:
                flight.resume()


EFFECTS: dict[type, Callable[..., None]] = {
    sharded.OpenPart: ShardedFlight._open_part,
    sharded.CancelPart: ShardedFlight._cancel_part,
    sharded.DeliverHead: ShardedFlight._deliver_head,
    sharded.DeliverData: ShardedFlight._deliver_data,
    sharded.DeliverEnd: ShardedFlight._deliver_end,
    sharded.HoldParts: ShardedFlight._hold_parts,
}


class PartSurroundings:
    """A part's flight sees its runner through this: the same, but for what is counted once for the whole request."""

    def __init__(self, runner: Surroundings) -> None:
        self.timers = runner.timers
        self.observer: Observer = _PartObserver(runner.observer)
        self.now_s = runner.now_s
        self._runner = runner

    def send_ask(self, leader: NodeId, ask: Ask) -> bool:
        return self._runner.send_ask(leader, ask)

    def decide_alone(self, ask: Ask) -> ev.Assigned | ev.NoCandidate:
        return self._runner.decide_alone(ask)

    def open_on(self, node_id: NodeId, request: ForwardedRequest, sink: ResponseSink) -> Upstream:
        return self._runner.open_on(node_id, request, sink)

    def report(self, to: NodeId | None, report: AttemptReport) -> None:
        self._runner.report(to, report)

    def attempt_ended(self, node_id: NodeId, model: str) -> None:
        self._runner.attempt_ended(node_id, model)

    def answered(self, node_id: NodeId, model: str) -> None:
        self._runner.answered(node_id, model)

    def stalled(self, node_id: NodeId, model: str, label: str, silent_s: float) -> None:
        self._runner.stalled(node_id, model, label, silent_s)

    def ask_timed_out(self, leader: NodeId) -> None:
        self._runner.ask_timed_out(leader)

    def name_of(self, node_id: NodeId) -> str:
        return self._runner.name_of(node_id)

    def landed(self, flight: Flight) -> None:
        self._runner.landed(flight)


class _PartObserver:
    """Counts what a part did on the way; the request itself is counted by ShardedFlight."""

    def __init__(self, observer: Observer) -> None:
        self.retried = observer.retried
        self.stream_broke = observer.stream_broke
        self.stalled = observer.stalled
        self.ask_timed_out = observer.ask_timed_out
        self.decided_alone = observer.decided_alone
        self.refused = observer.refused
        self.finished = observer.part_finished
        self.part_finished = observer.part_finished
        self.request_cut = observer.request_cut
        self.straight = observer.straight

    def request_started(self, path: str, model: str) -> None:
        pass

    def first_byte(self, model: str, node_id: NodeId, seconds: float) -> None:
        pass
