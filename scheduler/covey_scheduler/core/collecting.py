"""A new leader listens before it assigns: until every machine has reported since, or for `collect_s` at most.

Not here: what it does with what it hears (scheduler.py).
"""

from __future__ import annotations

from covey_mesh.core.facts import PoolView
from covey_mesh.core.names import NodeId


class Collecting:
    """Who has not been heard yet, and until when they are waited for."""

    def __init__(self, collect_s: float) -> None:
        self._collect_s = collect_s
        self._unheard: dict[NodeId, tuple[int, int]] = {}
        self.until_s: float | None = None
        """None: no listening goes on."""

    def begin(self, now_s: float, view: PoolView, self_id: NodeId) -> None:
        """This machine became leader: all others that it can reach are to be heard."""
        self._unheard = {
            member.node_id: (member.load.incarnation, member.load.sequence)
            for member in view.members.values()
            if member.reachable and member.node_id != self_id
        }
        if self._unheard:
            self.until_s = now_s + self._collect_s

    def end(self) -> None:
        self.until_s = None
        self._unheard.clear()

    def goes_on(self, now_s: float, view: PoolView) -> bool:
        """Ends here when everybody was heard, or the time is over."""
        if self.until_s is None:
            return False
        for node_id, before in list(self._unheard.items()):
            member = view.members.get(node_id)
            heard = member is not None and (member.load.incarnation, member.load.sequence) != before
            if member is None or not member.reachable or heard:
                del self._unheard[node_id]
        if self._unheard and now_s < self.until_s:
            return True
        self.until_s = None
        return False
