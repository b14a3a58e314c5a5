"""Who holds how many places where: the leader's own assignments counted by user and machine, batch work by machine.

Kept in step with inflight.py, which says when an assignment has ended. Not here: what follows of it (room.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from covey_mesh.core.names import NodeId
from covey_scheduler.core.inflight import Reservation


class _User:
    """One user's places of one model, by machine."""

    __slots__ = ("answers_charged", "places", "total")

    def __init__(self) -> None:
        self.places: dict[NodeId, int] = {}
        self.total = 0
        self.answers_charged = 0.0


NONE: Mapping[NodeId, int] = {}
NOBODY: frozenset[str] = frozenset()


class Holdings:
    """As many entries as assignments are in flight."""

    def __init__(self) -> None:
        self._count = 0
        self._users: dict[tuple[str, str], _User] = {}
        self._names: dict[str, set[str]] = {}
        self._batch: dict[str, dict[NodeId, int]] = {}

    def __len__(self) -> int:
        return self._count

    def began(self, held: Reservation) -> int:
        """Each one ends once. Returns how many the user holds with it."""
        self._count += 1
        node_id, who = held.node_id, (held.model, held.user)
        user = self._users.get(who)
        if user is None:
            user = self._users[who] = _User()
            self._names.setdefault(held.model, set()).add(held.user)
        user.total += 1
        user.answers_charged += held.answer_charge
        user.places[node_id] = user.places.get(node_id, 0) + 1
        if held.batch:
            counts = self._batch.setdefault(held.model, {})
            counts[node_id] = counts.get(node_id, 0) + 1
        return user.total

    def ended(self, held: Reservation) -> None:
        self._count -= 1
        user = self._users[held.model, held.user]
        user.total -= 1
        user.answers_charged -= held.answer_charge
        _take_one(user.places, held.node_id)
        if not user.total:
            del self._users[held.model, held.user]
            self._names[held.model].discard(held.user)
            if not self._names[held.model]:
                del self._names[held.model]
        if held.batch:
            _take_one(self._batch[held.model], held.node_id)
            if not self._batch[held.model]:
                del self._batch[held.model]

    def of(self, model: str, user: str) -> int:
        found = self._users.get((model, user))
        return 0 if found is None else found.total

    def by_machine(self, model: str, user: str) -> Mapping[NodeId, int]:
        """A copy."""
        found = self._users.get((model, user))
        return NONE if found is None else found.places.copy()

    def answers_charged(self, model: str, user: str) -> float:
        """Weighted tokens charged for this user's answers that have not ended: an expectation, not yet service."""
        found = self._users.get((model, user))
        return 0.0 if found is None else found.answers_charged

    def users_with(self, model: str, user: str, waiting: Collection[str]) -> int:
        """`user` and all others that hold places or are waiting."""
        names = self._names.get(model, NOBODY)
        if waiting:
            return len(names.union(waiting, (user,)))
        return len(names) if user in names else len(names) + 1

    def batch(self, model: str) -> Mapping[NodeId, int]:
        """Places with batch work, by machine; a copy."""
        counts = self._batch.get(model)
        return NONE if counts is None else counts.copy()


def _take_one(counts: dict[NodeId, int], node_id: NodeId) -> None:
    left = counts[node_id] - 1
    if left:
        counts[node_id] = left
    else:
        del counts[node_id]
