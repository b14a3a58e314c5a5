"""The leader's late-binding queue: asks that no machine can start now, by model.

Order: priority class (raised by waiting), then the user with the lowest virtual counter (of equals, who holds fewer
places), then what is due first: in order of arrival, but what has a deadline overtakes what has none, by
`deadline_horizon_s` at most (the earliest deadline first, within one user). Of the first few in one lane planning.py
may start a later one first.
It is an index of what gateways hold, rebuilt by their asks after a change of leader: `waited_s` keeps the place.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from covey_mesh.core.asking import Ask
from covey_mesh.core.frozen import frozen
from covey_mesh.core.names import NodeId
from covey_scheduler.core.fairness import VirtualCounters
from covey_scheduler.core.inflight import RequestKey
from covey_scheduler.core.settings import SchedulerSettings


@frozen
class Entry:
    """One waiting ask. `since_s` counts the wait at the gateway too; `due_s` orders a lane; `number` breaks ties."""

    key: RequestKey
    ask: Ask
    since_s: float
    expires_at_s: float
    number: int
    due_s: float = 0.0

    @property
    def gateway(self) -> NodeId:
        return self.key[0]

    @property
    def lane(self) -> tuple[str, int]:
        return self.ask.user, self.ask.priority


def effective_class(priority: int, waited_s: float, ageing_s: float) -> int:
    """One class better for each `ageing_s` waited; 0 is the best."""
    return max(0, priority - int(max(0.0, waited_s) / ageing_s))


def _place(entry: Entry) -> tuple[float, int]:
    return entry.due_s, entry.number


def _arrival(entry: Entry) -> tuple[float, int]:
    return entry.since_s, entry.number


class ModelQueue:
    """The asks that wait for one model. Within a lane (user, class) by what is due first."""

    def __init__(
        self, settings: SchedulerSettings, counters: VirtualCounters, held: Callable[[str], int] = lambda user: 0
    ) -> None:
        """`held`: places that a user holds now."""
        self._settings = settings
        self._counters = counters
        self._held = held
        self._lanes: dict[tuple[str, int], list[Entry]] = {}
        self._users: Counter[str] = Counter()
        self._entries: OrderedDict[RequestKey, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: RequestKey) -> Entry | None:
        return self._entries.get(key)

    def entries(self) -> list[Entry]:
        return list(self._entries.values())

    def add(self, entry: Entry, collecting: bool = False) -> Entry | None:
        """The ask that found no room: None, or the newest of the user who holds most, which may be this one.

        While a new leader collects, users stand as its predecessor left them, in whatever order they are heard."""
        user = entry.ask.user
        if user not in self._users:
            self._counters.join(user, () if collecting else self._users, entry.ask.user_ahead_tokens)
        self._insert(entry)
        if len(self._entries) <= self._settings.queue_length_max:
            return None
        heaviest = max(self._users, key=lambda other: (self._users[other], other == user))
        newest = max((e for e in self._entries.values() if e.ask.user == heaviest), key=_arrival)
        self.remove(newest.key)
        return newest

    def users(self) -> Mapping[str, int]:
        """Who has asks here, and how many."""
        return self._users

    def ahead_of(self, entry: Entry) -> int:
        """About how many asks are started before this one: its user's own, and as many of each other user, of its class
        or a better one."""
        before = Counter[str]()
        for (user, priority), lane in self._lanes.items():
            if priority <= entry.ask.priority:
                own = (user, priority) == entry.lane
                before[user] += bisect_left(lane, _place(entry), key=_place) if own else len(lane)
        mine = before[entry.ask.user]
        return sum(min(count, mine + 1) for user, count in before.items() if user != entry.ask.user) + mine

    @property
    def one_lane(self) -> bool:
        """All asks are of one user and class."""
        return len(self._lanes) == 1

    def of_lane(self, lane: tuple[str, int], count: int) -> list[Entry]:
        """The first `count` of a lane, in order of turn."""
        return self._lanes[lane][:count]

    def first(self, now_s: float, passed_lanes: Collection[tuple[str, int]] = ()) -> Entry | None:
        """The ask whose turn it is, leaving out lanes already looked at."""
        best: tuple[tuple[int, float, int, float, int], Entry] | None = None
        for (user, priority), lane in self._lanes.items():
            if (user, priority) in passed_lanes:
                continue
            entry = lane[0]
            rank = effective_class(priority, now_s - entry.since_s, self._settings.ageing_s)
            order = (rank, self._counters.of(user), self._held(user), entry.due_s, entry.number)
            if best is None or order < best[0]:
                best = (order, entry)
        return None if best is None else best[1]

    def remove(self, key: RequestKey) -> Entry | None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        lane = self._lanes[entry.lane]
        lane.remove(entry)
        if not lane:
            del self._lanes[entry.lane]
        self._users[entry.ask.user] -= 1
        if not self._users[entry.ask.user]:
            del self._users[entry.ask.user]
        return entry

    def renew(self, entry: Entry, ask: Ask) -> Entry:
        """The same entry in its place, with what its gateway says now of machines (`ask.excluded`)."""
        fresh = replace(entry, ask=replace(entry.ask, excluded=ask.excluded))
        lane = self._lanes[entry.lane]
        lane[lane.index(entry)] = fresh
        self._entries[entry.key] = fresh
        return fresh

    def expired(self, now_s: float) -> list[Entry]:
        return [entry for entry in self._entries.values() if entry.expires_at_s <= now_s]

    def next_to_check(self, count: int) -> list[Entry]:
        """The `count` asks looked at longest ago, for the sweep of those that no machine can serve any more."""
        keys = [key for key, _ in zip(self._entries, range(count), strict=False)]
        for key in keys:
            self._entries.move_to_end(key)
        return [self._entries[key] for key in keys]

    def _insert(self, entry: Entry) -> None:
        insort(self._lanes.setdefault(entry.lane, []), entry, key=_place)
        self._users[entry.ask.user] += 1
        self._entries[entry.key] = entry
