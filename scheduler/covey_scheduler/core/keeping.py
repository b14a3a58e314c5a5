"""One machine kept free of a flooding user's long prompts, while another user is about to come back.

Nothing interrupts a prompt that an engine computes: whoever comes meanwhile waits for the rest of it. Between two
requests of a user with few, the machine that would serve the next one best looks idle, and a flood would take it at
once. So it is left idle for as long as that user usually stays away (anticipatory scheduling: Iyer and Druschel, SOSP
2001, on disks), unless the user waits for an answer now: who sends one request at a time sends none before its end.

Short prompts pass, and whoever has no more requests than the others. Not here: who comes and goes how (visitors.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from covey_mesh.core.asking import Ask
from covey_mesh.core.names import NodeId
from covey_scheduler.core.room import Kept
from covey_scheduler.core.settings import SchedulerSettings
from covey_scheduler.core.standing import Standing
from covey_scheduler.core.visitors import Visitor

AS_GOOD = 1.25
AS_GOOD_S = 0.02
"""A machine with at most this many times, and so many seconds more than, the least time to a user's first token serves
it as well: the slowest of those is kept, unless it is one that the user was on."""

SHORT_SHARE = 0.3
"""Share of the other user's own time to the first token that a prompt may take and pass for short."""

FLOOD_MIN = 3
FLOOD = 4
"""So many requests, and times as many as the other user has, at least: two users with as many each keep nothing from
each other."""


CHOSEN_FOR_S = 0.25
"""Which machine to keep is worked out anew after this time, and for each further request of the other user."""


class _Awaited(NamedTuple):
    visitor: Visitor
    requests: int


class _Machine(NamedTuple):
    """`share`: of all machines' speed; `own_s`: seconds of the awaited user's prompt on it."""

    node_id: NodeId
    share: float
    own_s: float


class _Chosen(NamedTuple):
    visitor: Visitor
    first_at_s: float
    until_s: float
    machine: _Machine | None


class Keeping:
    """Of all models. `machines_for` an ask: those that may serve it and are ready."""

    def __init__(self, settings: SchedulerSettings, machines_for: Callable[[Ask, float], Sequence[Standing]]) -> None:
        self._settings = settings
        self._machines_for = machines_for
        self._chosen: dict[str, _Chosen] = {}

    def kept_from(
        self, ask: Ask, visitors: Mapping[str, Visitor], requests_of: Callable[[str], int], now_s: float
    ) -> Kept | None:
        """What is kept from the user of this ask, for those who came lately. `requests_of` a user: at machines
        and queued, this one included."""
        requests = requests_of(ask.user)
        if requests < FLOOD_MIN:
            return None
        awaited = self._awaited(ask.user, requests, visitors, requests_of, now_s)
        if not awaited:
            return None
        settings, chosen = self._settings, self._choose(ask, awaited[-1].visitor, now_s)
        machine = chosen.machine
        if machine is None or machine.share > settings.kept_share_max:
            return None
        whole = machine.own_s <= settings.short_prompt_s and machine.share <= settings.kept_whole_share_max
        if not whole and all(_reads(each, machine.node_id, now_s, settings) for each in awaited):
            return None
        longest_s = max(settings.short_prompt_s, SHORT_SHARE * machine.own_s)
        return Kept(machine.node_id, longest_s)

    def clear(self) -> None:
        self._chosen.clear()

    def _awaited(
        self,
        user: str,
        requests: int,
        visitors: Mapping[str, Visitor],
        requests_of: Callable[[str], int],
        now_s: float,
    ) -> list[_Awaited]:
        """Who came last comes last."""
        found = []
        for name, visitor in visitors.items():
            if name == user or visitor.machine is None:
                continue
            theirs = requests_of(name)
            if requests < FLOOD * theirs:
                continue
            if theirs and now_s < visitor.answered_by_s + self._settings.returning_s:
                visitor.seen_at_s = now_s
            if visitor.back_by_s(self._settings) > now_s:
                found.append(_Awaited(visitor, theirs))
        return found

    def _choose(self, ask: Ask, visitor: Visitor, now_s: float) -> _Chosen:
        chosen = self._chosen.get(ask.model)
        same = chosen is not None and chosen.visitor is visitor and chosen.first_at_s == visitor.first_at_s
        if chosen is not None and same and now_s < chosen.until_s:
            return chosen
        if len(self._chosen) > self._settings.models_max:
            self._chosen.clear()
        machine = _machine_for(visitor, self._machines_for(ask, now_s))
        chosen = _Chosen(visitor, visitor.first_at_s, now_s + CHOSEN_FOR_S, machine)
        self._chosen[ask.model] = chosen
        return chosen


def _reads(awaited: _Awaited, node_id: NodeId, now_s: float, settings: SchedulerSettings) -> bool:
    """It waits for the answer of this machine, with as many requests as ever at once: a prompt that starts now keeps
    that answer back, too, so that the next request comes after both."""
    visitor = awaited.visitor
    if visitor.node_id != node_id or awaited.requests < visitor.together - 0.5:
        return False
    begun = visitor.first_at_s <= now_s + settings.crowd_ahead_s
    return begun and visitor.reads_until_s - settings.reading_s_min > now_s


def _machine_for(visitor: Visitor, machines: Sequence[Standing]) -> _Machine | None:
    """Which of them to keep: of those that serve the visitor well the one that it was on, else the slowest."""
    own_s = [visitor.prompt_tokens * machine.prefill_s_per_token for machine in machines]
    first_s = [machine.candidate.machine.round_trip_s + own for machine, own in zip(machines, own_s, strict=True)]
    good_s = AS_GOOD * min(first_s, default=0.0) + AS_GOOD_S
    good = [index for index, seconds in enumerate(first_s) if seconds <= good_s]
    if not good:
        return None

    def order(index: int) -> tuple[bool, float, NodeId]:
        return _node(machines[index]) != visitor.node_id, -machines[index].prefill_s_per_token, _node(machines[index])

    index = min(good, key=order)
    speeds = [1.0 / machine.prefill_s_per_token for machine in machines]
    return _Machine(_node(machines[index]), speeds[index] / sum(speeds), own_s[index])


def _node(machine: Standing) -> NodeId:
    return machine.candidate.machine.node_id
