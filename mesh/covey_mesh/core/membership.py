"""Who is in the pool and how to reach them: links, hints, heartbeats, loads and the leader's reports.

Step in, effects out. Every hint (mDNS, a person, the disk, another machine's list) is only an address to dial;
a machine exists once it proved its key, or once the leader that we granted vouches for it. Direct knowledge goes
before the leader's word unless the word is newer (view.is_reachable).

Here is in which order things happen, and what this machine itself changes; the rest is in dials.py, links.py and
hearing.py, which share one MembershipState. Not here: who leads (election.py), what is worth a link (census.py), what
is told to whom (reports.py), and the shape of single decisions (peers.py, dialing.py, liveness.py, view.py).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from covey_mesh.core.dials import Dials
from covey_mesh.core.effects import CloseLink, MemberChanged, MembershipEffect, TellElection
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
    Probe,
    Published,
    Tick,
)
from covey_mesh.core.facts import NodeFacts, PoolView
from covey_mesh.core.hearing import Hearing
from covey_mesh.core.links import Links
from covey_mesh.core.membership_state import MembershipState
from covey_mesh.core.messages import FactsReport, Heartbeat, LoadReport, PeerList, ViewReport
from covey_mesh.core.names import NodeId
from covey_mesh.core.peers import PeerTable
from covey_mesh.core.ports import LinkLoss
from covey_mesh.core.timing import Timing
from covey_mesh.core.view import is_listed


class Membership:
    """One machine's table of the others. `jitter` returns numbers in [0, 1)."""

    def __init__(self, facts: NodeFacts, timing: Timing, now_s: float, jitter: Callable[[], float]) -> None:
        me = self._me = MembershipState(facts, timing, jitter)
        self._dials = Dials(me)
        self._links = Links(me, self._dials)
        hearing = Hearing(me, self._links, self._dials)
        self._handlers: dict[type[Any], Callable[[float, Any], None]] = {
            Tick: lambda now_s, event: None,
            LinkUp: self._links.on_up,
            LinkDown: self._links.on_down,
            DialFailed: self._dials.on_failed,
            Hinted: self._dials.on_hinted,
            MembershipReceived: self._on_received,
            Published: self._on_published,
            OwnFactsChanged: self._on_own_facts,
            LeaderChanged: self._on_leader_changed,
            FollowerJoined: self._on_follower_joined,
            InUse: self._on_in_use,
            Probe: self._on_probe,
            Heartbeat: hearing.on_heartbeat,
            PeerList: hearing.on_peer_list,
            LoadReport: hearing.on_load_report,
            ViewReport: hearing.on_view_report,
            FactsReport: hearing.on_facts_report,
        }
        self._keyed: dict[str, Callable[[float, Any], None]] = {
            "peer": self._tend,
            "hint": self._dials.try_hint,
            "retired": lambda now_s, link: me.effects.append(CloseLink(link, LinkLoss.REPLACED)),
        }
        me.timers.at("gossip", now_s + timing.gossip_s)
        me.timers.at("sweep", now_s + timing.sweep_s)

    # --- what the outside may read ------------------------------------------------------------------------------------

    @property
    def wake_at_s(self) -> float:
        """When `step` must be called with a Tick at the latest."""
        return self._me.timers.next_s

    @property
    def self_id(self) -> NodeId:
        return self._me.self_id

    @property
    def peers(self) -> PeerTable:
        """Every machine that was heard of."""
        return self._me.peers

    @property
    def leading(self) -> bool:
        """True while this machine leads the pool."""
        return self._me.leading

    def view(self, now_s: float) -> PoolView:
        """An immutable snapshot; the same object again while nothing changed."""
        me = self._me
        return me.view.snapshot(now_s, me.reports.facts, me.reports.load)

    def link_to(self, node_id: NodeId) -> int | None:
        """The runtime's number of the link that counts."""
        record = self._me.peers.get(node_id)
        return record.link.number if record is not None and record.link is not None else None

    def knows_address(self, node_id: NodeId) -> bool:
        """True if it is worth waiting for a link to this machine."""
        record = self._me.peers.get(node_id)
        return record is not None and bool(record.target.addresses)

    def remembered(self) -> list[tuple[NodeId, tuple[str, ...]]]:
        """Machines that proved themselves, latest seen first: for the cache on disk."""
        proven = [r for r in self._me.peers if r.facts is not None and r.target.addresses]
        proven.sort(key=lambda r: (r.link is None, -r.seen_at_s, r.node_id))
        return [(r.node_id, tuple(r.target.addresses)) for r in proven]

    def heard(self, link: int, now_s: float) -> None:
        """Bytes arrived. On the token path: touches one number and nothing else."""
        me = self._me
        record = me.peers.get(me.links.get(link, me.self_id))
        if record is not None and record.link is not None:
            record.link.liveness.heard_at_s = now_s
            record.link.heard_batches += 1
            if record.reported is not None and not record.reported.reachable:
                me.view.changed()

    def step(self, now_s: float, event: MembershipEvent) -> list[MembershipEffect]:
        """Take one event; the effects are to be carried out in order."""
        me = self._me
        me.effects = []
        late_s = now_s - me.timers.next_s
        if late_s > me.timing.lag_s:
            self._links.forgive_all(now_s, asking=late_s > me.timing.answer_deadline_s)
        self._handlers[type(event)](now_s, event)
        for key in me.timers.take(now_s):
            self._work(now_s, key)
        self._take_census(now_s)
        return me.effects

    # --- time ---------------------------------------------------------------------------------------------------------

    def _work(self, now_s: float, key: Hashable) -> None:
        """One timer came due; whoever still has work plans the next one."""
        me = self._me
        if isinstance(key, tuple):
            kind, name = key
            self._keyed[kind](now_s, name)
        elif key == "load":
            me.effects.extend(me.reports.loads(now_s, me.leader))
        elif key == "view" and me.leading:
            me.effects.extend(me.reports.views(now_s, me.ballot))
        elif key == "gossip":
            self._gossip(now_s)
        elif key == "sweep":
            self._sweep(now_s)

    def _tend(self, now_s: float, node_id: NodeId) -> None:
        record = self._me.peers.get(node_id)
        if record is not None and record.link is not None:
            self._links.check(now_s, record, record.link)
        elif record is not None:
            self._dials.maybe_dial(now_s, record)

    def _sweep(self, now_s: float) -> None:
        me = self._me
        me.peers.forget_old(now_s)
        for record in me.peers:
            if record.link is not None:
                self._links.let_go_if_quiet(now_s, record, record.link)
            listed = is_listed(record, now_s, me.timing)
            if listed != record.listed:
                me.touch(now_s, record)
        me.census.stale()
        me.timers.at("sweep", now_s + me.timing.sweep_s)

    def _take_census(self, now_s: float) -> None:
        me = self._me
        new_deputies = me.census.take()
        if new_deputies is None:
            return
        me.effects.append(TellElection(DeputyChanged(me.census.is_deputy)))
        for node_id in new_deputies:
            me.timers.at(("peer", node_id), now_s)

    def _gossip(self, now_s: float) -> None:
        me = self._me
        linked = [r.node_id for r in me.peers if r.link is not None]
        if linked:
            to = linked[int(me.jitter() * len(linked)) % len(linked)]
            me.effects.append(me.reports.peer_list_for(to))
        me.timers.at("gossip", now_s + me.timing.gossip_s * (1 + me.jitter() / 2))

    # --- messages -----------------------------------------------------------------------------------------------------

    def _on_received(self, now_s: float, event: MembershipReceived) -> None:
        record = self._me.peers.get(event.sender)
        if record is not None:
            self._handlers[type(event.message)](now_s, (record, event.message))

    # --- what this machine tells --------------------------------------------------------------------------------------

    def _on_published(self, now_s: float, event: Published) -> None:
        me = self._me
        assert event.load.node_id == me.self_id, "a machine publishes its own load"
        if me.reports.take_load(now_s, event.load):
            self._own_entry_changed(now_s, urgent=False)
            me.timers.at("load", me.reports.load_due_s(now_s, me.census.size))
        else:
            me.view.changed()

    def _on_own_facts(self, now_s: float, event: OwnFactsChanged) -> None:
        me = self._me
        assert event.facts.node_id == me.self_id, "a machine tells its own facts"
        me.reports.facts = event.facts
        self._own_entry_changed(now_s, urgent=True)
        me.effects.extend(me.reports.facts_for_all())

    def _own_entry_changed(self, now_s: float, urgent: bool) -> None:
        me = self._me
        me.view.changed()
        me.effects.append(MemberChanged(me.self_id))
        me.tell_pool_about(now_s, me.self_id, urgent)

    # --- what others decided ------------------------------------------------------------------------------------------

    def _on_leader_changed(self, now_s: float, event: LeaderChanged) -> None:
        me = self._me
        was_leading = me.leading
        me.leader, me.ballot = event.leader, event.ballot
        me.view.follow(event.leader, event.ballot)
        if not me.leading:
            if event.leader is not None:
                me.reports.say_again(event.leader)
            me.timers.at("load", now_s)
        elif not was_leading:
            me.reports.begin_leading()
        for record in me.peers:
            if record.node_id == event.leader or me.leading:
                me.soon(now_s, record)

    def _on_follower_joined(self, now_s: float, event: FollowerJoined) -> None:
        me = self._me
        record = me.peers.get(event.peer)
        if me.leading and record is not None and record.link is not None:
            me.effects.extend(me.reports.whole_view_for(event.peer, now_s, me.ballot))

    def _on_in_use(self, now_s: float, event: InUse) -> None:
        me = self._me
        record = me.peers.get(event.peer)
        if record is None:
            return
        record.in_use = event.in_use
        if event.in_use and record.link is None:
            record.target.renew(now_s)
        me.soon(now_s, record)

    def _on_probe(self, now_s: float, event: Probe) -> None:
        me = self._me
        record = me.peers.get(event.peer)
        if record is not None and record.link is not None:
            me.ask(now_s, record, record.link)
