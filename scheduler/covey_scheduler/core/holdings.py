"""Who holds how many places where: the leader's own assignments counted by user and machine, batch work by machine.

Kept in step with inflight.py, which says when an assignment has ended. Not here: what follows of it (room.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from covey_mesh.core.names import NodeId
from covey_scheduler.core.inflight import RequestKey


class _Held(NamedTuple):
    model: str
    user: str
    node_id: NodeId
    batch: bool
    answer_charge: float


class _User:
    """One user's places of one model, by machine."""

    __slots__ = ("answers_charged", "places", "total")

    def __init__(self) -> None:
        self.places: dict[NodeId, int] = {}
        self.total = 0
        self.answers_charged = 0.0


NONE: Mapping[NodeId, int] = {}


class Holdings:
    """As many entries as assignments are in flight."""

    def __init__(self) -> None:
        self._by_key: dict[RequestKey, _Held] = {}
        self._users: dict[tuple[str, str], _User] = {}
        self._names: dict[str, set[str]] = {}
        self._batch: dict[str, dict[NodeId, int]] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def began(
        self, key: RequestKey, model: str, user: str, node_id: NodeId, batch: bool = False, answer_charge: float = 0.0
    ) -> None:
        """`answer_charge`: what the user is charged for an answer whose length nobody knows yet."""
        if key in self._by_key:
            self.ended(key)
        self._by_key[key] = _Held(model, user, node_id, batch, answer_charge)
        found = self._users.get((model, user))
        if found is None:
            found = self._users[model, user] = _User()
            self._names.setdefault(model, set()).add(user)
        found.total += 1
        found.answers_charged += answer_charge
        found.places[node_id] = found.places.get(node_id, 0) + 1
        if batch:
            counts = self._batch.setdefault(model, {})
            counts[node_id] = counts.get(node_id, 0) + 1

    def ended(self, key: RequestKey) -> None:
        """Safe to call for a key that holds nothing."""
        held = self._by_key.pop(key, None)
        if held is None:
            return
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

    def users_with(self, model: str, others: Iterable[str]) -> int:
        """Users that hold places or are among `others`."""
        return len(self._names.get(model, set()).union(others))

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
