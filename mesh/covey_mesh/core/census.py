"""How many machines are here, and which of them are worth a link.

Small pools keep an idle link between every pair. In large ones everybody has links to the leader, to a few deputies
(the lowest ids, so that all pick the same; the next leader comes from among them) and those in use: an idle pool of
1,000 machines stays idle. Not here: dialing and closing (membership.py).
"""

from __future__ import annotations

import heapq

from covey_mesh.core.names import NodeId
from covey_mesh.core.peers import PeerRecord, PeerTable
from covey_mesh.core.view import is_reachable

FULL_MESH_MAX = 32
"""Machines up to which every pair keeps an idle link."""

QUIET_BATCHES_MAX = 8
"""Batches in one sweep below which a link carries only idle heartbeats (one in use asks four times a second)."""

QUIET_SWEEPS = 3
"""Sweeps after which a quiet link that its dialer does not want is let go."""

DEPUTIES = 3
"""Machines of a large pool that everybody has a link to, besides the leader; also the first links of a newcomer."""


class Census:
    """Counted anew whenever who is here may have changed."""

    def __init__(self, self_id: NodeId, peers: PeerTable) -> None:
        self._self_id = self_id
        self._peers = peers
        self._stale = False
        self.size = 1
        self.deputies: frozenset[NodeId] = frozenset()

    def stale(self) -> None:
        """A machine came, went, or failed to answer."""
        self._stale = True

    @property
    def is_deputy(self) -> bool:
        """In a small pool everybody is."""
        return self.size <= FULL_MESH_MAX or self._self_id in self.deputies

    def take(self) -> list[NodeId] | None:
        """Count if stale: the deputies that were none before; None if the deputies did not change."""
        if not self._stale:
            return None
        self._stale = False
        here = [r.node_id for r in self._peers if r.link is not None or is_reachable(r) or r.target.failures == 0]
        self.size = len(here) + 1
        deputies = frozenset(heapq.nsmallest(DEPUTIES, [*here, self._self_id]))
        if deputies == self.deputies:
            return None
        was, self.deputies = self.deputies, deputies
        return sorted(deputies - was)

    def wants_link(self, record: PeerRecord, leader: NodeId | None, links: int) -> bool:
        """`links`: how many this machine has now."""
        if self.size <= FULL_MESH_MAX or leader == self._self_id or record.in_use or record.target.pinned:
            return True
        if record.node_id == leader or record.node_id in self.deputies or self._self_id in self.deputies:
            return True
        return links < DEPUTIES
