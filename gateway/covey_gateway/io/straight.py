"""A plain request under a grant: opened where the leader said, answered in one piece, without a state machine.

Most requests of programs (classification, extraction, embeddings, short answers) are so: nothing to decide, nothing
goes wrong, one answer. Whatever is not (a failure, an engine's error, a body in pieces, a client that leaves, more than
OWN_S of time) becomes a Flight with all its rules, as if it had been one from the beginning: its attempt goes on, and
nothing was told to the client before.

Not here: who gets a grant (covey_scheduler.core.grants), what a Flight does (flight.py).
"""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from covey_gateway.core import errors
from covey_gateway.core import request_events as ev
from covey_gateway.core.event_stream import TokenRatio, read_cached_tokens, read_usage
from covey_gateway.core.front import AnswerHead, ClientSink, IncomingRequest
from covey_gateway.core.grants import Grants, Place, Worked
from covey_gateway.core.observer import Observer
from covey_gateway.core.records import RecordBook
from covey_gateway.core.routing_fields import RoutingFields
from covey_gateway.io.flight import AttemptSink, Cancellable, Flight, Timers
from covey_mesh.core.asking import GRANTED_WORK_WITHIN_S, AttemptReport, GrantedWork
from covey_mesh.core.exchange import Failure, ForwardedRequest, ResponseSink, Upstream, Usage
from covey_mesh.core.names import NodeId

logger = logging.getLogger(__name__)

OWN_S = 0.25
"""Longer ones become flights: the leader hears of them, and their machine's silence is watched."""

BODY_BYTES_MAX = 1024 * 1024
"""A larger answer is held by a flight, which counts it."""


class Straight:
    """One request: the edge's ActiveRequest and its machine's ResponseSink."""

    __slots__ = (
        "_body",
        "_content_type",
        "_owner",
        "_rest",
        "_status",
        "arrived_s",
        "fields",
        "flight",
        "forwarded",
        "incoming",
        "place",
        "priority",
        "request_id",
        "sink",
        "upstream",
        "user",
    )

    def __init__(
        self,
        owner: Straights,
        incoming: IncomingRequest,
        fields: RoutingFields,
        forwarded: ForwardedRequest,
        place: Place,
        user: str,
        priority: int,
        arrived_s: float,
        sink: ClientSink,
    ) -> None:
        self.request_id = forwarded.request_id
        self.incoming = incoming
        self.fields = fields
        self.forwarded = forwarded
        self.place = place
        self.user = user
        self.priority = priority
        self.arrived_s = arrived_s
        self.sink = sink
        self.upstream: Upstream | None = None
        self.flight: Flight | None = None
        self._owner = owner
        self._rest: ResponseSink | None = None
        self._status = 0
        self._content_type = ""
        self._body = b""

    # --- the machine's side ------------------------------------------------------------------------------------------

    def whole(self, status: int, content_type: str, retry_after_s: int, body: bytes, usage: Usage | None) -> None:
        if self._rest is None and status == 200:
            self._owner.answered(self, content_type, body, usage)
        else:
            self.as_flight().whole(status, content_type, retry_after_s, body, usage)

    def head(self, status: int, content_type: str, retry_after_s: int = 0) -> None:
        if self._rest is None and status == 200:
            self._status, self._content_type = status, content_type
        else:
            self.as_flight().head(status, content_type, retry_after_s)

    def data(self, chunk: bytes) -> None:
        if self._rest is None and not self._body and len(chunk) <= BODY_BYTES_MAX:
            self._body = chunk
        else:
            self.as_flight().data(chunk)

    def end(self, failure: Failure | None) -> None:
        if self._rest is None and failure is None and self._status:
            self._owner.answered(self, self._content_type, self._body, None)
        else:
            self.as_flight().end(failure)

    # --- the edge's side ---------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        self.as_flight()
        assert self.flight is not None
        self.flight.cancel()

    def pause(self) -> None:
        self.as_flight()
        assert self.flight is not None
        self.flight.pause()

    def resume(self) -> None:
        if self.flight is not None:
            self.flight.resume()

    def as_flight(self) -> ResponseSink:
        """Where the rest of the answer goes, from now on."""
        if self._rest is None:
            self.flight = self._owner.become_flight(self)
            self._rest = AttemptSink(self.flight, self.forwarded.attempt)
            if self._status:
                self._rest.head(self._status, self._content_type)
            if self._body:
                self._rest.data(self._body)
                self._body = b""
        return self._rest


OpenOn = Callable[[NodeId, ForwardedRequest, ResponseSink], Upstream]
"""covey_mesh.core.ports.Mesh.open_on. Circuit breakers need not hear of it: what they doubt is not granted."""


class Owner(Protocol):
    """What plain requests need of their runner."""

    timers: Timers
    observer: Observer
    records: RecordBook

    @property
    def leader(self) -> NodeId | None:
        """Whom this machine follows now."""

    def now_s(self) -> float: ...

    def unix_s(self) -> float: ...

    def as_flight(self, straight: Straight) -> Flight:
        """The same request with all its rules, not yet begun; its attempt counts as open from now on."""

    def tell_leader(self, work: GrantedWork) -> None: ...

    def note_landing(self) -> None:
        """One request less."""


