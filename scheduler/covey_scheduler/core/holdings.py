"""Who holds how many places now: the leader's own assignments counted by user, and batch work by machine.

Kept in step with inflight.py, which says when an assignment has ended. Not here: what follows of it (room.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

from covey_mesh.core.names import NodeId
from covey_scheduler.core.inflight import RequestKey


class _Held(NamedTuple):
    model: str
    user: str
    node_id: NodeId
    batch: bool
    answer_charge: float


_Key = TypeVar("_Key", str, NodeId)
NONE: Mapping[NodeId, int] = {}


class Holdings:
    """As many entries as assignments are in flight."""

    def __init__(self) -> None:
        self._by_key: dict[RequestKey, _Held] = {}
        self._users: dict[str, Counter[str]] = {}
        self._batch: dict[str, Counter[NodeId]] = {}
        self._answers: dict[str, dict[str, float]] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def began(
        self, key: RequestKey, model: str, user: str, node_id: NodeId, batch: bool = False, answer_charge: float = 0.0
    ) -> None:
        """`answer_charge`: what the user is charged for an answer whose length nobody knows yet."""
        self.ended(key)
        self._by_key[key] = _Held(model, user, node_id, batch, answer_charge)
        users = self._users.get(model)
        if users is None:
            users = self._users[model] = Counter()
        users[user] += 1
        answers = self._answers.setdefault(model, {})
        answers[user] = answers.get(user, 0.0) + answer_charge
        if batch:
            self._batch.setdefault(model, Counter())[node_id] += 1

    def ended(self, key: RequestKey) -> None:
        """Safe to call for a key that holds nothing."""
        held = self._by_key.pop(key, None)
        if held is None:
            return
        self._take_answer(held)
        _take_one(self._users, held.model, held.user)
        if held.batch:
            _take_one(self._batch, held.model, held.node_id)

    def of(self, model: str, user: str) -> int:
        users = self._users.get(model)
        return 0 if users is None else users[user]

    def answers_charged(self, model: str, user: str) -> float:
        """Weighted tokens charged for this user's answers that have not ended: an expectation, not yet service."""
        return self._answers.get(model, {}).get(user, 0.0)

    def users_with(self, model: str, others: Iterable[str]) -> int:
        """Users that hold places or are among `others`."""
        return len({*self._users.get(model, ()), *others})

    def batch(self, model: str) -> Mapping[NodeId, int]:
        """A copy."""
        counts = self._batch.get(model)
        return NONE if counts is None else dict(counts)

    def _take_answer(self, held: _Held) -> None:
        """With the user's last place the sum is forgotten, and with it what rounding has left."""
        if self._users[held.model][held.user] > 1:
            self._answers[held.model][held.user] -= held.answer_charge
            return
        del self._answers[held.model][held.user]
        if not self._answers[held.model]:
            del self._answers[held.model]


def _take_one(table: dict[str, Counter[_Key]], model: str, key: _Key) -> None:
    counts = table[model]
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
    if not counts:
        del table[model]
