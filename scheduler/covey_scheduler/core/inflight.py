"""What the leader assigned and no load report shows yet, and which machines have just failed.

Without the first, fifty asks in one instant would all go to the machine that looked best before them; without the
second, a machine that fails fast would look idle and attract everything.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

from covey_mesh.core.facts import PoolView
from covey_mesh.core.names import NodeId
from covey_scheduler.core.settings import SchedulerSettings

RequestKey = tuple[NodeId, str]
"""(gateway, request id): what an ask is known by; a gateway cannot touch another one's."""

FAILURES_COUNTED_MAX = 8
NODES_REMEMBERED_MAX = 4096


@dataclass(frozen=True, slots=True)
class Reservation:
    """One assignment. `tokens`: prompt not cached plus output expected."""

    key: RequestKey
    attempt: int
    node_id: NodeId
    model: str
    tokens: int
    made_at_s: float


class Inflight:
    """Reservations end with the attempt's report, a load report that must include them, or their time."""

    def __init__(self, settings: SchedulerSettings) -> None:
        self._settings = settings
        self._by_key: OrderedDict[RequestKey, Reservation] = OrderedDict()
        self._totals: dict[tuple[NodeId, str], tuple[int, int]] = {}
        self._last_report: dict[NodeId, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def reserve(self, reservation: Reservation) -> None:
        """Replaces an earlier attempt's. At the bound the oldest goes: it is the likeliest to be reported already."""
        self.release(reservation.key)
        self._by_key[reservation.key] = reservation
        self._count(reservation, 1)
        while len(self._by_key) > self._settings.reservations_max:
            self.release(next(iter(self._by_key)))

    def release(self, key: RequestKey) -> None:
        """Safe to call for a key that has none."""
        reservation = self._by_key.pop(key, None)
        if reservation is not None:
            self._count(reservation, -1)

    def release_gateway(self, gateway: NodeId) -> None:
        """Its requests ended with it."""
        for key in [key for key in self._by_key if key[0] == gateway]:
            self.release(key)

    def reserved(self, node_id: NodeId, model: str) -> tuple[int, int]:
        """(requests, tokens) not yet in the machine's report."""
        return self._totals.get((node_id, model), (0, 0))

    def expire(self, now_s: float) -> None:
        """All live equally long, so the oldest is always first."""
        while self._by_key:
            key, reservation = next(iter(self._by_key.items()))
            if now_s - reservation.made_at_s < self._settings.reservation_s:
                return
            self.release(key)

    def observe(self, view: PoolView, now_s: float) -> None:
        """A machine's new report includes what was assigned `settle_s` before it; a lost machine holds nothing."""
        fresh: set[NodeId] = set()
        for node_id in {reservation.node_id for reservation in self._by_key.values()}:
            member = view.members.get(node_id)
            report = None if member is None else (member.load.incarnation, member.load.sequence)
            if report is None or report != self._last_report.get(node_id, report):
                fresh.add(node_id)
            if report is not None:
                self._last_report[node_id] = report
        if not fresh:
            return
        for key, reservation in list(self._by_key.items()):
            settled = now_s - reservation.made_at_s >= self._settings.settle_s
            if reservation.node_id in fresh and (settled or reservation.node_id not in view.members):
                self.release(key)

    def note_report(self, node_id: NodeId, report: tuple[int, int]) -> None:
        """The (incarnation, sequence) that an assignment was made on."""
        self._last_report[node_id] = report

    def clear(self) -> None:
        self._by_key.clear()
        self._totals.clear()
        self._last_report.clear()

    def _count(self, reservation: Reservation, sign: int) -> None:
        place = (reservation.node_id, reservation.model)
        requests, tokens = self._totals.get(place, (0, 0))
        requests, tokens = requests + sign, tokens + sign * reservation.tokens
        if requests:
            self._totals[place] = (requests, tokens)
            return
        del self._totals[place]
        if not any(node_id == reservation.node_id for node_id, _ in self._totals):
            self._last_report.pop(reservation.node_id, None)


class RecentFailures:
    """Counts a machine's failed attempts at a model within a window; a success forgets them."""

    def __init__(self, memory_s: float) -> None:
        self._memory_s = memory_s
        self._times: OrderedDict[tuple[NodeId, str], deque[float]] = OrderedDict()

    def failed(self, node_id: NodeId, model: str, now_s: float) -> None:
        times = self._times.setdefault((node_id, model), deque(maxlen=FAILURES_COUNTED_MAX))
        times.append(now_s)
        self._times.move_to_end((node_id, model))
        while len(self._times) > NODES_REMEMBERED_MAX:
            self._times.popitem(last=False)

    def succeeded(self, node_id: NodeId, model: str) -> None:
        self._times.pop((node_id, model), None)

    def count(self, node_id: NodeId, model: str, now_s: float) -> int:
        times = self._times.get((node_id, model))
        if times is None:
            return 0
        while times and now_s - times[0] >= self._memory_s:
            times.popleft()
        if not times:
            del self._times[node_id, model]
        return len(times)
