"""All models' queues together: one bound, one index by request, fairness counters that outlive an empty queue."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial

from covey_mesh.core.asking import Ask
from covey_mesh.core.names import NodeId
from covey_scheduler.core.fairness import VirtualCounters
from covey_scheduler.core.holdings import Holdings
from covey_scheduler.core.inflight import RequestKey
from covey_scheduler.core.queue import Entry, ModelQueue
from covey_scheduler.core.settings import SchedulerSettings

NOBODY: Mapping[str, int] = {}


class Queues:
    """Empty queues are dropped, so the number of queues never exceeds the number of asks."""

    def __init__(self, settings: SchedulerSettings, holdings: Holdings | None = None) -> None:
        """`holdings`: who holds how many places now."""
        self._settings = settings
        self._holdings = Holdings() if holdings is None else holdings
        self._queues: dict[str, ModelQueue] = {}
        self.waiting: dict[RequestKey, str] = {}
        """The model of each ask that waits; changed by this class alone."""
        self._counters: OrderedDict[str, VirtualCounters] = OrderedDict()
        self._number = 0

    def __len__(self) -> int:
        return len(self.waiting)

    def lengths(self) -> dict[str, int]:
        """Asks waiting, by model; models without any are left out."""
        return {model: len(queue) for model, queue in self._queues.items()}

    def models(self) -> list[str]:
        return list(self._queues)

    def queue(self, model: str) -> ModelQueue | None:
        return self._queues.get(model)

    def counters(self, model: str) -> VirtualCounters:
        counters = self._counters.get(model)
        if counters is None:
            counters = self._counters[model] = VirtualCounters(
                self._settings.users_max, partial(self._holdings.answers_charged, model)
            )
            while len(self._counters) > self._settings.models_max:
                self._counters.popitem(last=False)
        self._counters.move_to_end(model)
        return counters

    def get(self, key: RequestKey) -> Entry | None:
        queue = self._queues.get(self.waiting.get(key, ""))
        return None if queue is None else queue.get(key)

    def add(self, gateway: NodeId, ask: Ask, now_s: float, collecting: bool = False) -> tuple[Entry, Entry | None]:
        """The new entry, and the one that found no room (None; an older ask; or the new one itself).

        `collecting`: a new leader listens, nobody is served yet.
        """
        self._number += 1
        limit_s = ask.deadline_s or self._settings.queue_wait_s_max
        since_s = now_s - ask.waited_s
        due_s = since_s + self._horizon_s(ask)
        entry = Entry((gateway, ask.request_id), ask, since_s, now_s + limit_s, self._number, due_s)
        if len(self.waiting) >= self._settings.queues_length_max:
            return entry, entry
        if ask.model not in self._queues:
            held = partial(self._holdings.of, ask.model)
            self._queues[ask.model] = ModelQueue(self._settings, self.counters(ask.model), held)
        self.waiting[entry.key] = ask.model
        evicted = self._queues[ask.model].add(entry, collecting)
        if evicted is not None:
            del self.waiting[evicted.key]
        return entry, evicted

    def passed(self, ask: Ask, tokens: float) -> None:
        """The ask found nobody waiting and started at once: no entry is made of it, its user is charged."""
        counters = self._counters.get(ask.model)
        if counters is None:
            counters = self.counters(ask.model)
        else:
            self._counters.move_to_end(ask.model)
        counters.passed(ask.user, tokens, ask.user_ahead_tokens)

    def told(self, model: str, user: str, ahead: float, answer_charge: float) -> None:
        """Who holds a place stands where the leader before said, and owes the answer to come. Nobody else is lifted by
        that: others may be heard later."""
        counters = self.counters(model)
        counters.join(user, (), ahead)
        counters.charge(user, answer_charge, last_waiting=False)

    def _horizon_s(self, ask: Ask) -> float:
        horizon_s = self._settings.deadline_horizon_s
        return min(horizon_s, ask.deadline_s / 2) if ask.deadline_s else horizon_s

    def remove(self, key: RequestKey) -> Entry | None:
        model = self.waiting.pop(key, None)
        if model is None:
            return None
        queue = self._queues[model]
        entry = queue.remove(key)
        if not len(queue):
            del self._queues[model]
        return entry

    def remove_gateway(self, gateway: NodeId) -> None:
        for key in [key for key in self.waiting if key[0] == gateway]:
            self.remove(key)

    def served(self, model: str, user: str, tokens: float) -> float:
        """Charges `user`; how far it is ahead then of the user served least among those who wait."""
        queue, counters = self._queues.get(model), self.counters(model)
        return counters.served(user, tokens, () if queue is None else queue.users())

    def users(self, model: str) -> Mapping[str, int]:
        """Who has asks waiting for this model, and how many."""
        queue = self._queues.get(model)
        return NOBODY if queue is None else queue.users()

    def worked(self, model: str, user: str, tokens: float) -> None:
        """Service that `user` was given without an ask, which would have lifted it to the others."""
        counters, waiting = self.counters(model), self.users(model)
        if user not in waiting:
            counters.join(user, waiting)
        counters.charge(user, tokens, last_waiting=not waiting)

    def charge(self, model: str, user: str, tokens: float) -> None:
        """Service given to `user`; negative to correct an earlier charge."""
        self.counters(model).charge(user, tokens, last_waiting=model not in self._queues)

    def clear(self) -> None:
        self._queues.clear()
        self.waiting.clear()
        self._counters.clear()
