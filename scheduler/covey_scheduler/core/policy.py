"""From an ask and the machines as they stand to a ranking: filter -> cost -> order. Pure.

The costs are a policy's (policies/), the reasons for leaving machines out are filters.py's; ties are for pickers.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from covey_scheduler.core.filters import Rejection, busy, retry_after_ms
from covey_scheduler.core.policies import Policy
from covey_scheduler.core.prediction import Question, prompt_s
from covey_scheduler.core.room import Kept, Room
from covey_scheduler.core.settings import SchedulerSettings
from covey_scheduler.core.standing import Standing

KEPT_S = 3600.0
"""More than any other machine costs."""

LOADED_RETRY_MS_MIN = 500
"""A model is not served at the moment at which it should be loaded, but a little later."""


@dataclass(slots=True)
class Ranking:
    """`machines` passed every filter; `cached` and `costs` belong to them one by one. `room`: what of a machine
    the ask may take, None: all. Nothing in it changes later."""

    question: Question
    policy: Policy
    settings: SchedulerSettings
    machines: Sequence[Standing]
    cached: Sequence[int]
    costs: Sequence[float]
    rejected: Sequence[Rejection]
    room: Room | None = None

    @property
    def may_recover(self) -> bool:
        """True if some machine loads, or was rejected only for what may pass in a moment."""
        return bool(self.machines) or any(r.failed.recovers for r in self.rejected)

    @property
    def serving(self) -> bool:
        """True if some machine could serve at all without loading the model first."""
        return any(machine.load.ready for machine in self.machines)

    @property
    def retry_after_ms(self) -> int:
        """The soonest that any machine might serve that does not now; 0 if none ever will."""
        now_s = self.question.now_s
        loads = [LOADED_RETRY_MS_MIN + round(1000 * max(0.0, m.candidate.ready_at_s - now_s)) for m in self.machines]
        rejected = retry_after_ms(self.rejected)
        return min((each for each in (*loads, rejected) if each), default=0)

    def busy(self, index: int) -> str:
        """Why that machine would only queue the ask; "" if it could start it soon, or the policy does not care."""
        if not self.policy.late_binding:
            return ""
        return busy(self.question, self.machines[index], self.settings, self.room, self.cached[index])

    def best(self) -> int:
        """The index of the machine that the policy prefers, busy or not."""
        return self.costs.index(min(self.costs))

    def best_free(self) -> int | None:
        """Of the machines that could start the ask soon, the index of the best; None without any."""
        free = [index for index in range(len(self.costs)) if not self.busy(index)]
        return min(free, key=self.costs.__getitem__, default=None)


def rank(
    question: Question,
    machines: Sequence[Standing],
    cached: Sequence[int],
    rejected: Sequence[Rejection],
    policy: Policy,
    settings: SchedulerSettings,
    room: Room | None = None,
) -> Ranking:
    """The same input always gives the same ranking."""
    costs = policy.costs(question, machines, cached, settings) if machines else []
    if room is not None and room.kept is not None:
        _pass_over_kept(room.kept, question, machines, cached, costs)
    return Ranking(question, policy, settings, machines, cached, costs, rejected, room)


def _pass_over_kept(
    kept: Kept, question: Question, machines: Sequence[Standing], cached: Sequence[int], costs: list[float]
) -> None:
    """A machine that is kept from the ask is none to wait for: its user will come back again and again, and must not
    find it planned for others."""
    for index, machine in enumerate(machines):
        if machine.candidate.machine.node_id == kept.node_id:
            if prompt_s(question.ask, machine, cached[index]) > kept.longest_s:
                costs[index] += KEPT_S
            return


def machine_to_start(ranking: Ranking, waited_s: float) -> int | None:
    """The machine that should be given the ask now; None: it is worth waiting for a busy one. Of an ask that waits
    alone: planning.py has the rule for several."""
    if not ranking.machines:
        return None
    costs = ranking.costs
    best = costs.index(min(costs))
    if not ranking.busy(best):
        return best
    free = ranking.best_free()
    if free is None:
        return None
    settings = ranking.settings
    near = ranking.costs[free] <= ranking.costs[best] * settings.wait_gain + settings.wait_gain_s_min
    return free if near or patience_over(ranking, free, waited_s) else None


def patience_over(ranking: Ranking, free: int, waited_s: float) -> bool:
    """Who has waited for `wait_patience` times the seconds that the best free machine would take takes it: predictions
    may be wrong, and so nobody loses more than that by having waited (the ski-rental argument)."""
    return waited_s >= ranking.settings.wait_patience * ranking.costs[free]
