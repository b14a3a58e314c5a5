"""The request runner: every request that entered this machine, and what they share.

Implements covey_gateway.core.front.FrontDoor for the edges and covey_mesh.core.ports.MeshListener for the mesh.
Everything runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from covey_gateway.core import errors, offer
from covey_gateway.core import request_events as ev
from covey_gateway.core.circuit import CircuitBreaker
from covey_gateway.core.errors import GatewayError
from covey_gateway.core.event_stream import TokenRatio
from covey_gateway.core.front import AnswerHead, ClientSink, IncomingRequest
from covey_gateway.core.observer import Observer
from covey_gateway.core.paths import ENGINE_PATHS, PathKind
from covey_gateway.core.progress import Pace, Work, pace_of
from covey_gateway.core.records import RecordBook, RequestRecord
from covey_gateway.core.request import RequestMachine
from covey_gateway.core.request_state import Surroundings
from covey_gateway.core.retrying import BufferBudget
from covey_gateway.core.routing_fields import (
    BYTES_PER_TOKEN,
    RoutingFields,
    read_routing_fields,
)
from covey_gateway.core.settings import RequestSettings
from covey_gateway.io.flight import Flight, Timers
from covey_mesh.core.asking import Answer, Ask, AttemptReport, Decision, Outcome
from covey_mesh.core.ballot import Ballot
from covey_mesh.core.exchange import ForwardedRequest, ResponseSink, Upstream
from covey_mesh.core.facts import PoolView
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import LinkLoss, Mesh
from covey_scheduler.core.prefix import prefix_hashes

logger = logging.getLogger(__name__)

HOLDING_BACK = (b'"tools"', b'"functions"', b'"stream_interval"', b'"response_format"')
"""Fields with which an engine may write many tokens before it sends an event."""

OFFER_FRESH_S = 0.5
"""How long the list of models, read from the view, is used before it is read again."""

ChooseAlone = Callable[[Ask, PoolView, Mapping[NodeId, int], Callable[[], float]], tuple[NodeId | None, Decision]]
"""covey_scheduler.core.leaderless.choose_alone: (ask, view, own requests in flight, random numbers)."""


class RequestRunner:
    """`clock` is CLOCK_BOOTTIME in seconds; `jitter` returns a number in [0, 1)."""

    def __init__(
        self,
        mesh: Mesh,
        clock: Callable[[], float],
        jitter: Callable[[], float],
        settings: RequestSettings,
        observer: Observer,
        choose_alone: ChooseAlone,
        timers: Timers,
        new_id: Callable[[], str] = lambda: secrets.token_hex(6),
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        self.timers = timers
        self.observer = observer
        self.records = RecordBook()
        self._mesh = mesh
        self._clock = clock
        self._jitter = jitter
        self._settings = settings
        self._choose_alone = choose_alone
        self._new_id = new_id
        self._unix_clock = unix_clock
        self._id_prefix = f"req-{mesh.self_id[:8]}-"
        self._budget = BufferBudget(settings.buffered_total_bytes_max)
        self._circuits = CircuitBreaker()
        self._around = Surroundings(
            BufferBudget(settings.kept_total_bytes_max),
            self._circuits.excluded,
            self._pace,
            lambda node_id: self.name_of(node_id) or node_id[:8],
        )
        self._ratio = TokenRatio(BYTES_PER_TOKEN)
        self._flights: dict[str, Flight] = {}
        self._in_flight: dict[NodeId, int] = {}
        self._leader = mesh.view().leader
        self._distrusted: tuple[NodeId, float] | None = None
        self._offer: tuple[float, dict[str, int]] = (float("-inf"), {})
        # Machines of the pool whose link was lost and is not back: as many as there are members at most.
        self._unlinked: set[NodeId] = set()
        self._draining = False
        self._empty = asyncio.Event()
        self._empty.set()
        mesh.subscribe(self)

    # --- FrontDoor ---------------------------------------------------------------------------------------------------

    def submit(self, request: IncomingRequest, sink: ClientSink) -> Flight | Refusal:
        """Never calls the sink before it returned. Never raises for what a client sent."""
        request_id = self._id_prefix + self._new_id()
        try:
            return self._accept(request_id, request, sink)
        except GatewayError as error:
            self.observer.refused(error.code.value)
            return Refusal(self.timers, request_id, error, sink)

    def _accept(self, request_id: str, request: IncomingRequest, sink: ClientSink) -> Flight:
        self._check_room()
        kind = ENGINE_PATHS.get(request.path)
        if kind is None:
            raise errors.path_not_found("POST", request.path)
        fields = read_routing_fields(request.body, kind)
        offered = self._offered()
        model = fields.model or self._only_model(offered)
        limit = offered.get(model, 0)
        if limit and fields.prompt_tokens_least > limit:
            raise errors.context_exceeded(limit, fields.prompt_tokens_least, "at least")
        facts = self._facts(request_id, request, fields, model, limit)
        flight = self._flight(facts, request.body, sink)
        if model in offered:
            flight.model_label = model
            if not fields.token_ids:
                flight.on_usage = lambda tokens: self._ratio.learn(model, fields.text_bytes, tokens)
        self.observer.request_started(request.path, flight.model_label)
        self.timers.call_soon(lambda: self._feed(flight, ev.Started(self._leader)))
        return flight

    def _check_room(self) -> None:
        if self._draining:
            message = "This gateway is shutting down. Send the request to another machine of the pool, or retry."
            raise errors.unavailable(errors.Code.DRAINING, message, self._settings.retry_after_s)
        if len(self._flights) >= self._settings.in_flight_max:
            message = "This gateway holds as many requests as it may. Retry after the time in Retry-After."
            raise errors.unavailable(errors.Code.GATEWAY_FULL, message, self._settings.retry_after_s)

    def _only_model(self, offered: Mapping[str, int]) -> str:
        if len(offered) == 1:
            return next(iter(offered))
        raise errors.model_missing(offered)

    def _facts(
        self, request_id: str, request: IncomingRequest, fields: RoutingFields, model: str, limit: int
    ) -> ev.RequestFacts:
        now_s = self._clock()
        output = fields.max_output_tokens
        if output is None:
            output = self._settings.default_max_output_tokens * fields.choices
        embeds = ENGINE_PATHS[request.path] is PathKind.EMBEDDING
        return ev.RequestFacts(
            request_id=request_id,
            path=request.path,
            model=model,
            streaming=fields.streaming,
            prompt_tokens=fields.prompt_tokens(self._ratio.of(model), limit),
            max_output_tokens=output,
            arrived_s=now_s,
            prefix_hashes=() if embeds else prefix_hashes(fields.prompt),
            user=request.user,
            priority=request.priority,
            deadline_at_s=None if request.deadline_s is None else now_s + request.deadline_s,
            answer_tokens_most=fields.max_output_tokens or 0,
            may_hold_back=any(field in request.body for field in HOLDING_BACK),
        )

    def _flight(self, facts: ev.RequestFacts, body: bytes, sink: ClientSink) -> Flight:
        record = RequestRecord(
            request_id=facts.request_id,
            path=facts.path,
            model=facts.model,
            streaming=facts.streaming,
            prompt_tokens=facts.prompt_tokens,
            max_output_tokens=facts.max_output_tokens,
            arrived_at_unix_s=self._unix_clock(),
        )
        machine = RequestMachine(facts, self._settings, self._budget, self._jitter, body, self._around)
        flight = Flight(self, machine, record, body, sink)
        self.records.add(record)
        self._flights[facts.request_id] = flight
        self._empty.clear()
        return flight

    def _offered(self) -> dict[str, int]:
        read_at_s, offered = self._offer
        now_s = self._clock()
        if now_s - read_at_s > OFFER_FRESH_S:
            offered = offer.contexts(self._mesh.view())
            self._offer = (now_s, offered)
        return offered

    # --- for the rest of the program ---------------------------------------------------------------------------------

    def record(self, request_id: str) -> RequestRecord | None:
        """One of the last DECISIONS_KEPT requests that entered here."""
        return self.records.get(request_id)

    def in_flight(self) -> Mapping[NodeId, int]:
        """Attempts open now, per machine."""
        return dict(self._in_flight)

    @property
    def active(self) -> int:
        """Requests held now, waiting ones included."""
        return len(self._flights)

    async def drain(self, grace_s: float) -> bool:
        """Refuse what comes; let what is here finish. False if something was still running after `grace_s`."""
        self._draining = True
        try:
            async with asyncio.timeout(grace_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    # --- MeshListener ------------------------------------------------------------------------------------------------

    def answer_received(self, leader: NodeId, answer: Answer) -> None:
        """Answers of anybody but the leader that this machine granted are ignored, as are those to old attempts."""
        flight = self._flights.get(answer.request_id)
        if flight is None or leader != self._leader:
            return
        if self._distrusted is not None and self._distrusted[0] == leader:
            self._distrusted = None
        event = self._as_event(answer)
        if event is not None:
            flight.heard(event)

    def leadership_changed(self, leader: NodeId | None, ballot: Ballot) -> None:
        if leader == self._leader:
            return
        self._leader = leader
        self._distrusted = None
        for flight in self._all():
            self._feed(flight, ev.LeaderChanged(leader))

    def member_lost(self, node_id: NodeId, loss: LinkLoss) -> None:
        self._unlinked.add(node_id)
        if node_id == self._leader:
            for flight in self._all():
                self._feed(flight, ev.LeaderUnreachable())

    def ask_received(self, gateway: NodeId, ask: Ask) -> None:
        """For the scheduler."""

    def attempt_reported(self, gateway: NodeId, report: AttemptReport) -> None:
        """For the scheduler."""

    def member_changed(self, node_id: NodeId) -> None:
        """What it says is read from the view when needed; that it is linked again is told to those who wait."""
        if node_id not in self._unlinked:
            return
        member = self._mesh.view().members.get(node_id)
        if member is None or member.reachable:
            self._unlinked.discard(node_id)
            for flight in self._all():
                self._feed(flight, ev.LinkedAgain(node_id))

    # --- Surroundings of a flight ------------------------------------------------------------------------------------

    def now_s(self) -> float:
        return self._clock()

    def send_ask(self, leader: NodeId, ask: Ask) -> bool:
        if self._distrusted is not None:
            distrusted, until_s = self._distrusted
            if distrusted == leader and self._clock() < until_s:
                return False
        return self._mesh.send(leader, ask)

    def decide_alone(self, ask: Ask) -> ev.Assigned | ev.NoCandidate:
        view = self._mesh.view()
        chosen, decision = self._choose_alone(ask, view, self._in_flight, self._jitter)
        decision = replace(decision, decided_at_unix_s=self._unix_clock())
        if chosen is not None:
            return ev.Assigned(ask.attempt, chosen, decision)
        return ev.NoCandidate(ask.attempt, offer.standing(view, ask.model), decision)

    def open_on(self, node_id: NodeId, request: ForwardedRequest, sink: ResponseSink) -> Upstream:
        self._in_flight[node_id] = self._in_flight.get(node_id, 0) + 1
        self._circuits.opened(self._clock(), node_id, request.model)
        return self._mesh.open_on(node_id, request, sink)

    def answered(self, node_id: NodeId, model: str) -> None:
        self._circuits.answered(node_id, model)

    def stalled(self, node_id: NodeId, model: str, label: str, silent_s: float) -> None:
        opened = self._circuits.stalled(self._clock(), node_id, model)
        self.observer.stalled(label, node_id, opened)
        if opened:
            about = {"node": node_id, "model": label, "silent_s": round(silent_s, 1)}
            logger.warning("a machine accepts and does not answer: left alone for a while", extra=about)

    def _pace(self, node_id: NodeId, model: str, work: Work) -> Pace:
        member = self._mesh.view().members.get(node_id)
        return pace_of(None if member is None else member.load.model(model), work)

    def attempt_ended(self, node_id: NodeId, model: str) -> None:
        self._circuits.ended(self._clock(), node_id, model)
        left = self._in_flight[node_id] - 1
        if left:
            self._in_flight[node_id] = left
        else:
            del self._in_flight[node_id]

    def report(self, to: NodeId | None, report: AttemptReport) -> None:
        leader = to or self._leader
        if leader is not None:
            self._mesh.send(leader, report)

    def ask_timed_out(self, leader: NodeId) -> None:
        logger.warning("the leader does not acknowledge: deciding alone for a while", extra={"leader": leader})
        self.observer.ask_timed_out()
        self._distrusted = (leader, self._clock() + self._settings.leader_distrusted_s)

    def name_of(self, node_id: NodeId) -> str:
        member = self._mesh.view().members.get(node_id)
        return "" if member is None else member.facts.name

    def landed(self, flight: Flight) -> None:
        self._flights.pop(flight.request_id, None)
        if not self._flights:
            self._empty.set()

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _all(self) -> Iterator[Flight]:
        return iter(list(self._flights.values()))

    def _as_event(self, answer: Answer) -> ev.Assigned | ev.Queued | ev.NoCandidate | None:
        if answer.outcome is Outcome.ASSIGNED and answer.node_id:
            return ev.Assigned(answer.attempt, answer.node_id, answer.decision)
        if answer.outcome is Outcome.QUEUED:
            return ev.Queued(answer.attempt, answer.decision, offer.leader_is_blind(self._mesh.view(), answer.decision))
        if answer.outcome is Outcome.NO_CANDIDATE:
            flight = self._flights[answer.request_id]
            view = self._mesh.view()
            standing, blind = (
                offer.standing(view, flight.machine.facts.model),
                offer.leader_is_blind(view, answer.decision),
            )
            return ev.NoCandidate(answer.attempt, standing, answer.decision, answer.retry_after_ms, blind)
        logger.warning("the leader assigned no machine: ignored", extra={"request_id": answer.request_id})
        return None

    def _feed(self, flight: Flight, event: ev.Event) -> None:
        if flight.record.total_s is None:
            flight.feed(event)


class Refusal:
    """A request that was refused before it began; an ActiveRequest like any other."""

    def __init__(self, timers: Timers, request_id: str, error: GatewayError, sink: ClientSink) -> None:
        self.request_id = request_id
        self._error = error
        self._sink = sink
        self._timer = timers.call_soon(self._tell)

    def _tell(self) -> None:
        error = self._error
        self._sink.head(AnswerHead(error.status, errors.JSON, self.request_id, retry_after_s=error.retry_after_s))
        self._sink.data(error.body())
        self._sink.end(None)

    def cancel(self) -> None:
        self._timer.cancel()

    def pause(self) -> None:
        """The answer is one small piece."""

    def resume(self) -> None:
        """See pause."""
