"""What the leader knows of its own assignments beyond the machines' reports, and which machines have just failed.

A report is a moment old. Without the first, fifty asks in one instant would all go to the machine that looked best
before them; without the second, a machine that fails fast would look idle and attract everything.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from covey_mesh.core.facts import ModelLoad, PoolView
from covey_mesh.core.marks import mark_of
from covey_mesh.core.names import NodeId
from covey_scheduler.core.settings import SchedulerSettings
from covey_scheduler.core.unfinished import left

RequestKey = tuple[NodeId, str]
"""(gateway, request id): what an ask is known by; a gateway cannot touch another one's."""

NEVER = float("inf")

FAILURES_COUNTED_MAX = 8
NODES_REMEMBERED_MAX = 4096


@dataclass(slots=True)
class Reservation:
    """One assignment. `tokens`: the whole prompt plus output expected, as the node reserves them; `prompt_s`: seconds
    the machine needs for what of the prompt it has not cached, `prompt_tokens`;
    `prompts_upto_s`: of all prompts ever assigned there, this one included (set when reserved);
    `whole_prompt_tokens`: the cached ones too (0: unknown); `answer_charge`: what the user is charged for an answer
    whose length nobody knows yet."""

    key: RequestKey
    attempt: int
    node_id: NodeId
    model: str
    tokens: int
    made_at_s: float
    prompt_tokens: int = 0
    prompt_s: float = 0.0
    prompts_upto_s: float = 0.0
    whole_prompt_tokens: int = 0
    user: str = ""
    batch: bool = False
    answer_charge: float = 0.0
    known_mark: int = -1

    @property
    def mark(self) -> int:
        """As a report names it; worked out when the first report is looked at."""
        if self.known_mark < 0:
            self.known_mark = mark_of(self.key[1], self.attempt)
        return self.known_mark


@dataclass(slots=True)
class Extra:
    """To add to a machine's report. `prompts_done_at_s`: when the prompts given to it will have been
    computed; `counted`: requests of the report that are ours; `last_prompt_s`: of the prompt given last."""

    requests: int = 0
    tokens: int = 0
    prompts_done_at_s: float = 0.0
    counted: int = 0
    last_prompt_s: float = 0.0


NOTHING = Extra()


@dataclass(slots=True)
class _Place:
    """Assignments to one model on one machine: those no report includes yet, and those the last report included.

    With S of ours and `admitted` in that report, max(0, admitted - S) requests are others'; of ours it counts at most
    `counted`. When of ours fewer than `counted` are left, some have ended since the report.
    """

    unreported: dict[RequestKey, Reservation] = field(default_factory=dict)
    reported: dict[RequestKey, Reservation] = field(default_factory=dict)
    counted: int = 0
    ended_tokens: int = 0
    unreported_tokens: int = 0
    prompts_done_at_s: float = 0.0
    prompts_given_s: float = 0.0
    last_prompt_s: float = 0.0
    report: tuple[int, int] | None = None

    def extra(self) -> Extra:
        requests, tokens, ended = len(self.unreported), self.unreported_tokens, self.counted - len(self.reported)
        if ended > 0:
            requests -= ended
            tokens -= self.ended_tokens
        return Extra(requests, tokens, self.prompts_done_at_s, self.counted, self.last_prompt_s)


