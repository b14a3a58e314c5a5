"""The request runner: every request that entered this machine, and what they share.

Implements covey_gateway.core.front.FrontDoor for the edges and covey_mesh.core.ports.MeshListener for the mesh.
Everything runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from covey_gateway.core import errors, offer
from covey_gateway.core import request_events as ev
from covey_gateway.core.circuit import CircuitBreaker
from covey_gateway.core.errors import GatewayError
from covey_gateway.core.event_stream import TokenRatio
from covey_gateway.core.fair_starts import FairStarts
from covey_gateway.core.front import ActiveRequest, ClientSink, IncomingRequest
from covey_gateway.core.grants import Place
from covey_gateway.core.observer import Observer
from covey_gateway.core.parting import CutRequest, cut
from covey_gateway.core.paths import ENGINE_PATHS, PathKind
from covey_gateway.core.progress import CleanLoads, Pace, Work, pace_of_clean
from covey_gateway.core.records import RecordBook, RequestRecord
from covey_gateway.core.request import RequestMachine
from covey_gateway.core.request_state import Surroundings
from covey_gateway.core.retrying import BufferBudget
from covey_gateway.core.routing_fields import BYTES_PER_TOKEN, RoutingFields, read_routing_fields
from covey_gateway.core.settings import RequestSettings
from covey_gateway.core.sharded_request import ShardedRequest
from covey_gateway.core.sharing import BATCH, INTERACTIVE, UsersAhead, class_of, sharing_name
from covey_gateway.core.waiting_line import WaitingLines
from covey_gateway.io.alone import Alone, ChooseAlone
from covey_gateway.io.flight import Flight, Timers
from covey_gateway.io.flight import Surroundings as FlightSurroundings
from covey_gateway.io.refusal import Refusal
from covey_gateway.io.sharded_flight import PartSurroundings, ShardedFlight
from covey_gateway.io.straight import Straight, Straights
from covey_mesh.core.asking import Answer, Ask, AttemptReport, GrantedWork, Outcome
from covey_mesh.core.ballot import Ballot
from covey_mesh.core.exchange import ForwardedRequest, ResponseSink, Upstream
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import LinkLoss, Mesh
from covey_mesh.core.silence import may_hold_back
from covey_scheduler.core.prefix import prefix_hashes
from covey_scheduler.core.sharding import Part, ShardingSettings

logger = logging.getLogger(__name__)

OFFER_FRESH_S = 0.5
"""How long the list of models, read from the view, is used before it is read again."""


class RequestRunner:
    """`clock` is CLOCK_BOOTTIME in seconds; `jitter` returns a number in [0, 1). `best_classes`: owner of a key -> the
    best class that it may use (0 interactive, 1 normal, 2 batch); who is not there may use all."""

    def __init__(
        self,
        mesh: Mesh,
        clock: Callable[[], float],
        jitter: Callable[[], float],
        settings: RequestSettings,
        observer: Observer,
        choose_alone: ChooseAlone,
        timers: Timers,
        new_id: Callable[[], str] = lambda: f"{random.getrandbits(48):012x}",
        unix_clock: Callable[[], float] = time.time,
        best_classes: Mapping[str, int] | None = None,
        sharding: ShardingSettings | None = None,
    ) -> None:
        self.timers = timers
        self.observer = observer
        self.records = RecordBook()
        # Apart, so that one request cut into hundreds does not push the others out.
        self._part_records = RecordBook()
        self._mesh = mesh
        self._clock = self.now_s = clock
        self._jitter = jitter
        self._settings = settings
        self._new_id = new_id
        self._unix_clock = self.unix_s = unix_clock
        self._id_prefix = f"req-{mesh.self_id[:8]}-"
        self._budget = BufferBudget(settings.buffered_total_bytes_max)
        self._circuits = CircuitBreaker()
        self._clean_loads = CleanLoads()
        self._around = Surroundings(
            BufferBudget(settings.kept_total_bytes_max),
            self._circuits.excluded,
            self._pace,
            lambda node_id: self.name_of(node_id) or node_id[:8],
            self._circuits.reopens_s,
            lambda: self._leader_heard_s,
        )
        self._ratio = TokenRatio(BYTES_PER_TOKEN)
        self._flights: dict[str, Flight] = {}
        self._sharding = sharding or ShardingSettings()
        self._sharded: dict[str, ShardedFlight] = {}
        self._sharded_budget = BufferBudget(self._sharding.held_total_bytes_max)
        self._part_surroundings = PartSurroundings(self)
        self._straights = Straights(self, mesh.open_on, self._ratio)
        self._grants = self._straights.grants
        self._local_user = sharing_name("", mesh.self_id, b"")
        self._in_flight: dict[NodeId, int] = {}
        self._leader = mesh.view().leader
        self._distrusted: tuple[NodeId, float] | None = None
        self._offer: tuple[float, dict[str, int]] = (float("-inf"), {})
        # Machines of the pool whose link was lost and is not back: as many as there are members at most.
        self._unlinked: set[NodeId] = set()
        self._best_classes = best_classes or {}
        self._leader_heard_s = float("-inf")
        self._users_ahead = UsersAhead()
        lines = WaitingLines(mesh.self_id, settings.in_flight_max)
        self._alone = Alone(mesh, clock, unix_clock, jitter, choose_alone, timers, lines, self._your_turn)
        self._starts = FairStarts[Flight]()
        self._draining = False
        self._empty = asyncio.Event()
        mesh.subscribe(self)

    # --- FrontDoor ---------------------------------------------------------------------------------------------------

    def submit(self, request: IncomingRequest, sink: ClientSink) -> ActiveRequest:
        """Never calls the sink before it returned. Never raises for what a client sent."""
        request_id = self._id_prefix + self._new_id()
        try:
            return self._accept(request_id, request, sink)
        except GatewayError as error:
            self.observer.refused(error.code.value)
            return Refusal(self.timers, request_id, error, sink)

    def _accept(self, request_id: str, request: IncomingRequest, sink: ClientSink) -> ActiveRequest:
        self._check_room()
        kind = ENGINE_PATHS.get(request.path)
        if kind is None:
            raise errors.path_not_found("POST", request.path)
        fields, now_s = read_routing_fields(request.body, kind), self._clock()
        offered = self._offered(now_s)
        model = fields.model or self._only_model(offered)
        limit = offered.get(model, 0)
        if not fields.may_fit(limit):
            raise errors.context_exceeded(limit, fields.prompt_tokens_least, "at least")
        if self._grants and request.deadline_s is None and fields.choices == 1 and not fields.batch:
            granted = self._begin_granted(request_id, request, fields, model, limit, now_s, sink)
            if granted is not None:
                return granted
        facts = self._facts(request_id, request, fields, model, limit, now_s)
        label = model if model in offered else ""
        if label and fields.units_most > 1 and len(self._sharded) < self._sharding.requests_max:
            members, ratio = self._mesh.view().members.values(), self._ratio.of(model)
            parted = cut(facts, request.body, fields, members, limit, ratio, self._sharding)
            if parted is not None:
                return self._begin_parts(parted, sink)
        learn = None
        if label and not fields.token_ids:
            learn = functools.partial(self._ratio.learn, model, fields.text_bytes)
        self.observer.request_started(request.path, label)
        return self._begin(facts, request.body, sink, label, learn)

    def _begin_granted(
        self,
        request_id: str,
        request: IncomingRequest,
        fields: RoutingFields,
        model: str,
        limit: int,
        now_s: float,
        sink: ClientSink,
    ) -> ActiveRequest | None:
        """None: it has to ask. Nobody passes those who wait for their turn to begin, and work that yields to other
        work always asks."""
        best = self._best_classes.get(request.user, INTERACTIVE)
        priority = class_of(request.priority, fields.service_tier, best)
        prompt_tokens = fields.prompt_tokens(self._ratio.of(model), 0)
        if priority >= BATCH or prompt_tokens >= limit > 0:
            return None
        place = self._grants.take(model, prompt_tokens, now_s, bool(self._starts))
        if place is None:
            return None
        if fields.streaming:
            self.observer.request_started(request.path, model)
            flight = self._granted_flight(request_id, request, fields, model, limit, now_s, sink)
            self._straights.begin_flight(flight, place, now_s)
            return flight
        output = fields.max_output_tokens
        if output is None:
            output = self._settings.default_max_output_tokens
        forwarded = ForwardedRequest(request_id, 1, model, request.path, request.body, False, prompt_tokens, output)
        user = request.user or (sharing_name("", self._mesh.self_id, fields.user) if fields.user else self._local_user)
        straight = Straight(self._straights, request, fields, forwarded, place, user, priority, now_s, sink)
        self._straights.begin(straight)
        return straight

    def _granted_flight(
        self,
        request_id: str,
        request: IncomingRequest,
        fields: RoutingFields,
        model: str,
        limit: int,
        arrived_s: float,
        sink: ClientSink,
    ) -> Flight:
        facts = self._facts(request_id, request, fields, model, limit, arrived_s)
        flight = self._flight(facts, request.body, sink, self)
        flight.model_label = model
        if not fields.token_ids:
            flight.on_usage = functools.partial(self._ratio.learn, model, fields.text_bytes)
        return flight

    def as_flight(self, straight: Straight) -> Flight:
        """See covey_gateway.io.straight.Owner."""
        self._in_flight[straight.place.node_id] = self._in_flight.get(straight.place.node_id, 0) + 1
        model, arrived_s = straight.place.model, straight.arrived_s
        limit = self._offered(arrived_s).get(model, 0)
        return self._granted_flight(
            straight.request_id, straight.incoming, straight.fields, model, limit, arrived_s, straight.sink
        )

    def _begin(
        self,
        facts: ev.RequestFacts,
        body: bytes,
        sink: ClientSink,
        label: str,
        on_usage: Callable[[int], None] | None,
        part_of: str = "",
    ) -> Flight:
        flight = self._flight(facts, body, sink, self._part_surroundings if part_of else self)
        flight.record.part_of = part_of
        flight.model_label, flight.on_usage = label, on_usage
        if not self._starts:
            self.timers.call_soon(self._start_some)
        self._starts.add(facts.user, flight)
        return flight

    def _start_some(self) -> None:
        for flight in self._starts.take():
            self._feed(flight, ev.Started(self._leader))
        if self._starts:
            self.timers.call_soon(self._start_some)

    # --- requests that are cut ---------------------------------------------------------------------------------------

    def _begin_parts(self, cut: CutRequest, sink: ClientSink) -> ShardedFlight:
        facts, settings = cut.facts, self._sharding
        record = self._record(facts)
        machine = ShardedRequest(cut.units, cut.parts, cut.in_flight_max, settings.held_bytes_max, self._sharded_budget)
        flight = ShardedFlight(self, cut, machine, record, sink)
        self.records.add(record)
        self._sharded[facts.request_id] = flight
        self.observer.request_started(facts.path, facts.model)
        self.observer.request_cut(facts.path, len(cut.parts))
        return flight

    def open_part(self, cut: CutRequest, number: int, attempt: int, part: Part, sink: ClientSink) -> Flight:
        """A request like any other, for one part of a cut one (covey_gateway.io.sharded_flight.Owner)."""
        facts = cut.part_facts(number, attempt, part, self._clock())
        learn, text_bytes = None, cut.units.text_bytes(part)
        if text_bytes:
            learn = functools.partial(self._ratio.learn, facts.model, text_bytes)
        return self._begin(facts, cut.units.body(part), sink, facts.model, learn, cut.facts.request_id)

    def parts_landed(self, request_id: str) -> None:
        self._sharded.pop(request_id, None)
        self.note_landing()

    def _check_room(self) -> None:
        if self._draining:
            message = "This gateway is shutting down. Send the request to another machine of the pool, or retry."
            raise errors.unavailable(errors.Code.DRAINING, message, self._settings.retry_after_s)
        if len(self._flights) + len(self._straights) >= self._settings.in_flight_max:
            message = "This gateway holds as many requests as it may. Retry after the time in Retry-After."
            raise errors.unavailable(errors.Code.GATEWAY_FULL, message, self._settings.retry_after_s)

    def _only_model(self, offered: Mapping[str, int]) -> str:
        if len(offered) == 1:
            return next(iter(offered))
        raise errors.model_missing(offered)

    def _facts(
        self,
        request_id: str,
        request: IncomingRequest,
        fields: RoutingFields,
        model: str,
        limit: int,
        now_s: float,
    ) -> ev.RequestFacts:
        output = fields.max_output_tokens
        if output is None:
            output = self._settings.default_max_output_tokens * fields.choices
        embeds = ENGINE_PATHS[request.path] is PathKind.EMBEDDING
        ratio = self._ratio.of(model)
        return ev.RequestFacts(
            request_id=request_id,
            path=request.path,
            model=model,
            streaming=fields.streaming,
            prompt_tokens=fields.prompt_tokens(ratio, 0),
            longest_prompt_tokens=fields.prompt_tokens(ratio, limit) if fields.batch else 0,
            max_output_tokens=output,
            arrived_s=now_s,
            prefix_hashes=() if embeds else prefix_hashes(fields.prompt),
            user=sharing_name(request.user, self._mesh.self_id, fields.user),
            priority=class_of(request.priority, fields.service_tier, self._best_classes.get(request.user, 0)),
            deadline_at_s=None if request.deadline_s is None else now_s + request.deadline_s,
            answer_tokens_most=fields.max_output_tokens or 0,
            may_hold_back=may_hold_back(request.body),
        )

    def _flight(self, facts: ev.RequestFacts, body: bytes, sink: ClientSink, around: FlightSurroundings) -> Flight:
        record = self._record(facts)
        machine = RequestMachine(facts, self._settings, self._budget, self._jitter, body, self._around)
        flight = Flight(around, machine, record, body, sink)
        (self.records if around is self else self._part_records).add(record)
        self._flights[facts.request_id] = flight
        return flight

    def _record(self, facts: ev.RequestFacts) -> RequestRecord:
        return RequestRecord(
            request_id=facts.request_id,
            path=facts.path,
            model=facts.model,
            streaming=facts.streaming,
            prompt_tokens=facts.prompt_tokens,
            max_output_tokens=facts.max_output_tokens,
            arrived_at_unix_s=self._unix_clock(),
        )

    def _offered(self, now_s: float) -> dict[str, int]:
        read_at_s, offered = self._offer
        if now_s - read_at_s > OFFER_FRESH_S:
            offered = offer.contexts(self._mesh.view())
            self._offer = (now_s, offered)
        return offered

    # --- for the rest of the program ---------------------------------------------------------------------------------

    def record(self, request_id: str) -> RequestRecord | None:
        """One of the last DECISIONS_KEPT requests that entered here."""
        self._straights.look_at(request_id)
        return self.records.get(request_id) or self._part_records.get(request_id)

    def in_flight(self) -> Mapping[NodeId, int]:
        """Attempts open now, per machine."""
        return self._straights.in_flight() + Counter(self._in_flight)

    @property
    def active(self) -> int:
        """Requests held now, waiting ones and parts of cut ones included."""
        return len(self._flights) + len(self._straights) + len(self._sharded)

    async def drain(self, grace_s: float) -> bool:
        """Refuse what comes; let what is here finish. False if something was still running after `grace_s`."""
        self._draining = True
        self._empty.clear()
        self.note_landing()
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
        now_s = self._leader_heard_s = self._clock()
        self._note_ahead(leader, answer, flight.machine.facts)
        if answer.grant is not None:
            self._note_grant(answer, flight.machine.facts.model, now_s)
        event = self._as_event(answer)
        if event is not None:
            flight.heard(event)

    def leadership_changed(self, leader: NodeId | None, ballot: Ballot) -> None:
        if leader == self._leader:
            return
        self._leader = leader
        self._leader_heard_s = float("-inf")
        self._distrusted = None
        self._grants.void()
        for flight in self._all():
            self._feed(flight, ev.LeaderChanged(leader))

    def member_lost(self, node_id: NodeId, loss: LinkLoss) -> None:
        self._unlinked.add(node_id)
        self._grants.void_machine(node_id)
        if node_id == self._leader:
            self._grants.void()
            for flight in self._all():
                self._feed(flight, ev.LeaderUnreachable())

    def ask_received(self, gateway: NodeId, ask: Ask) -> None:
        """For the scheduler."""

    def attempt_reported(self, gateway: NodeId, report: AttemptReport) -> None:
        """For the scheduler."""

    def granted_work(self, gateway: NodeId, work: GrantedWork) -> None:
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

    def send_ask(self, leader: NodeId, ask: Ask) -> bool:
        if self._distrusted is not None:
            distrusted, until_s = self._distrusted
            if distrusted == leader and self._clock() < until_s:
                return False
        self._straights.tell()
        self._alone.left(ask.request_id)
        ahead = self._users_ahead.for_leader(leader, ask, self._clock())
        return self._mesh.send(leader, replace(ask, user_ahead_tokens=ahead) if ahead else ask)

    def decide_alone(self, ask: Ask) -> ev.Assigned | ev.NoCandidate:
        return self._alone.decide(ask, self.in_flight())

    def _your_turn(self, request_id: str, place_freed: bool) -> None:
        """The line calls a request; one that is over leaves it."""
        flight = self._flights.get(request_id)
        if flight is None:
            self._alone.left(request_id)
        else:
            self._feed(flight, ev.YourTurn(place_freed))

    def _note_grant(self, answer: Answer, model: str, now_s: float) -> None:
        """A machine that this gateway doubts is not granted to it."""
        node_id, grant, decision = answer.node_id, answer.grant, answer.decision
        if node_id and grant is not None and decision is not None and not self._circuits.doubts(node_id, model):
            self._grants.told(Place(model, node_id, self.name_of(node_id), grant, decision, now_s), now_s)

    def _note_ahead(self, leader: NodeId, answer: Answer, facts: ev.RequestFacts) -> None:
        if answer.outcome is Outcome.ASSIGNED:
            self._users_ahead.told(leader, facts.model, facts.user, answer.user_ahead_tokens, self._clock())

    def open_on(self, node_id: NodeId, request: ForwardedRequest, sink: ResponseSink) -> Upstream:
        self._in_flight[node_id] = self._in_flight.get(node_id, 0) + 1
        self._circuits.opened(self._clock(), node_id, request.model)
        return self._mesh.open_on(node_id, request, sink)

    def answered(self, node_id: NodeId, model: str) -> None:
        self._circuits.answered(node_id, model)

    def stalled(self, node_id: NodeId, model: str, label: str, silent_s: float) -> None:
        opened = self._circuits.stalled(self._clock(), node_id, model)
        self._grants.void_machine(node_id)
        self.observer.stalled(label, node_id, opened)
        if opened:
            about = {"node": node_id, "model": label, "silent_s": round(silent_s, 1)}
            logger.warning("a machine accepts and does not answer: left alone for a while", extra=about)

    def _pace(self, node_id: NodeId, model: str, work: Work) -> Pace:
        member = self._mesh.view().members.get(node_id)
        load = None if member is None else member.load.model(model)
        return pace_of_clean(None if load is None else self._clean_loads.of(node_id, load), work)

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
        flight = self._flights.get(report.request_id)
        if flight is not None and report.node_id is not None and not report.refused:
            self._alone.place_freed(flight.machine.facts.model)

    def ask_timed_out(self, leader: NodeId) -> None:
        now_s = self._clock()
        self._grants.void()
        self.observer.ask_timed_out()
        if self._distrusted is None or self._distrusted[0] != leader or self._distrusted[1] <= now_s:
            # Once a while, not for each request that had asked.
            logger.warning("the leader does not acknowledge: deciding alone for a while", extra={"leader": leader})
        self._distrusted = (leader, now_s + self._settings.leader_distrusted_s)

    def name_of(self, node_id: NodeId) -> str:
        member = self._mesh.view().members.get(node_id)
        return "" if member is None else member.facts.name

    def landed(self, flight: Flight) -> None:
        self._flights.pop(flight.request_id, None)
        self._alone.left(flight.request_id)
        self.note_landing()

    def note_landing(self) -> None:
        """For whoever waits until the last one has landed."""
        if self._draining and not self.active:
            self._empty.set()

    @property
    def leader(self) -> NodeId | None:
        """Whom this machine follows now."""
        return self._leader

    def tell_leader(self, work: GrantedWork) -> None:
        if self._leader is not None:
            self._mesh.send(self._leader, work)

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
