"""What the parts of one machine's membership share: the table of peers, links, timers, who leads, and effects so far.

Not here: dialing (dials.py), links (links.py), believing others (hearing.py), and in which order (membership.py).
"""

from __future__ import annotations

from collections.abc import Callable

from covey_mesh.core.ballot import NO_BALLOT, Ballot
from covey_mesh.core.census import Census
from covey_mesh.core.effects import MemberChanged, MembershipEffect, Send
from covey_mesh.core.facts import NodeFacts
from covey_mesh.core.messages import Heartbeat
from covey_mesh.core.names import NodeId
from covey_mesh.core.peers import LinkState, PeerRecord, PeerTable
from covey_mesh.core.reports import Reports
from covey_mesh.core.timers import Timers
from covey_mesh.core.timing import Timing
from covey_mesh.core.view import ViewKeeper, is_listed


class MembershipState:
    """One machine's. `links` maps the runtime's number of each link that counts to its machine."""

    def __init__(self, facts: NodeFacts, timing: Timing, jitter: Callable[[], float]) -> None:
        self.self_id = facts.node_id
        self.timing = timing
        self.jitter = jitter
        self.peers = PeerTable(facts.node_id, timing)
        self.reports = Reports(facts, self.peers, timing)
        self.census = Census(facts.node_id, self.peers)
        self.view = ViewKeeper(facts.node_id, self.peers, timing)
        self.timers = Timers()
        self.links: dict[int, NodeId] = {}
        self.leader: NodeId | None = None
        self.ballot: Ballot = NO_BALLOT
        self.effects: list[MembershipEffect] = []

    @property
    def leading(self) -> bool:
        """True while this machine leads the pool."""
        return self.leader == self.self_id

    def wants_link(self, record: PeerRecord) -> bool:
        """Is a link to that machine worth having now?"""
        others = len(self.links) - (record.link is not None)
        return self.census.wants_link(record, self.leader, others)

    def soon(self, now_s: float, record: PeerRecord) -> None:
        """Look after that machine (its link, or the next dial) in this very step."""
        self.timers.at(("peer", record.node_id), now_s)

    def ask(self, now_s: float, record: PeerRecord, link: LinkState) -> None:
        """Find out whether the link carries both ways."""
        self.effects.append(Send(record.node_id, Heartbeat(token=link.liveness.ask(now_s))))
        self.soon(now_s, record)

    def touch(self, now_s: float, record: PeerRecord, urgent: bool = False) -> None:
        """This machine's entry changed: a new snapshot, listeners, and as leader the next report."""
        record.listed = is_listed(record, now_s, self.timing)
        self.view.changed()
        self.effects.append(MemberChanged(record.node_id))
        self.tell_pool_about(now_s, record.node_id, urgent)

    def tell_pool_about(self, now_s: float, node_id: NodeId, urgent: bool) -> None:
        """As leader, with the next report, or with one of its own."""
        if self.leading:
            self.reports.changed(node_id)
            self.timers.at("view", now_s if urgent else self.reports.view_due_s(now_s, self.census.size))
