"""What this machine tells the others of itself and, as leader, of everybody; when, and to whom.

Loads go to the leader and over links in use, the leader's view goes to all. Only what changed is sent, at most once
per report interval. Not here: believing what others tell (membership.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

from covey_mesh.core.ballot import Ballot
from covey_mesh.core.effects import Send
from covey_mesh.core.facts import Member, NodeFacts, NodeLoad
from covey_mesh.core.messages import FactsReport, LoadReport, PeerList, ViewReport
from covey_mesh.core.names import NodeId
from covey_mesh.core.peers import PeerRecord, PeerTable
from covey_mesh.core.timing import Timing, report_interval_s
from covey_mesh.core.view import is_listed, is_reachable, member_of

PEER_LIST_MAX = 128
"""Machines in one peer list, sent or believed."""

VIEW_CHUNK = 64
"""Members in one view report; a larger view goes out in several."""


class Reports:
    """This machine's own facts and load, and what is still untold."""

    def __init__(self, facts: NodeFacts, peers: PeerTable, timing: Timing) -> None:
        self.facts = facts
        self.load = NodeLoad(facts.node_id, facts.incarnation, 0)
        self._peers = peers
        self._timing = timing
        self._untold: dict[NodeId, None] = {}
        self._version = 0
        self._load_sent_at_s = self._view_sent_at_s = self._readings_at_s = float("-inf")
        self._told: NodeLoad | None = None
        self._said_again = 0

    def take_load(self, now_s: float, load: NodeLoad) -> bool:
        """This machine's load is now this. True if others should hear of it: an idle pool has nothing to say."""
        if self._said_again:
            load = replace(load, sequence=load.sequence + self._said_again)
        told = self._told
        if told is not None and load.same_work_as(told):
            unnumbered = replace(load, sequence=told.sequence)
            if unnumbered == told or now_s - self._readings_at_s < self._timing.report_readings_s:
                self.load = unnumbered
                return False
        self.load = self._told = load
        self._readings_at_s = now_s
        return True

    def say_again(self, leader: NodeId) -> None:
        """A new leader waits for everybody's word: what was told before it led is news to it, under a new number."""
        before = self.load.sequence
        if not before:
            return
        self._said_again += 1
        self.load = replace(self.load, sequence=before + 1)
        self._told = None if self._told is None else replace(self._told, sequence=self._told.sequence + 1)
        for record in self._peers:
            if record.load_told == before and record.node_id != leader:
                record.load_told = before + 1

    def load_due_s(self, now_s: float, pool_size: int) -> float:
        """When the next round of load reports may go out."""
        return max(now_s, self._load_sent_at_s + report_interval_s(pool_size, self._timing))

    def view_due_s(self, now_s: float, pool_size: int) -> float:
        """When the next round of view reports may go out."""
        return max(now_s, self._view_sent_at_s + report_interval_s(pool_size, self._timing))

    def changed(self, node_id: NodeId) -> None:
        """As leader: tell the pool about this machine next time."""
        self._untold[node_id] = None

    def begin_leading(self) -> None:
        """Nothing is untold: each machine is sent everything when it grants us."""
        self._untold = {}

    def loads(self, now_s: float, leader: NodeId | None) -> list[Send]:
        """To the leader and the links in use; to all without a leader, since each gateway may decide alone then."""
        self._load_sent_at_s = now_s
        hearers = [r for r in self._peers if r.in_use or leader is None or r.node_id == leader]
        return [send for record in hearers for send in self.load_for(record)]

    def load_for(self, record: PeerRecord) -> list[Send]:
        """Once per report and machine. Also rides on the answer to a heartbeat, so that links in use stay current."""
        if record.link is None or self.load.sequence <= record.load_told or self.load.sequence == 0:
            return []
        record.load_told = self.load.sequence
        return [Send(record.node_id, LoadReport(self.load))]

    def facts_for_all(self) -> list[Send]:
        return [Send(r.node_id, FactsReport(self.facts)) for r in self._peers if r.link is not None]

    def facts_for(self, record: PeerRecord) -> list[Send]:
        """On a new link: they may have changed since its greeting was written. Nothing if they never did."""
        return [Send(record.node_id, FactsReport(self.facts))] if self.facts.facts_version else []

    def views(self, now_s: float, ballot: Ballot) -> list[Send]:
        """What changed since the last time, to every machine with a link."""
        changed, self._untold = list(self._untold), {}
        if not changed:
            return []
        self._view_sent_at_s = now_s
        linked = [r.node_id for r in self._peers if r.link is not None]
        return [send for to in linked for send in self._view_about(changed, to, now_s, ballot)]

    def whole_view_for(self, to: NodeId, now_s: float, ballot: Ballot) -> list[Send]:
        """For a machine that has just come, or has just granted us."""
        listed = (r.node_id for r in self._peers if is_listed(r, now_s, self._timing))
        return self._view_about([self.facts.node_id, *listed], to, now_s, ballot)

    def _view_about(self, about: Iterable[NodeId], to: NodeId, now_s: float, ballot: Ballot) -> list[Send]:
        members = [m for node_id in about if node_id != to and (m := self._member(node_id, now_s)) is not None]
        self._version += 1
        chunks = [tuple(members[start : start + VIEW_CHUNK]) for start in range(0, len(members), VIEW_CHUNK)]
        return [Send(to, ViewReport(ballot, self._version, chunk)) for chunk in chunks]

    def _member(self, node_id: NodeId, now_s: float) -> Member | None:
        if node_id == self.facts.node_id:
            return Member(self.facts, self.load, True)
        record = self._peers.get(node_id)
        return member_of(record, now_s) if record is not None and record.facts is not None else None

    def peer_list_for(self, to: NodeId) -> Send:
        """The machines known to be here, as dial hints."""
        known = (r.facts for r in self._peers if r.facts is not None and r.node_id != to and is_reachable(r))
        return Send(to, PeerList(tuple(islice(known, PEER_LIST_MAX))))
