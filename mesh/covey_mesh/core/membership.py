"""Who is in the pool and how to reach them: links, hints, heartbeats, loads and the leader's reports.

Step in, effects out. Every hint (mDNS, a person, the disk, another machine's list) is only an address to dial;
a machine exists once it proved its key, or once the leader that we granted vouches for it. Direct knowledge goes
before the leader's word unless the word is newer (view.is_reachable).

Not here: who leads (election.py), what is worth a link (census.py), what is told to whom (reports.py), and the shape
of single decisions (peers.py, dialing.py, liveness.py, view.py).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any

from covey_mesh.core.ballot import NO_BALLOT, Ballot
from covey_mesh.core.census import QUIET_BATCHES_MAX, QUIET_SWEEPS, Census
from covey_mesh.core.dialing import NOT_DIALING, PROVEN, Target, backoff_cap_s, host_of, is_address
from covey_mesh.core.effects import CloseLink, Dial, MemberChanged, MemberLost, MembershipEffect, Send, TellElection
from covey_mesh.core.events import (
    DeputyChanged,
    DialFailed,
    FollowerJoined,
    Hinted,
    InUse,
    LeaderChanged,
    LinkDown,
    LinkUp,
    MembershipEvent,
    MembershipReceived,
    OwnFactsChanged,
    PeerFresh,
    PeerGone,
    PeerLinked,
    PeerUnlinked,
    Probe,
    Published,
    Tick,
)
from covey_mesh.core.facts import Member, NodeFacts, NodeLoad, PoolView
from covey_mesh.core.liveness import Finding, LinkLiveness
from covey_mesh.core.messages import FactsReport, Heartbeat, LoadReport, PeerList, ViewReport
from covey_mesh.core.names import NodeId, is_id
from covey_mesh.core.peers import LeaderWord, LinkState, PeerRecord, PeerTable, replaces
from covey_mesh.core.ports import LinkLoss
from covey_mesh.core.reports import PEER_LIST_MAX, VIEW_CHUNK, Reports
from covey_mesh.core.timers import Timers
from covey_mesh.core.timing import Timing, idle_heartbeat_s, leader_ask_s
from covey_mesh.core.view import ViewKeeper, is_listed, is_reachable

DIALS_MAX = 64
"""Dials in flight at once."""

ADDRESS_HINTS_MAX = 64
"""Addresses whose machine is not known yet (from --peer or mDNS)."""


@dataclass(slots=True)
class AddressHint:
    """An address without an id. `machine` is who answered there."""

    target: Target = field(default_factory=Target)
    machine: NodeId | None = None


class Membership:
    """One machine's table of the others. `jitter` returns numbers in [0, 1)."""

    def __init__(self, facts: NodeFacts, timing: Timing, now_s: float, jitter: Callable[[], float]) -> None:
        self.self_id = facts.node_id
        self.peers = PeerTable(facts.node_id, timing)
        self._reports = Reports(facts, self.peers, timing)
        self._census = Census(facts.node_id, self.peers)
        self._timing = timing
        self._jitter = jitter
        self._view = ViewKeeper(facts.node_id, self.peers, timing)
        self._timers = Timers()
        self._links: dict[int, NodeId] = {}
        self._hints: dict[str, AddressHint] = {}
        self._dialing: dict[str, NodeId | None] = {}
        self._leader: NodeId | None = None
        self._ballot: Ballot = NO_BALLOT
        self._effects: list[MembershipEffect] = []
        self._handlers: dict[type[Any], Callable[[float, Any], None]] = {
            Tick: lambda now_s, event: None,
            LinkUp: self._on_link_up,
            LinkDown: self._on_link_down,
            DialFailed: self._on_dial_failed,
            Hinted: self._on_hinted,
            MembershipReceived: self._on_received,
            Published: self._on_published,
            OwnFactsChanged: self._on_own_facts,
            LeaderChanged: self._on_leader_changed,
            FollowerJoined: self._on_follower_joined,
            InUse: self._on_in_use,
            Probe: self._on_probe,
            Heartbeat: self._on_heartbeat,
            PeerList: self._on_peer_list,
            LoadReport: self._on_load_report,
            ViewReport: self._on_view_report,
            FactsReport: self._on_facts_report,
        }
        self._keyed: dict[str, Callable[[float, Any], None]] = {
            "peer": self._tend,
            "hint": self._try_hint,
            "retired": lambda now_s, link: self._effects.append(CloseLink(link, LinkLoss.REPLACED)),
        }
        self._timers.at("gossip", now_s + timing.gossip_s)
        self._timers.at("sweep", now_s + timing.sweep_s)

    # --- what the outside may read ----------------------------------------------------------------------------------

    @property
    def wake_at_s(self) -> float:
        """When `step` must be called with a Tick at the latest."""
        return self._timers.next_s

    @property
    def leading(self) -> bool:
        return self._leader == self.self_id

    def view(self, now_s: float) -> PoolView:
        """An immutable snapshot; the same object again while nothing changed."""
        return self._view.snapshot(now_s, self._reports.facts, self._reports.load)

    def link_to(self, node_id: NodeId) -> int | None:
        """The runtime's number of the link that counts."""
        record = self.peers.get(node_id)
        return record.link.number if record is not None and record.link is not None else None

    def knows_address(self, node_id: NodeId) -> bool:
        """True if it is worth waiting for a link to this machine."""
        record = self.peers.get(node_id)
        return record is not None and bool(record.target.addresses)

    def remembered(self) -> list[tuple[NodeId, tuple[str, ...]]]:
        """Machines that proved themselves, latest seen first: for the cache on disk."""
        proven = [r for r in self.peers if r.facts is not None and r.target.addresses]
        proven.sort(key=lambda r: (r.link is None, -r.seen_at_s, r.node_id))
        return [(r.node_id, tuple(r.target.addresses)) for r in proven]

    def heard(self, link: int, now_s: float) -> None:
        """Bytes arrived. On the token path: touches one number and nothing else."""
        record = self.peers.get(self._links.get(link, self.self_id))
        if record is not None and record.link is not None and record.link.number == link:
            record.link.liveness.heard_at_s = now_s
            record.link.heard_batches += 1
            if record.reported is not None and not record.reported.reachable:
                self._view.changed()

    def step(self, now_s: float, event: MembershipEvent) -> list[MembershipEffect]:
        """Take one event; the effects are to be carried out in order."""
        self._effects = []
        late_s = now_s - self._timers.next_s
        if late_s > self._timing.lag_s:
            self._forgive_all(now_s, asking=late_s > self._timing.answer_deadline_s)
        self._handlers[type(event)](now_s, event)
        for key in self._timers.take(now_s):
            self._work(now_s, key)
        self._take_census(now_s)
        return self._effects

    # --- time -------------------------------------------------------------------------------------------------------

    def _forgive_all(self, now_s: float, asking: bool) -> None:
        """This machine stalled. `asking`: for so long that the others may have closed their ends of idle links."""
        for record in self.peers:
            if record.link is not None:
                record.link.liveness.forgive(now_s)
                if asking:
                    self._ask(now_s, record, record.link)

    def _ask(self, now_s: float, record: PeerRecord, link: LinkState) -> None:
        self._effects.append(Send(record.node_id, Heartbeat(token=link.liveness.ask(now_s))))
        self._soon(now_s, record)

    def _work(self, now_s: float, key: Hashable) -> None:
        """One timer came due; whoever still has work plans the next one."""
        if isinstance(key, tuple):
            kind, name = key
            self._keyed[kind](now_s, name)
        elif key == "load":
            self._effects.extend(self._reports.loads(now_s, self._leader))
        elif key == "view" and self.leading:
            self._effects.extend(self._reports.views(now_s, self._ballot))
        elif key == "gossip":
            self._gossip(now_s)
        elif key == "sweep":
            self._sweep(now_s)

    def _tend(self, now_s: float, node_id: NodeId) -> None:
        record = self.peers.get(node_id)
        if record is not None and record.link is not None:
            self._check_link(now_s, record, record.link)
        elif record is not None:
            self._maybe_dial(now_s, record)

    def _soon(self, now_s: float, record: PeerRecord) -> None:
        self._timers.at(("peer", record.node_id), now_s)

    def _check_link(self, now_s: float, record: PeerRecord, link: LinkState) -> None:
        ask_after_s = self._ask_after_s(record)
        finding = link.liveness.check(now_s, ask_after_s)
        if finding is Finding.SILENT:
            self._effects.append(CloseLink(link.number, LinkLoss.SILENT))
            self._lose(now_s, record, LinkLoss.SILENT)
            return
        if finding is Finding.ASK:
            self._effects.append(Send(record.node_id, Heartbeat(token=link.liveness.ask(now_s))))
        self._note_freshness(now_s, record, link)
        self._timers.at(("peer", record.node_id), link.liveness.due_s(now_s, ask_after_s))

    def _note_freshness(self, now_s: float, record: PeerRecord, link: LinkState) -> None:
        fresh = link.liveness.fresh(now_s)
        if fresh != link.fresh:
            link.fresh = fresh
            self._effects.append(TellElection(PeerFresh(record.node_id, fresh)))

    def _ask_after_s(self, record: PeerRecord) -> float:
        if record.in_use:
            return self._timing.link_heartbeat_s
        if self.leading or record.node_id == self._leader:
            return leader_ask_s(self._census.size, self._timing)
        return idle_heartbeat_s(self._census.size, self._timing)

    def _sweep(self, now_s: float) -> None:
        for record in self.peers.forget_old(now_s):
            self._timers.forget(("peer", record.node_id))
        for record in self.peers:
            if record.link is not None:
                self._let_go_if_quiet(now_s, record, record.link)
            listed = is_listed(record, now_s, self._timing)
            if listed != record.listed:
                self._touch(now_s, record)
        self._census.stale()
        self._timers.at("sweep", now_s + self._timing.sweep_s)

    def _take_census(self, now_s: float) -> None:
        new_deputies = self._census.take()
        if new_deputies is None:
            return
        self._effects.append(TellElection(DeputyChanged(self._census.is_deputy)))
        for node_id in new_deputies:
            self._timers.at(("peer", node_id), now_s)

    def _wants_link(self, record: PeerRecord) -> bool:
        others = len(self._links) - (record.link is not None)
        return self._census.wants_link(record, self._leader, others)

    def _let_go_if_quiet(self, now_s: float, record: PeerRecord, link: LinkState) -> None:
        """In a large pool; the side that dialed decides, so that the two sides do not undo each other's choice."""
        quiet = link.quiet(QUIET_BATCHES_MAX) >= QUIET_SWEEPS
        if quiet and link.dialed and not self._wants_link(record):
            self._effects.append(CloseLink(link.number, LinkLoss.CLOSED))
            self._let_go(now_s, record, link)

    def _let_go(self, now_s: float, record: PeerRecord, link: LinkState) -> None:
        """The machine is well, only the link is not needed: the leader's word about it counts from now on."""
        del self._links[link.number]
        record.link, record.lost, record.seen_at_s = None, None, link.liveness.heard_at_s
        record.reported = LeaderWord(True, link.liveness.heard_at_s)
        self._effects.append(TellElection(PeerUnlinked(record.node_id)))
        self._effects.append(MemberLost(record.node_id, LinkLoss.CLOSED))
        self._touch(now_s, record)

    # --- dialing ----------------------------------------------------------------------------------------------------

    def _maybe_dial(self, now_s: float, record: PeerRecord) -> None:
        target = record.target
        if target.dialing != NOT_DIALING:
            if now_s < target.dialing_since_s + self._timing.dial_deadline_s:
                self._timers.at(("peer", record.node_id), target.dialing_since_s + self._timing.dial_deadline_s)
                return
            self._dial_ended(now_s, record, target.dialing, LinkLoss.SILENT)
        if not target.addresses or not self._wants_link(record):
            return
        if now_s < target.next_dial_s:
            self._timers.at(("peer", record.node_id), target.next_dial_s)
        elif not self._dial(now_s, target, record.node_id):
            self._timers.at(("peer", record.node_id), now_s + self._timing.dial_backoff_s)
        else:
            self._timers.at(("peer", record.node_id), now_s + self._timing.dial_deadline_s)

    def _dial(self, now_s: float, target: Target, expected: NodeId | None) -> bool:
        """False if too many dials are in flight, or one to this address already is."""
        address = target.start(now_s)
        if len(self._dialing) >= DIALS_MAX or address in self._dialing:
            target.dialing = NOT_DIALING
            return False
        self._dialing[address] = expected
        self._effects.append(Dial(address, expected))
        return True

    def _try_hint(self, now_s: float, address: str) -> None:
        """An address without an id: dial it while the machine that answers there has no link."""
        hint = self._hints.get(address)
        if hint is None:
            return
        target = hint.target
        if target.dialing != NOT_DIALING and now_s >= target.dialing_since_s + self._timing.dial_deadline_s:
            self._dialing.pop(address, None)
            self._hint_failed(now_s, address, hint, LinkLoss.SILENT)
        record = self.peers.get(hint.machine) if hint.machine is not None else None
        linked = record is not None and record.link is not None
        if target.dialing == NOT_DIALING and not linked and now_s >= target.next_dial_s:
            self._dial(now_s, target, None)
        pause_s = self._timing.dial_backoff_pinned_s if linked else self._timing.dial_backoff_s
        self._timers.at(("hint", address), max(now_s + pause_s, target.next_dial_s))

    def _hint_failed(self, now_s: float, address: str, hint: AddressHint, loss: LinkLoss) -> None:
        """A configured address is tried forever; any other is dropped when nobody of the pool is there."""
        cap_s = self._timing.dial_backoff_pinned_s
        hint.target.failed(now_s, loss, cap_s, self._jitter(), self._timing)
        if not hint.target.pinned and hint.target.failures > 5:
            del self._hints[address]

    def _on_dial_failed(self, now_s: float, event: DialFailed) -> None:
        if event.address not in self._dialing:
            return
        expected = self._dialing.pop(event.address)
        if expected is None:
            hint = self._hints.get(event.address)
            if hint is not None:
                self._hint_failed(now_s, event.address, hint, event.loss)
            return
        record = self.peers.get(expected)
        if record is not None:
            self._dial_ended(now_s, record, event.address, event.loss)
            self._soon(now_s, record)

    def _dial_ended(self, now_s: float, record: PeerRecord, address: str, loss: LinkLoss) -> None:
        self._dialing.pop(address, None)
        pinned, seen_at_s = record.target.pinned, record.seen_at_s
        cap_s = backoff_cap_s(now_s, seen_at_s, pinned, self._timing)
        record.target.failed(now_s, loss, cap_s, self._jitter(), self._timing)
        if loss is LinkLoss.UNTRUSTED and record.target.addresses.get(address) != PROVEN:
            record.target.addresses.pop(address, None)
        if record.link is not None:
            return
        began_before_loss = record.target.dialing_since_s < record.lost_at_s
        if record.lost is None:
            record.lost, record.lost_at_s = loss, now_s
        self._census.stale()
        same_host = bool(record.lost_host) and host_of(address) == record.lost_host
        if loss is LinkLoss.REFUSED and same_host and not began_before_loss:
            self._effects.append(TellElection(PeerGone(record.node_id)))

    # --- links ------------------------------------------------------------------------------------------------------

    def _on_link_up(self, now_s: float, event: LinkUp) -> None:
        node_id = event.facts.node_id
        if event.dialed:
            self._dial_succeeded(event.address, node_id)
        record = self.peers.meet(node_id, now_s)
        if record is None:
            self._effects.append(CloseLink(event.link, LinkLoss.CLOSED))
            return
        live = LinkLiveness(now_s, self._timing)
        new = LinkState(event.link, event.facts.incarnation, event.dialed, event.address, now_s, live)
        held = record.link
        if held is not None and not replaces(self.self_id, node_id, held, new, now_s, self._timing):
            self._retire(now_s, event.link)
            return
        if held is not None:
            self._drop_held(now_s, record, held, restarted=held.incarnation != new.incarnation)
        elif record.facts is not None and record.facts.incarnation != new.incarnation:
            self._effects.append(TellElection(PeerGone(node_id)))
        self._adopt(now_s, record, new, event.facts)

    def _dial_succeeded(self, address: str, node_id: NodeId) -> None:
        self._dialing.pop(address, None)
        hint = self._hints.get(address)
        if hint is None:
            return
        hint.target.succeeded()
        hint.machine = node_id
        if node_id == self.self_id:
            del self._hints[address]

    def _drop_held(self, now_s: float, record: PeerRecord, held: LinkState, restarted: bool) -> None:
        del self._links[held.number]
        if not restarted:
            self._retire(now_s, held.number)
            return
        self._effects.append(CloseLink(held.number, LinkLoss.RESTARTED))
        self._effects.append(MemberLost(record.node_id, LinkLoss.RESTARTED))
        self._effects.append(TellElection(PeerGone(record.node_id)))

    def _retire(self, now_s: float, link: int) -> None:
        """Close a link that does not count, a little later: the other side may not have seen its successor yet."""
        self._timers.at(("retired", link), now_s + self._timing.replaced_linger_s)

    def _adopt(self, now_s: float, record: PeerRecord, link: LinkState, facts: NodeFacts) -> None:
        if record.load is not None and record.load.incarnation != facts.incarnation:
            record.load = None
        record.link, record.facts, record.lost, record.reported = link, facts, None, None
        record.seen_at_s, record.load_told = now_s, -1
        self._links[link.number] = record.node_id
        self._learn_addresses(record, facts)
        record.target.succeeded()
        if link.dialed:
            record.target.prefer(link.address)
            hint = self._hints.get(link.address)
            record.target.pinned |= hint is not None and hint.target.pinned
        self._effects.append(TellElection(PeerLinked(record.node_id)))
        self._effects.append(self._reports.peer_list_for(record.node_id))
        self._effects.extend(self._reports.load_for(record))
        if self.leading:
            self._effects.extend(self._reports.whole_view_for(record.node_id, now_s, self._ballot))
        self._census.stale()
        self._touch(now_s, record, urgent=True)
        self._soon(now_s, record)

    def _learn_addresses(self, record: PeerRecord, facts: NodeFacts) -> None:
        """Only the machine's own Hello, and the address that worked, are proof; the rest stays behind them."""
        record.target.learn(facts.link_addresses, PROVEN)

    def _on_link_down(self, now_s: float, event: LinkDown) -> None:
        record = self.peers.get(self._links.get(event.link, self.self_id))
        if record is not None and record.link is not None and record.link.number == event.link:
            self._lose(now_s, record, event.loss)

    def _lose(self, now_s: float, record: PeerRecord, loss: LinkLoss) -> None:
        """Redial at once: success brings the machine back, refusal proves that its process has ended."""
        link = record.link
        assert link is not None
        if loss is LinkLoss.CLOSED and not self._wants_link(record):
            self._let_go(now_s, record, link)
            return
        del self._links[link.number]
        record.link, record.lost, record.lost_at_s = None, loss, now_s
        record.seen_at_s = max(record.seen_at_s, link.liveness.heard_at_s)
        record.lost_host = host_of(link.address)
        record.target.prefer_host(record.lost_host)
        if link.dialed and link.address in record.target.addresses:
            record.target.prefer(link.address)
        short_lived = now_s - link.up_at_s < self._timing.simultaneous_s
        if loss is LinkLoss.REPLACED:
            record.target.next_dial_s = now_s + self._timing.dial_backoff_max_s
        elif short_lived:
            record.target.failed(now_s, loss, self._timing.dial_backoff_max_s, self._jitter(), self._timing)
            record.target.turn = 0
        else:
            record.target.failures, record.target.next_dial_s = 0, now_s
        self._effects.append(TellElection(PeerUnlinked(record.node_id)))
        if loss in (LinkLoss.REFUSED, LinkLoss.RESTARTED):
            self._effects.append(TellElection(PeerGone(record.node_id)))
        self._effects.append(MemberLost(record.node_id, loss))
        self._census.stale()
        self._touch(now_s, record, urgent=True)
        self._soon(now_s, record)

    # --- hints ------------------------------------------------------------------------------------------------------

    def _on_hinted(self, now_s: float, event: Hinted) -> None:
        if event.claimed is not None:
            if is_id(event.claimed):
                self._hint_machine(now_s, event.claimed, event.addresses, event.pinned)
            return
        for address in event.addresses:
            if not is_address(address) or (address not in self._hints and len(self._hints) >= ADDRESS_HINTS_MAX):
                continue
            hint = self._hints.setdefault(address, AddressHint())
            hint.target.learn([address])
            hint.target.pinned |= event.pinned
            hint.target.renew(now_s)
            self._timers.at(("hint", address), now_s)

    def _hint_machine(self, now_s: float, node_id: NodeId, addresses: tuple[str, ...], pinned: bool) -> None:
        record = self.peers.meet(node_id, now_s)
        if record is None:
            return
        record.hinted_at_s = now_s
        record.target.pinned |= pinned
        known = record.target.addresses
        first = not known
        if first or any(address not in known for address in addresses):
            record.target.learn(addresses)
        if record.link is not None or not record.target.addresses:
            return
        record.target.renew(now_s)
        if first and self.self_id > node_id:
            record.target.next_dial_s = now_s + self._timing.dial_courtesy_s
        if first:
            self._census.stale()
        if first or self._wants_link(record):
            self._soon(now_s, record)

    # --- messages ---------------------------------------------------------------------------------------------------

    def _on_received(self, now_s: float, event: MembershipReceived) -> None:
        record = self.peers.get(event.sender)
        if record is not None:
            self._handlers[type(event.message)](now_s, (record, event.message))

    def _on_heartbeat(self, now_s: float, received: tuple[PeerRecord, Heartbeat]) -> None:
        record, heartbeat = received
        if record.link is None:
            return
        if heartbeat.echo:
            record.link.liveness.answered(now_s, heartbeat.echo)
            self._note_freshness(now_s, record, record.link)
        if heartbeat.token:
            self._effects.append(Send(record.node_id, Heartbeat(echo=heartbeat.token)))
            self._effects.extend(self._reports.load_for(record))

    def _on_peer_list(self, now_s: float, received: tuple[PeerRecord, PeerList]) -> None:
        for facts in received[1].peers[:PEER_LIST_MAX]:
            if facts.link_addresses and (self.peers.get(facts.node_id) is not None or is_id(facts.node_id)):
                self._hint_machine(now_s, facts.node_id, facts.link_addresses, False)

    def _on_load_report(self, now_s: float, received: tuple[PeerRecord, LoadReport]) -> None:
        record, report = received
        if report.load.node_id == record.node_id:
            self._take_load(now_s, record, report.load)

    def _take_load(self, now_s: float, record: PeerRecord, load: NodeLoad) -> None:
        """A later report of the incarnation that we know; while linked, that of the link."""
        if record.facts is not None and load.incarnation != record.facts.incarnation:
            return
        known = record.load
        if known is not None and not load.newer_than(known):
            return
        record.load = load
        if known is not None and load == replace(known, sequence=load.sequence):
            # Said again to a new leader: its scheduler waits for this, nobody else learns anything from it.
            self._view.changed()
            self._effects.append(MemberChanged(record.node_id))
        else:
            self._touch(now_s, record)

    def _on_facts_report(self, now_s: float, received: tuple[PeerRecord, FactsReport]) -> None:
        record, facts = received[0], received[1].facts
        known = record.facts
        if facts.node_id != record.node_id or known is None or facts.incarnation != known.incarnation:
            return
        if facts.facts_version > known.facts_version:
            record.facts = facts
            self._learn_addresses(record, facts)
            self._touch(now_s, record)

    def _on_view_report(self, now_s: float, received: tuple[PeerRecord, ViewReport]) -> None:
        """Believed only from the leader that this machine granted, under the ballot that it granted."""
        record, report = received
        if record.node_id != self._leader or report.ballot < self._ballot:
            return
        for member in report.members[:VIEW_CHUNK]:
            if is_id(member.node_id) and member.load.node_id == member.node_id != record.node_id:
                self._take_word(now_s, member)
            elif member.node_id == record.node_id:
                self._take_load(now_s, record, member.load)

    def _take_word(self, now_s: float, member: Member) -> None:
        record = self.peers.meet(member.node_id, now_s)
        if record is None:
            return
        was = (is_reachable(record), record.facts)
        record.reported = LeaderWord(member.reachable, now_s - self._age_s(member))
        if record.link is None and self._news(record.facts, member.facts):
            record.facts = member.facts
            self._hint_machine(now_s, member.node_id, member.facts.link_addresses, False)
        self._take_load(now_s, record, member.load)
        if was != (is_reachable(record), record.facts):
            self._census.stale()
            self._touch(now_s, record)
        if record.link is not None and not member.reachable:
            self._on_probe(now_s, Probe(member.node_id))

    def _age_s(self, member: Member) -> float:
        """How old the leader's word is. Calling a machine silent, it has asked in vain for the answer deadline."""
        silent_s = max(0.0, member.silent_for_s)
        return silent_s if member.reachable else min(silent_s, self._timing.answer_deadline_s)

    @staticmethod
    def _news(known: NodeFacts | None, told: NodeFacts) -> bool:
        return known is None or known.incarnation != told.incarnation or told.facts_version > known.facts_version

    # --- what this machine tells ------------------------------------------------------------------------------------

    def _touch(self, now_s: float, record: PeerRecord, urgent: bool = False) -> None:
        """This machine's entry changed: a new snapshot, listeners, and as leader the next report."""
        record.listed = is_listed(record, now_s, self._timing)
        self._view.changed()
        self._effects.append(MemberChanged(record.node_id))
        self._tell_pool_about(now_s, record.node_id, urgent)

    def _tell_pool_about(self, now_s: float, node_id: NodeId, urgent: bool) -> None:
        if self.leading:
            self._reports.changed(node_id)
            self._timers.at("view", now_s if urgent else self._reports.view_due_s(now_s, self._census.size))

    def _on_published(self, now_s: float, event: Published) -> None:
        assert event.load.node_id == self.self_id, "a machine publishes its own load"
        if self._reports.take_load(now_s, event.load):
            self._own_entry_changed(now_s, urgent=False)
            self._timers.at("load", self._reports.load_due_s(now_s, self._census.size))
        else:
            self._view.changed()

    def _on_own_facts(self, now_s: float, event: OwnFactsChanged) -> None:
        assert event.facts.node_id == self.self_id, "a machine tells its own facts"
        self._reports.facts = event.facts
        self._own_entry_changed(now_s, urgent=True)
        self._effects.extend(self._reports.facts_for_all())

    def _own_entry_changed(self, now_s: float, urgent: bool) -> None:
        self._view.changed()
        self._effects.append(MemberChanged(self.self_id))
        self._tell_pool_about(now_s, self.self_id, urgent)

    def _gossip(self, now_s: float) -> None:
        linked = [r.node_id for r in self.peers if r.link is not None]
        if linked:
            to = linked[int(self._jitter() * len(linked)) % len(linked)]
            self._effects.append(self._reports.peer_list_for(to))
        self._timers.at("gossip", now_s + self._timing.gossip_s * (1 + self._jitter() / 2))

    # --- what others decided ----------------------------------------------------------------------------------------

    def _on_leader_changed(self, now_s: float, event: LeaderChanged) -> None:
        was_leading = self.leading
        self._leader, self._ballot = event.leader, event.ballot
        self._view.follow(event.leader, event.ballot)
        if not self.leading:
            if event.leader is not None:
                self._reports.say_again()
            self._timers.at("load", now_s)
        elif not was_leading:
            self._reports.begin_leading()
        for record in self.peers:
            if record.node_id == event.leader or self.leading or was_leading:
                self._soon(now_s, record)

    def _on_follower_joined(self, now_s: float, event: FollowerJoined) -> None:
        record = self.peers.get(event.peer)
        if self.leading and record is not None and record.link is not None:
            self._effects.extend(self._reports.whole_view_for(event.peer, now_s, self._ballot))

    def _on_in_use(self, now_s: float, event: InUse) -> None:
        record = self.peers.get(event.peer)
        if record is None:
            return
        record.in_use = event.in_use
        if event.in_use and record.link is None:
            record.target.renew(now_s)
        self._soon(now_s, record)

    def _on_probe(self, now_s: float, event: Probe) -> None:
        record = self.peers.get(event.peer)
        if record is not None and record.link is not None:
            self._ask(now_s, record, record.link)
