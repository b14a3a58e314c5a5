"""The table of machines: what is known of each, from whom, and which link to it counts.

Not here: when to dial or ask (dialing.py, liveness.py, membership.py), what the rest of covey sees (view.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from covey_mesh.core.dialing import PROVEN, Target
from covey_mesh.core.facts import NodeFacts, NodeLoad
from covey_mesh.core.limits import PEERS_MAX
from covey_mesh.core.liveness import LinkLiveness
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import LinkLoss
from covey_mesh.core.timing import Timing

NEVER_SEEN = float("-inf")


@dataclass(slots=True)
class LinkState:
    """The link to a machine that counts. `number` is the runtime's."""

    number: int
    incarnation: int
    dialed: bool
    address: str
    up_at_s: float
    liveness: LinkLiveness
    fresh: bool = True
    heard_batches: int = 0
    heard_before_sweep: int = 0
    quiet_sweeps: int = 0

    def quiet(self, batches_max: int) -> int:
        """Call once a sweep: how many sweeps in a row so little was heard that nobody can be using the link."""
        heard = self.heard_batches - self.heard_before_sweep
        self.heard_before_sweep = self.heard_batches
        self.quiet_sweeps = self.quiet_sweeps + 1 if heard <= batches_max else 0
        return self.quiet_sweeps


@dataclass(frozen=True, slots=True)
class LeaderWord:
    """What the leader last said of a machine: `as_of_s` is the moment that it knows about, by our clock."""

    reachable: bool
    as_of_s: float


@dataclass(slots=True)
class PeerRecord:
    """One other machine. `facts` are proven: its own Hello, or the word of the leader that we granted."""

    node_id: NodeId
    target: Target
    hinted_at_s: float
    facts: NodeFacts | None = None
    load: NodeLoad | None = None
    load_told: int = -1
    link: LinkState | None = None
    seen_at_s: float = NEVER_SEEN
    lost: LinkLoss | None = None
    lost_at_s: float = NEVER_SEEN
    lost_host: str = ""
    reported: LeaderWord | None = None
    in_use: bool = False
    listed: bool = field(default=False)

    def learn_addresses(self, facts: NodeFacts) -> None:
        """Only the machine's own Hello, and the address that worked, are proof; the rest stays behind them."""
        self.target.learn(facts.link_addresses, PROVEN)

    @property
    def disposable(self) -> bool:
        return self.link is None and not self.target.pinned and not self.in_use


class PeerTable:
    """At most PEERS_MAX machines, this one not among them."""

    def __init__(self, self_id: NodeId, timing: Timing) -> None:
        self._self_id = self_id
        self._timing = timing
        self._records: dict[NodeId, PeerRecord] = {}

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[PeerRecord]:
        return iter(self._records.values())

    def get(self, node_id: NodeId) -> PeerRecord | None:
        return self._records.get(node_id)

    def meet(self, node_id: NodeId, now_s: float) -> PeerRecord | None:
        """The record of a machine, made if new. None for oneself, or where only machines in use could make room."""
        if node_id == self._self_id:
            return None
        record = self._records.get(node_id)
        if record is None and (len(self._records) < PEERS_MAX or self._make_room()):
            record = self._records[node_id] = PeerRecord(node_id, Target(), now_s)
        return record

    def _make_room(self) -> bool:
        """Forget the machine unseen for longest; hints that were never proven go first."""
        disposable = [record for record in self._records.values() if record.disposable]
        if not disposable:
            return False
        victim = min(disposable, key=lambda record: (record.seen_at_s, record.hinted_at_s))
        del self._records[victim.node_id]
        return True

    def forget_old(self, now_s: float) -> None:
        """Drop what was not seen or renewed for too long."""
        for record in [record for record in self._records.values() if self._is_old(record, now_s)]:
            del self._records[record.node_id]

    def _is_old(self, record: PeerRecord, now_s: float) -> bool:
        if not record.disposable:
            return False
        if record.facts is None:
            return now_s - record.hinted_at_s > self._timing.remember_unproven_s
        last_sign_s = max(record.seen_at_s, record.hinted_at_s)
        return now_s - last_sign_s > self._timing.remember_s


def replaces(self_id: NodeId, peer: NodeId, held: LinkState, new: LinkState, now_s: float, timing: Timing) -> bool:
    """Of two links to one machine, does the new one count from now on? Both sides come to the same answer.

    A machine dials only when it knows of no link, so a later link means that it lost the earlier one. Only two dials
    at the same moment, one from each side, are a tie: the link that the lower id dialed stays.
    """
    if new.incarnation != held.incarnation or new.dialed == held.dialed:
        return True
    if now_s - held.up_at_s > timing.simultaneous_s or not held.liveness.fresh(now_s):
        return True
    return new.dialed == (self_id < peer)
