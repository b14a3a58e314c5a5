"""This gateway's own fair queue, for the time without a leader: who waits when every machine is full, and whose turn.

Without it each request would try every machine again and again by itself: a thousand of one user's before one of
another's. So when a request was refused everywhere, those of its model stand in line by the leader's own rules
(covey_scheduler.core.queue: class, then the user served least, then age), and only the first tries: when one of this
gateway's own attempts has ended, or when the line opens again after a pause.

Not here: what a called request does (request_placing.py), timers (io/runner.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from covey_mesh.core.asking import Ask
from covey_mesh.core.facts import PoolView
from covey_mesh.core.names import NodeId
from covey_scheduler.core.fairness import VirtualCounters
from covey_scheduler.core.queue import Entry, ModelQueue
from covey_scheduler.core.settings import SchedulerSettings

CALL_EVERY_S = 0.01
"""Between two calls while nobody is refused: a hundred requests a second find out at once what is free."""

CLOSED_S = 0.25
"""After a refusal by all machines, unless an attempt of this gateway ends before."""

FULL_REASONS = ("resource_exhausted", "draining")
"""Begin the reason for which a request leaves out a machine that had no room (FailureCode)."""


HEADROOM = 0.125
"""Share of a machine's places that one gateway leaves to others while it decides alone."""


def alone_full(view: PoolView, model: str, own_in_flight: Mapping[NodeId, int]) -> dict[NodeId, str]:
    """Machines that have as many of this gateway's own requests as one gateway should give them without a leader: all
    their places but some for others. Views may be old; what this gateway itself has opened is certain."""
    full: dict[NodeId, str] = {}
    for node_id, count in own_in_flight.items():
        member = view.members.get(node_id)
        load = None if member is None else member.load.model(model)
        limit = 0 if load is None else load.running_limit
        if 0 < limit <= count or (limit > 0 and count >= limit - int(limit * HEADROOM)):
            full[node_id] = f"{FULL_REASONS[0]}: {count} of this gateway's own requests are there"
    return full


@dataclass(slots=True)
class _Line:
    queue: ModelQueue
    counters: VirtualCounters
    opens_at_s: float = 0.0
    place_freed: bool = False


class WaitingLines:
    """One line a model; holds at most `length_max` requests, as many as the gateway may hold."""

    def __init__(self, self_id: NodeId, length_max: int, settings: SchedulerSettings | None = None) -> None:
        self._self_id = self_id
        self._settings = replace(settings or SchedulerSettings(), queue_length_max=length_max)
        self._lines: dict[str, _Line] = {}
        self._models: dict[str, str] = {}
        self._called: dict[str, float] = {}
        """Where each called request's user stood before: there again, if it finds no room."""
        self._number = 0

    def __len__(self) -> int:
        return len(self._models)

    def must_wait(self, ask: Ask, now_s: float) -> bool:
        """True if others' turn comes first, or the line is closed: the request stands in line now. Who was called may
        try one machine after the other."""
        if ask.request_id in self._called:
            return False
        line = self._lines.get(ask.model)
        if line is None or (not len(line.queue) and now_s >= line.opens_at_s):
            self._lines.pop(ask.model, None)
            return False
        self._stand(line, ask, now_s)
        return True

    def nobody_has_room(self, ask: Ask, now_s: float, pause_s: float = CLOSED_S) -> bool:
        """False if not room is what is wanting. Else the request stands in line, and the line is closed for a while."""
        if not any(reason.startswith(FULL_REASONS) for reason in ask.excluded.values()):
            return False
        counters = VirtualCounters(self._settings.users_max)
        line = self._lines.setdefault(ask.model, _Line(ModelQueue(self._settings, counters), counters))
        line.opens_at_s = max(line.opens_at_s, now_s + pause_s)
        self._stand(line, ask, now_s)
        return True

    def place_freed(self, model: str, now_s: float) -> None:
        """An attempt of this gateway has ended: its place may be had."""
        line = self._lines.get(model)
        if line is not None:
            line.opens_at_s = min(line.opens_at_s, now_s)
            line.place_freed = True

    def call(self, now_s: float) -> list[tuple[str, bool]]:
        """The requests whose turn it is, at most one a model, and whether a place has freed since the last call; each
        is out of the line."""
        called = []
        for line in list(self._lines.values()):
            entry = line.queue.first(now_s, set()) if now_s >= line.opens_at_s else None
            if entry is None:
                continue
            ask = entry.ask
            self.left(ask.request_id)
            tokens = ask.prompt_tokens + self._settings.output_token_weight * self._expected(ask)
            before = line.counters.of(ask.user)
            line.counters.charge(ask.user, tokens, last_waiting=not len(line.queue))
            line.opens_at_s = now_s + CALL_EVERY_S
            self._called[ask.request_id] = before
            called.append((ask.request_id, line.place_freed))
            line.place_freed = False
        return called

    def left(self, request_id: str) -> None:
        """It has ended, or asks a leader. Safe to call for one that is not in line."""
        self._called.pop(request_id, None)
        model = self._models.pop(request_id, None)
        if model is not None:
            self._lines[model].queue.remove((self._self_id, request_id))

    @property
    def wake_at_s(self) -> float | None:
        """When to `call` next; None while nobody waits."""
        return min((line.opens_at_s for line in self._lines.values() if len(line.queue)), default=None)

    def _stand(self, line: _Line, ask: Ask, now_s: float) -> None:
        before = self._called.pop(ask.request_id, None)
        if ask.request_id in self._models:
            return
        self._number += 1
        since_s = now_s - ask.waited_s
        entry = Entry((self._self_id, ask.request_id), ask, since_s, float("inf"), self._number, since_s)
        self._models[ask.request_id] = ask.model
        evicted = line.queue.add(entry)
        if before is not None:
            line.counters.charge(ask.user, before - line.counters.of(ask.user), last_waiting=False)
        if evicted is not None:
            self._models.pop(evicted.ask.request_id, None)

    def _expected(self, ask: Ask) -> int:
        return min(
            ask.max_output_tokens or self._settings.expected_output_tokens, self._settings.expected_output_tokens
        )