class Straights:
    """All plain requests under way, what is granted, and what came of it."""

    def __init__(self, owner: Owner, open_on: OpenOn, ratio: TokenRatio) -> None:
        self.grants = Grants()
        self._worked = Worked()
        self._owner = owner
        self._open_on = open_on
        self._ratio = ratio
        self._running: dict[str, Straight] = {}
        self._flights: dict[str, Flight] = {}
        self._timer: Cancellable | None = None

    def __len__(self) -> int:
        return len(self._running)

    def begin(self, straight: Straight) -> None:
        """Opened at once: nobody has to be asked."""
        forwarded = straight.forwarded
        self._running[straight.request_id] = straight
        self._owner.observer.request_started(forwarded.path, forwarded.model)
        straight.upstream = self._open_on(straight.place.node_id, forwarded, straight)
        if self._timer is None:
            self._timer = self._owner.timers.call_later(GRANTED_WORK_WITHIN_S, self._look)

    def in_flight(self) -> Counter[NodeId]:
        """Attempts open now, per machine; those of flights are counted by the runner."""
        return Counter(straight.place.node_id for straight in self._running.values())

    def look_at(self, request_id: str) -> None:
        """Somebody asks for its record."""
        straight = self._running.get(request_id)
        if straight is not None:
            straight.as_flight()

    def begin_flight(self, flight: Flight, place: Place, began_s: float, upstream: Upstream | None = None) -> None:
        """With a state machine; if it goes on for long the leader is told of it alone."""
        self._flights[flight.request_id] = flight
        granted = ev.Granted(self._owner.leader, place.node_id, place.decision, began_s)
        flight.begin_granted(granted, functools.partial(self._over, flight, place), upstream)
        if self._timer is None:
            self._timer = self._owner.timers.call_later(GRANTED_WORK_WITHIN_S, self._look)

    def answered(self, straight: Straight, content_type: str, body: bytes, usage: Usage | None) -> None:
        """The client first, then the books."""
        del self._running[straight.request_id]
        place, told = straight.place, False
        try:
            seconds = self._owner.now_s() - straight.arrived_s
            straight.sink.whole(
                AnswerHead(
                    200, content_type, straight.request_id, place.model, place.node_id, place.node_name, 1, place.why
                ),
                body,
            )
            told = True
            self._enter(straight, usage or Usage(*read_usage(body), read_cached_tokens(body)), seconds)
        except Exception:
            # As in a flight: a bug of ours ends this request alone.
            logger.exception("bug in the request runner", extra={"request_id": straight.request_id})
            if not told:
                error = errors.internal()
                straight.sink.whole(AnswerHead(error.status, errors.JSON, straight.request_id), error.body())
        finally:
            self._owner.note_landing()

    def _enter(self, straight: Straight, usage: Usage, seconds: float) -> None:
        """Into the books: what it was and took."""
        owner, place, forwarded, fields = self._owner, straight.place, straight.forwarded, straight.fields
        model, node_id, prompt = place.model, place.node_id, usage.prompt_tokens
        if not prompt:
            prompt = forwarded.prompt_tokens
        elif not fields.token_ids:
            self._ratio.learn(model, fields.text_bytes, prompt)
        self._worked.ended(
            model, node_id, straight.user, straight.priority, prompt, usage.output_tokens, usage.cached_tokens
        )
        if self._worked.full:
            self.tell()
        owner.observer.straight(forwarded.path, model, node_id, seconds, prompt, usage.output_tokens)
        owner.records.add_straight(
            forwarded.request_id, forwarded.path, model, forwarded.prompt_tokens, forwarded.max_output_tokens,
            owner.unix_s() - seconds, node_id, place.decision, seconds, seconds,
        )  # fmt: skip

    def become_flight(self, straight: Straight) -> Flight:
        del self._running[straight.request_id]
        flight = self._owner.as_flight(straight)
        self.begin_flight(flight, straight.place, straight.arrived_s, straight.upstream)
        return flight

    def _over(self, flight: Flight, place: Place, report: AttemptReport) -> None:
        """The granted attempt of a flight ended before the leader was told of it."""
        self._flights.pop(flight.request_id, None)
        if report.failed:
            self.grants.void_machine(place.node_id)
        facts, prompt = flight.machine.facts, report.prompt_tokens
        if not prompt and not report.failed:
            prompt = facts.prompt_tokens
        tokens = prompt, report.output_tokens, report.cached_prompt_tokens
        self._worked.ended(place.model, place.node_id, facts.user, facts.priority, *tokens, report.failed)
        if self._worked.full:
            self.tell()

    def tell(self) -> None:
        """Before the leader is asked, too: what is over can be granted anew."""
        if self._worked:
            self._worked.tell(self._owner.tell_leader)

    def _look(self) -> None:
        """Tells the leader: of what ended in sums, of what goes on for longer one by one."""
        self._timer = None
        old_s = self._owner.now_s() - OWN_S
        for straight in [each for each in self._running.values() if each.arrived_s <= old_s]:
            straight.as_flight()
        for flight in [each for each in self._flights.values() if each.machine.facts.arrived_s <= old_s]:
            del self._flights[flight.request_id]
            flight.tell_leader(self._owner.leader)
        self.tell()
        if self._running or self._flights:
            self._timer = self._owner.timers.call_later(GRANTED_WORK_WITHIN_S, self._look)
