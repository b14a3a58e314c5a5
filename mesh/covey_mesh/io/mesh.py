"""The mesh at run time: what the rest of covey asks of it, what the network tells it, and what its decisions act on.

Of asyncio only call_later, call_soon and futures are used, and clock, dice, disk and network are handed in, so that the
cluster simulator runs this very class in virtual time. Not here: any decision (core/), stepping the state machines
(driver.py), bytes on the wire (transport.py), mDNS (discovery.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from covey_mesh.core.asking import Answer, Ask, AttemptReport, GrantedWork
from covey_mesh.core.ballot import Ballot
from covey_mesh.core.effects import (
    LeadershipChanged,
    MemberLost,
)
from covey_mesh.core.election import Election
from covey_mesh.core.events import (
    CandidacyClosed,
    CandidacyOpened,
    DialFailed,
    ElectionReceived,
    Hinted,
    InUse,
    LinkDown,
    LinkUp,
    MembershipReceived,
    OwnFactsChanged,
    Published,
    StopRequested,
)
from covey_mesh.core.exchange import ForwardedRequest, OpenRequest, ResponseSink, Upstream
from covey_mesh.core.facts import NodeFacts, NodeLoad, PoolView
from covey_mesh.core.leadership_source import NOT_ALLOWED, Candidature, LeadershipSource, OwnElection
from covey_mesh.core.membership import Membership
from covey_mesh.core.messages import (
    ControlMessage,
    FactsReport,
    GrantReply,
    GrantRequest,
    Heartbeat,
    LeaseReleased,
    LoadReport,
    PeerList,
    PreVoteReply,
    PreVoteRequest,
    Query,
    QueryReply,
    ViewReport,
)
from covey_mesh.core.names import NodeId, short
from covey_mesh.core.ports import Link, LinkLoss, MeshListener, QueryHandler, SlowQueryHandler, Transport
from covey_mesh.core.stores import PeerStore, PromiseStore
from covey_mesh.core.timing import LAN, Timing
from covey_mesh.core.transitions import Role
from covey_mesh.io.attempts import Attempts
from covey_mesh.io.driver import Driver
from covey_mesh.io.queries import Queries

PEERS_SAVED_EVERY_S = 30.0
"""While the list of known machines changes."""

FROM_PERSON = "peer"
"""A hint of this source (`--peer`, configuration) is tried forever."""

FROM_CACHE = "cache"
FROM_MDNS = "mdns"

_ELECTION_MESSAGES = (PreVoteRequest, PreVoteReply, GrantRequest, GrantReply, LeaseReleased)
_MEMBERSHIP_MESSAGES = (Heartbeat, PeerList, LoadReport, ViewReport, FactsReport)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MeshStatus:
    """For metrics and people."""

    role: Role
    leader: NodeId | None
    ballot: Ballot
    grants_held: int
    links: int
    known_machines: int


class MeshRuntime:
    """See covey_mesh.core.ports.Mesh and LinkEvents. `clock` must count suspended time (CLOCK_BOOTTIME).

    `loop` is the running loop unless given (a simulator gives one that can freeze). `source` says when this machine
    may stand for leadership.
    """

    def __init__(
        self,
        transport: Transport,
        facts: NodeFacts,
        clock: Callable[[], float],
        jitter: Callable[[], float],
        promises: PromiseStore,
        known_peers: PeerStore,
        timing: Timing = LAN,
        loop: asyncio.AbstractEventLoop | None = None,
        source: LeadershipSource | None = None,
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._jitter = jitter
        self._promises = promises
        self._known_peers = known_peers
        self._timing = timing
        self._given_loop = loop
        self._source = source or OwnElection()
        self._membership = Membership(facts, timing, clock(), jitter)
        self.self_id = self._membership.self_id
        self._driver = Driver(self, self._membership, promises, clock)
        self._listeners: list[MeshListener] = []
        self._links: dict[int, Link] = {}
        self._numbers: dict[Link, int] = {}
        self._last_number = 0
        self._local_handler: OpenRequest | None = None
        self._peers_changed = False
        self._handlers: list[tuple[str, QueryHandler]] = []
        self._slow_handlers: list[tuple[str, SlowQueryHandler]] = []
        self._early_hints: list[Hinted] = []

    # --- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Raises OSError if the stored ballot cannot be read. Start the transport after this."""
        self._loop = self._given_loop or asyncio.get_running_loop()
        stored = self._promises.load()
        election = Election(self.self_id, self._timing, stored, self._clock(), self._jitter, NOT_ALLOWED)
        self._queries = Queries(self._loop, self.send_control)
        for kind, handler in self._handlers:
            self._queries.answer(kind, handler)
        for kind, slow in self._slow_handlers:
            self._queries.answer_later(kind, slow)
        self._attempts = Attempts(self._loop, self._timing.open_wait_s, self._note_in_use)
        self._driver.start(self._loop, election)
        for node_id, addresses in self._known_peers.load():
            self.hint(addresses, FROM_CACHE, node_id)
        for hinted in self._early_hints:
            self._driver.step_membership(hinted)
        self._source.start(self)
        self._save_timer = self._loop.call_later(PEERS_SAVED_EVERY_S, self._save_peers_again)
        self._driver.drain()

    async def stop(self) -> None:
        """Hand over leadership, let the last messages leave, close every link. Safe to call twice."""
        if not self._driver.running:
            return
        self._driver.step_election(StopRequested())
        await self._source.stop()
        self._known_peers.save(self._membership.remembered())
        flushed = self._loop.create_future()
        self._loop.call_later(self._timing.stop_flush_s, flushed.set_result, None)
        await flushed
        self.halt()
        for link in list(self._links.values()):
            link.close(LinkLoss.CLOSED)

    def halt(self) -> None:
        """Stop at once and silently, as a killed process does; for `stop` and for simulated crashes."""
        self._driver.halt()
        self._source.halt()
        self._save_timer.cancel()
        self._queries.stop()
        self._attempts.stop()

    # --- Mesh: what gateway, scheduler and program ask --------------------------------------------------------------

    def view(self) -> PoolView:
        """The pool as seen from here."""
        return self._membership.view(self._clock())

    def status(self) -> MeshStatus:
        """After `start`."""
        now_s, election = self._clock(), self._driver.election
        return MeshStatus(
            election.role,
            election.leader(now_s),
            election.ballot(now_s),
            election.grants_held(now_s),
            len(self._links),
            len(self._membership.peers),
        )

    def may_obey(self, ballot: Ballot) -> bool:
        """The fence of placement commands: true only for the leader that this machine grants now."""
        return self._driver.running and self._driver.election.may_obey(ballot, self._clock())

    def subscribe(self, listener: MeshListener) -> None:
        """Listeners are called in the order of subscribing."""
        self._listeners.append(listener)

    def publish(self, load: NodeLoad) -> None:
        """This machine's own load; `sequence` counts up."""
        self._driver.step_membership(Published(load))

    def set_facts(self, facts: NodeFacts) -> None:
        """This machine's own facts have changed; `facts_version` counts up."""
        self._transport.set_facts(facts)
        self._driver.step_membership(OwnFactsChanged(facts))

    def hint(self, addresses: tuple[str, ...], source: str, claimed: NodeId | None = None) -> None:
        """Somebody says that a machine may answer there. Proves nothing; before `start` it is kept for later."""
        hinted = Hinted(addresses, claimed, pinned=source == FROM_PERSON)
        if self._driver.running:
            self._driver.step_membership(hinted)
        else:
            self._early_hints.append(hinted)

    def send(self, node_id: NodeId, message: Ask | Answer | AttemptReport | GrantedWork) -> bool:
        """False if there is no link to that machine now."""
        return self.send_control(node_id, message)

    def serve_requests(self, handler: OpenRequest) -> None:
        """Attempts opened on this machine, from here or by peers, go to `handler` (the node)."""
        self._local_handler = handler
        self._transport.serve_requests(handler)

    def open_on(self, node_id: NodeId, request: ForwardedRequest, sink: ResponseSink) -> Upstream:
        """See Mesh.open_on."""
        if node_id == self.self_id:
            assert self._local_handler is not None, "serve_requests comes before the first request"
            return self._local_handler(request, sink)
        link = self._link_to(node_id)
        if link is None and not self._membership.knows_address(node_id):
            return self._attempts.unknown(node_id, request, sink)
        return self._attempts.open(node_id, request, sink, link)

    async def query(self, node_id: NodeId, kind: str, payload: bytes, timeout_s: float) -> bytes | None:
        """None when not found, unreachable or late."""
        return await self._queries.ask(node_id, kind, payload, timeout_s)

    def answer_queries(self, kind: str, handler: QueryHandler) -> None:
        """One handler a kind."""
        if self._driver.running:
            self._queries.answer(kind, handler)
        else:
            self._handlers.append((kind, handler))

    def answer_queries_later(self, kind: str, handler: SlowQueryHandler) -> None:
        """One handler a kind."""
        if self._driver.running:
            self._queries.answer_later(kind, handler)
        else:
            self._slow_handlers.append((kind, handler))

    # --- Candidate: what the source of leadership says --------------------------------------------------------------

    @property
    def leads(self) -> bool:
        """True while this machine leads."""
        return self._driver.running and self._driver.election.leader(self._clock()) == self.self_id

    def candidacy_opened(self, candidature: Candidature) -> None:
        """See Candidate."""
        self._driver.step_election(CandidacyOpened(candidature))

    def candidacy_closed(self) -> None:
        """See Candidate."""
        self._driver.step_election(CandidacyClosed())

    # --- LinkEvents: what the transport reports ---------------------------------------------------------------------

    def up(self, link: Link) -> None:
        """See LinkEvents."""
        if not self._driver.running:
            link.close(LinkLoss.CLOSED)
            return
        self._last_number += 1
        number = self._last_number
        self._links[number], self._numbers[link] = link, number
        self._driver.step_membership(LinkUp(number, link.facts, link.dialed, link.address))
        counting = self._link_to(link.peer)
        if counting is not None:
            self._attempts.linked(link.peer, counting)
            self._peers_changed = True

    def down(self, link: Link, loss: LinkLoss) -> None:
        """See LinkEvents."""
        number = self._numbers.pop(link, None)
        if number is not None:
            del self._links[number]
            self._driver.step_membership(LinkDown(number, loss))

    def message(self, link: Link, message: ControlMessage) -> None:
        """See LinkEvents."""
        if self._driver.running:
            self._deliver(link.peer, message)

    def dial_failed(self, address: str, loss: LinkLoss, detail: str) -> None:
        """See LinkEvents."""
        _log.debug("dial failed", extra={"address": address, "loss": loss.value, "detail": detail})
        self._driver.step_membership(DialFailed(address, loss))

    def heard(self, link: Link) -> None:
        """See LinkEvents."""
        number = self._numbers.get(link)
        if number is not None:
            self._membership.heard(number, self._clock())

    # --- messages ---------------------------------------------------------------------------------------------------

    def _deliver(self, sender: NodeId, message: ControlMessage) -> None:
        if isinstance(message, Ask):
            for listener in self._listeners:
                listener.ask_received(sender, message)
        elif isinstance(message, Answer):
            for listener in self._listeners:
                listener.answer_received(sender, message)
        elif isinstance(message, AttemptReport):
            for listener in self._listeners:
                listener.attempt_reported(sender, message)
        elif isinstance(message, GrantedWork):
            for listener in self._listeners:
                listener.granted_work(sender, message)
        elif isinstance(message, _ELECTION_MESSAGES):
            self._driver.step_election(ElectionReceived(sender, message))
        elif isinstance(message, _MEMBERSHIP_MESSAGES):
            self._driver.step_membership(MembershipReceived(sender, message))
        elif isinstance(message, Query):
            self._queries.reply_to(sender, message)
        elif isinstance(message, QueryReply):
            self._queries.take_reply(sender, message)

    def _deliver_to_self(self, message: ControlMessage) -> None:
        if self._driver.running:
            self._deliver(self.self_id, message)

    def _link_to(self, node_id: NodeId) -> Link | None:
        number = self._membership.link_to(node_id)
        return None if number is None else self._links.get(number)

    # --- Outside: what the state machines decided -------------------------------------------------------------------

    def send_control(self, node_id: NodeId, message: ControlMessage) -> bool:
        """To oneself on the next turn of the loop. False if there is no link to that machine now."""
        if not self._driver.running:
            return False
        if node_id == self.self_id:
            self._loop.call_soon(self._deliver_to_self, message)
            return True
        link = self._link_to(node_id)
        if link is not None:
            link.send(message)
        return link is not None

    def dial(self, address: str, expected: NodeId | None) -> None:
        """See Outside."""
        self._transport.dial(address, expected)

    def close_link(self, number: int, loss: LinkLoss) -> None:
        """See Outside."""
        link = self._links.get(number)
        if link is not None:
            link.close(loss)

    def machine_gone(self, node_id: NodeId) -> None:
        """See Outside."""
        self._source.machine_gone(node_id)

    def leadership_changed(self, change: LeadershipChanged) -> None:
        """See Outside."""
        _log.info(
            "leader: %s",
            "none" if change.leader is None else short(change.leader),
            extra={"leader": change.leader, "counter": change.ballot.counter, "self": change.leader == self.self_id},
        )
        for listener in self._listeners:
            listener.leadership_changed(change.leader, change.ballot)

    def member_changed(self, node_id: NodeId) -> None:
        """See Outside."""
        for listener in self._listeners:
            listener.member_changed(node_id)

    def member_lost(self, lost: MemberLost) -> None:
        """See Outside."""
        _log.info("link lost", extra={"peer": lost.node_id, "loss": lost.loss.value})
        self._queries.peer_lost(lost.node_id)
        for listener in self._listeners:
            listener.member_lost(lost.node_id, lost.loss)

    def _note_in_use(self, node_id: NodeId, in_use: bool) -> None:
        self._driver.step_membership(InUse(node_id, in_use))

    def _save_peers_again(self) -> None:
        if self._peers_changed:
            self._peers_changed = False
            self._known_peers.save(self._membership.remembered())
        self._save_timer = self._loop.call_later(PEERS_SAVED_EVERY_S, self._save_peers_again)