class Inflight:
    """Reservations end with the attempt's report, with their machine, or, if no load report shows them, in time.
    `ended` is called for each that does."""

    def __init__(self, settings: SchedulerSettings, ended: Callable[[Reservation], None] = lambda held: None) -> None:
        self._settings = settings
        self._ended = ended
        self.by_key: OrderedDict[RequestKey, Reservation] = OrderedDict()
        """Changed by this class alone."""
        self._places: dict[NodeId, dict[str, _Place]] = {}
        self._unreported: OrderedDict[RequestKey, Reservation] = OrderedDict()
        self.look_at_s = NEVER
        """Nothing expires before."""
        self.changed: dict[str, set[NodeId]] = {}
        """Machines whose extra() has changed, by model; who keeps copies takes them out."""

    def __len__(self) -> int:
        return len(self.by_key)

    def reserve(self, reservation: Reservation, report: tuple[int, int]) -> None:
        """Replaces an earlier attempt's. At the bound the oldest goes: it is the likeliest to have ended.

        `report`: (incarnation, sequence) of the load that the assignment was made on.
        """
        key, made_at_s, prompt_s = reservation.key, reservation.made_at_s, reservation.prompt_s
        if key in self.by_key:
            self.release(key)
        node_id, model = reservation.node_id, reservation.model
        places = self._places.get(node_id)
        place = None if places is None else places.get(model)
        if place is None:
            place = self._place(node_id, model)
        place.report = report
        done_at_s = place.prompts_done_at_s
        place.prompts_done_at_s = (done_at_s if done_at_s > made_at_s else made_at_s) + prompt_s
        place.prompts_given_s += prompt_s
        place.last_prompt_s = prompt_s
        reservation.prompts_upto_s = place.prompts_given_s
        place.unreported_tokens += reservation.tokens
        place.unreported[key] = self.by_key[key] = self._unreported[key] = reservation
        expires_at_s = made_at_s + self._settings.reservation_s
        if expires_at_s < self.look_at_s:
            self.look_at_s = expires_at_s
        changed = self.changed.get(model)
        if changed is None:
            self.changed[model] = {node_id}
        else:
            changed.add(node_id)
        if len(self.by_key) > self._settings.reservations_max:
            self._keep_bound()

    def runs_already(self, reservation: Reservation, report: tuple[int, int], load: ModelLoad) -> None:
        """An assignment of others: in the machine's report, unless that says otherwise. When its prompt will be
        computed is left to the next report."""
        key = reservation.key
        self.release(key)
        place = self._place(reservation.node_id, reservation.model)
        place.report = place.report or report
        reservation.prompts_upto_s = place.prompts_given_s
        self.by_key[key] = reservation
        if load.marks is None or reservation.mark in load.marks:
            place.reported[key] = reservation
            place.counted = min(len(place.reported), max(0, load.running_requests + load.waiting_requests))
        else:
            place.unreported[key] = self._unreported[key] = reservation
            place.unreported_tokens += reservation.tokens
            self.look_at_s = min(self.look_at_s, reservation.made_at_s + self._settings.reservation_s)
        self._changed(reservation.node_id, reservation.model)
        self._keep_bound()

    def _keep_bound(self) -> None:
        while len(self.by_key) > self._settings.reservations_max:
            self.release(next(iter(self.by_key)))

    def release(self, key: RequestKey, unserved: bool = False, served_at_s: float | None = None) -> None:
        """Safe to call for a key that has none. `unserved`: its prompt will never be computed. Else, engines compute
        prompts in order of arrival: when one has been answered, only those assigned after it can be left."""
        reservation = self.by_key.pop(key, None)
        if reservation is None:
            return
        self._ended(reservation)
        place = self._places[reservation.node_id][reservation.model]
        if self._unreported.pop(key, None) is not None:
            del place.unreported[key]
            place.unreported_tokens -= reservation.tokens
        else:
            del place.reported[key]
            place.ended_tokens += reservation.tokens
        if unserved:
            place.prompts_done_at_s -= reservation.prompt_s
        elif served_at_s is not None:
            left_s = place.prompts_given_s - reservation.prompts_upto_s
            place.prompts_done_at_s = min(place.prompts_done_at_s, served_at_s + left_s)
        self._changed(reservation.node_id, reservation.model)

    def release_gateway(self, gateway: NodeId) -> None:
        """Its requests ended with it."""
        for key in [key for key in self.by_key if key[0] == gateway]:
            self.release(key, unserved=True)

    def extra(self, node_id: NodeId, model: str) -> Extra:
        """What to add to the machine's report."""
        places = self._places.get(node_id)
        place = None if places is None else places.get(model)
        return NOTHING if place is None else place.extra()

    def expire(self, now_s: float) -> None:
        """Unreported ones only, which all live equally long: the oldest is always first."""
        while self._unreported:
            key, reservation = next(iter(self._unreported.items()))
            if now_s - reservation.made_at_s < self._settings.reservation_s:
                self.look_at_s = reservation.made_at_s + self._settings.reservation_s
                return
            self.release(key, unserved=True)
        self.look_at_s = NEVER

    def observe(self, view: PoolView, now_s: float) -> None:
        """A machine's new report includes what was assigned `settle_s` before it; a lost machine holds nothing."""
        for node_id in list(self._places):
            member = view.members.get(node_id)
            places = self._places[node_id]
            if member is None:
                self._forget(node_id)
                continue
            report = (member.load.incarnation, member.load.sequence)
            for model, place in list(places.items()):
                if place.report is not None and place.report[0] != report[0]:
                    self._forget_place(node_id, model)
                elif place.report is not None and place.report != report:
                    self._take_report(place, member.load.model(model), now_s)
                    self._changed(node_id, model)
                    if not place.unreported and not place.reported and place.prompts_done_at_s <= now_s:
                        self._forget_place(node_id, model)
                place.report = report
            if not places:
                del self._places[node_id]

    def clear(self) -> None:
        for node_id in list(self._places):
            self._forget(node_id)

    def _place(self, node_id: NodeId, model: str) -> _Place:
        places = self._places.setdefault(node_id, {})
        place = places.get(model)
        if place is None:
            place = places[model] = _Place()
        return place

    def _changed(self, node_id: NodeId, model: str) -> None:
        changed = self.changed.get(model)
        if changed is None:
            self.changed[model] = {node_id}
        else:
            changed.add(node_id)

    def _take_report(self, place: _Place, load: ModelLoad | None, now_s: float) -> None:
        for reservation in self._arrived(place, load, now_s):
            del place.unreported[reservation.key], self._unreported[reservation.key]
            place.unreported_tokens -= reservation.tokens
            place.reported[reservation.key] = reservation
        place.ended_tokens = 0
        admitted = 0 if load is None else load.running_requests + load.waiting_requests
        if admitted <= 0:
            self._end_reported(place, list(place.reported))
        elif load is not None and load.marks is not None:
            self._end_reported(place, [key for key, r in place.reported.items() if r.mark not in load.marks])
        place.counted = min(len(place.reported), max(0, admitted))
        if load is not None:
            self._correct_prompts(place, load, now_s)

    def _arrived(self, place: _Place, load: ModelLoad | None, now_s: float) -> list[Reservation]:
        """Those of our assignments that this report includes and none did before: the machine names them, or, where it
        does not, they are taken to have arrived `settle_s` after they were made."""
        unreported = place.unreported.values()
        if load is None or load.marks is None:
            return [r for r in unreported if now_s - r.made_at_s >= self._settings.settle_s]
        return [r for r in unreported if r.mark in load.marks]

    def _end_reported(self, place: _Place, keys: Sequence[RequestKey]) -> None:
        """The machine has them no longer: a gateway's report of their end was lost, or is on its way."""
        for key in keys:
            del self.by_key[key]
            self._ended(place.reported.pop(key))

    def _correct_prompts(self, place: _Place, load: ModelLoad, now_s: float) -> None:
        """No more can be left than the prompts that the machine says are left, and what it does not know yet; and no
        less than some part of the prompt that it computes."""
        unreported_s = sum(r.prompt_s for r in place.unreported.values())
        sample = next(iter(place.unreported.values()), None) or next(iter(place.reported.values()), None)
        if sample is None or load.running_requests + load.waiting_requests <= 0:
            left_s = 0.0
        elif sample.prompt_s <= 0:
            return
        else:
            left_s = max(0, load.queued_prompt_tokens) * sample.prompt_s / max(1, sample.prompt_tokens)
        done_at_s = min(place.prompts_done_at_s, now_s + left_s + unreported_s)
        known = left(reversed(place.reported.values()), load.queued_prompt_tokens)
        if known is not None:
            done_at_s = max(done_at_s, now_s + known.at_least_s + unreported_s)
        elif load.marks is not None:
            done_at_s = max(done_at_s, now_s + unreported_s)
        place.prompts_done_at_s = done_at_s

    def _forget(self, node_id: NodeId) -> None:
        for model in list(self._places[node_id]):
            self._forget_place(node_id, model)
        self._places.pop(node_id, None)

    def _forget_place(self, node_id: NodeId, model: str) -> None:
        place = self._places[node_id].pop(model)
        for key in (*place.unreported, *place.reported):
            self._unreported.pop(key, None)
            self._ended(self.by_key.pop(key))
        self._changed(node_id, model)


class RecentFailures:
    """Counts a machine's failed attempts at a model within a window; a success forgets them."""

    def __init__(self, memory_s: float) -> None:
        self._memory_s = memory_s
        self.times: OrderedDict[tuple[NodeId, str], deque[float]] = OrderedDict()
        """Changed by this class alone."""

    def __len__(self) -> int:
        return len(self.times)

    def failed(self, node_id: NodeId, model: str, now_s: float) -> None:
        times = self.times.setdefault((node_id, model), deque(maxlen=FAILURES_COUNTED_MAX))
        times.append(now_s)
        self.times.move_to_end((node_id, model))
        while len(self.times) > NODES_REMEMBERED_MAX:
            self.times.popitem(last=False)

    def succeeded(self, node_id: NodeId, model: str) -> None:
        self.times.pop((node_id, model), None)

    def remembered(self, model: str) -> set[NodeId]:
        """Machines with a failure on record for this model."""
        return {node_id for node_id, name in self.times if name == model}

    def count(self, node_id: NodeId, model: str, now_s: float) -> int:
        times = self.times.get((node_id, model))
        if times is None:
            return 0
        while times and now_s - times[0] >= self._memory_s:
            times.popleft()
        if not times:
            del self.times[node_id, model]
        return len(times)
