"""The leader's scheduler as a state machine: events in, answers out. It does no I/O and reads no clock.

    events (events.py) -> Scheduler.step -> [Reply], in the order in which they must be sent; then call step(Tick)
    at `wake_at_s` at the latest.

An ask enters its model's queue and leaves it when it is its turn and a machine is free. One that finds nobody waiting
and a free machine is started at once, by the same rules, without passing through the queue. Not here: which machine is
best (policy.py), whose turn it is (queue.py), who of those waiting goes where (planning.py), how much of a machine an
ask may take (room.py), which deadlines cannot be kept (deadlines.py), what is known of the pool (account.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from covey_mesh.core.asking import (
    TURNED_AWAY_DEADLINE,
    TURNED_AWAY_EXPIRED,
    TURNED_AWAY_QUEUE_FULL,
    Answer,
    Ask,
    AttemptReport,
    Decision,
    Grant,
    GrantedWork,
    Outcome,
)
from covey_mesh.core.ballot import NO_BALLOT, Ballot
from covey_mesh.core.facts import PoolView
from covey_mesh.core.names import NodeId
from covey_scheduler.core import events
from covey_scheduler.core.account import PoolAccount
from covey_scheduler.core.charges import Charge, expected_charge, true_charge, worked_charge
from covey_scheduler.core.clean_ask import PRIORITY_LOWEST, clean_ask, clean_work
from covey_scheduler.core.collecting import Collecting
from covey_scheduler.core.deadlines import Hopeless, hopeless, line_s
from covey_scheduler.core.decisions import Verdicts
from covey_scheduler.core.events import AskReceived, Effect, Event, Reply, Reported
from covey_scheduler.core.granted import Granted
from covey_scheduler.core.inflight import FAILURES_COUNTED_MAX, RequestKey
from covey_scheduler.core.known import Known, KnownRequests
from covey_scheduler.core.pickers import Rotation
from covey_scheduler.core.planning import Waiting, starting, together_max, wait_as_planned
from covey_scheduler.core.policies import policy_named
from covey_scheduler.core.policy import Ranking, machine_to_start
from covey_scheduler.core.queue import Entry
from covey_scheduler.core.queues import Queues
from covey_scheduler.core.room import Room
from covey_scheduler.core.settings import SchedulerSettings

QUEUE_FULL_RETRY_MS = 1000
EXPIRED_RETRY_MS = 1000
LOOK_AGAIN_S_MIN = 0.005
"""A queue that waits for a machine's prompts is looked at again after this time at the earliest."""


class Scheduler:
    """Runs on every machine; decides only between BecameLeader and LostLeadership."""

    def __init__(self, self_id: NodeId, settings: SchedulerSettings | None = None) -> None:
        self._self_id = self_id
        self._settings = settings or SchedulerSettings()
        self._policy = policy_named(self._settings.policy)
        self._ballot: Ballot | None = None
        self._collecting = Collecting(self._settings.collect_s)
        self._pool = PoolAccount(self_id, self._settings, self._policy)
        self._queues = Queues(self._settings, self._pool.holdings)
        self._known = KnownRequests(self._settings.known_requests_max)
        self._granted = Granted(self._settings, self._pool.audience)
        self._rotation = Rotation()
        self._unix_s = 0.0
        self._wake_at_s: float | None = None
        self._recheck_at_s: float | None = None
        self._look_at_s: dict[str, float] = {}

    @property
    def leading(self) -> bool:
        return self._ballot is not None

    @property
    def collecting(self) -> bool:
        """True while a new leader listens before its first assignment."""
        return self._collecting.until_s is not None

    @property
    def wake_at_s(self) -> float | None:
        """When to step a Tick at the latest, by the same clock as `now_s`; None: nothing is due."""
        return self._wake_at_s

    def queue_lengths(self) -> dict[str, int]:
        """Asks waiting, by model."""
        return self._queues.lengths()

    def step(self, now_s: float, event: Event, unix_s: float = 0.0) -> list[Effect]:
        """Take in one event. Never raises for what a peer sent. `unix_s`: the time of day, for records."""
        self._unix_s = unix_s
        if now_s >= self._pool.inflight.look_at_s:
            self._pool.inflight.expire(now_s)
        # What comes with every request first, and in the cheapest way.
        if isinstance(event, AskReceived):
            effects = [] if self._ballot is None else self._ask(now_s, event.gateway, clean_ask(event.ask))
        elif isinstance(event, Reported):
            effects = [] if self._ballot is None else self._reported(now_s, event.gateway, event.report)
        else:
            effects = self._take(now_s, event)
        if self._queues.waiting or self._wake_at_s is not None or self._look_at_s:
            self._wake_at_s = self._next_wake_s(now_s, event)
        return effects

    def _take(self, now_s: float, event: Event) -> list[Effect]:
        match event:
            case events.ViewChanged(view):
                return self._view_changed(now_s, view)
            case events.Worked(gateway, work):
                self._worked(now_s, gateway, work)
            case events.BecameLeader(ballot):
                self._became_leader(now_s, ballot)
            case events.LostLeadership():
                self._reset()
            case events.GatewayLost(gateway):
                self._queues.remove_gateway(gateway)
                self._pool.inflight.release_gateway(gateway)
                self._granted.remove_gateway(gateway)
                return self._drain_all(now_s)
            case events.Tick():
                return self._tick(now_s)
        return []

    # --- leadership -------------------------------------------------------------------------------------------

    def _became_leader(self, now_s: float, ballot: Ballot) -> None:
        if self.leading:
            # A merge made this leader take a higher ballot: same leader, same queue.
            self._ballot = ballot
            return
        self._reset()
        self._ballot = ballot
        self._collecting.begin(now_s, self._pool.view, self._self_id)

    def _reset(self) -> None:
        self._ballot = None
        self._collecting.end()
        self._queues.clear()
        self._look_at_s.clear()
        self._known.clear()
        self._granted.clear()
        self._pool.clear()

    def _still_collecting(self, now_s: float) -> bool:
        return self._collecting.goes_on(now_s, self._pool.view)

    # --- events -----------------------------------------------------------------------------------------------

    def _view_changed(self, now_s: float, view: PoolView) -> list[Effect]:
        self._pool.view_changed(view, now_s)
        return self._drain_all(now_s)

    def _tick(self, now_s: float) -> list[Effect]:
        """Between two rechecks only those are looked at who wait for a machine's prompts."""
        if self._recheck_at_s is not None and now_s < self._recheck_at_s and not self.collecting:
            due = [model for model, at_s in self._look_at_s.items() if at_s <= now_s]
            return [effect for model in due for effect in self._drain(now_s, model)]
        effects: list[Effect] = []
        for model in self._queues.models():
            effects += self._expire(now_s, model)
        effects += self._drain_all(now_s)
        if not self.collecting:
            for model in self._queues.models():
                effects += self._sweep(now_s, model)
        return effects

    def _ask(self, now_s: float, gateway: NodeId, ask: Ask) -> list[Effect]:
        key = (gateway, ask.request_id)
        known = self._known.get(key)
        if known is not None and ask.attempt < known.attempt:
            return []
        self._pool.audience.heard(ask.model, ask.user, ask.priority, now_s)
        if ask.running_on is not None:
            self._runs_already(now_s, gateway, ask, ask.running_on)
            return []
        if known is not None and ask.attempt == known.attempt:
            queued, given = self._queues.get(key), known.answer
            if queued is not None:
                queued = self._renewed(queued, ask)
                return [self._queued(now_s, queued, self._rank(now_s, ask, room=self._room(now_s, ask)))]
            if given is not None and given.decision is not None and given.node_id not in ask.excluded:
                return [Reply(gateway, given if given.grant is None else replace(given, grant=None))]
        if key in self._queues.waiting:
            self._queues.remove(key)
        if key in self._pool.inflight.by_key:
            self._pool.inflight.release(key)
        known = Known(ask.attempt, ask.model, ask.user)
        self._known.remember(key, known)
        quiet = not self._queues.waiting and self._collecting.until_s is None
        # Whether a deadline can be kept is asked on the other way.
        if (quiet or self._nobody_waits(now_s, ask.model)) and not ask.deadline_s:
            started = self._started_alone(now_s, key, ask, known)
            if started is not None:
                return [started]
        entry, evicted = self._queues.add(gateway, ask, now_s, self.collecting)
        effects = [] if evicted is None else [self._no_room(now_s, evicted)]
        effects += self._drain(now_s, ask.model)
        if self._queues.get(key) is entry:
            effects.append(self._first_word(now_s, entry))
        return effects

    def _nobody_waits(self, now_s: float, model: str) -> bool:
        """And an ask need not, for want of what others have to say."""
        return self._queues.queue(model) is None and not self._still_collecting(now_s)

    def _runs_already(self, now_s: float, gateway: NodeId, ask: Ask, node_id: NodeId) -> None:
        """A leader before this one, or the gateway alone, has placed it: the place is held, its answer still to be
        charged. Or it began under a grant of this leader's: its prompt, too. Said twice, it changes nothing."""
        key = (gateway, ask.request_id)
        known = self._known.get(key)
        if known is not None and known.attempt == ask.attempt and known.answer is not None:
            return
        self._queues.remove(key)
        answer_charge = self._pool.runs_already(key, ask, node_id, now_s)
        if answer_charge is None:
            return
        granted = self._granted.told(gateway, ask.model, 1) > 0
        charged = Charge(float(ask.prompt_tokens) if granted else 0.0, answer_charge)
        self._queues.told(ask.model, ask.user, ask.user_ahead_tokens, charged.total)
        answer = Answer(ask.request_id, ask.attempt, Outcome.ASSIGNED, node_id)
        self._known.remember(key, Known(ask.attempt, ask.model, ask.user, answer, charged, told=not granted))

    def _renewed(self, queued: Entry, ask: Ask) -> Entry:
        """A machine left out when the ask came may be fit again by now."""
        queue = self._queues.queue(ask.model)
        assert queue is not None
        return queued if queued.ask.excluded == ask.excluded else queue.renew(queued, ask)

    def _started_alone(self, now_s: float, key: RequestKey, ask: Ask, known: Known) -> Effect | None:
        """Nobody waits for this model, so there is no line to stand in: what the queue would do, at less cost."""
        room = self._room(now_s, ask) if ask.user or ask.priority >= PRIORITY_LOWEST else None
        ranking = self._pool.ranking(ask, now_s, self._rotation.count, None, room)
        index = machine_to_start(ranking, ask.waited_s)
        if index is None:
            return None
        grant = self._granted.grant(now_s, key[0], ranking) if len(ranking.machines) == 1 else None
        chosen = self._rotation.pick(ranking, index)
        return self._assign(key, ranking, chosen, known, ask.waited_s, grant, alone=True)

    def _reported(self, now_s: float, gateway: NodeId, report: AttemptReport) -> list[Effect]:
        key = (gateway, report.request_id)
        known = self._known.get(key)
        if known is None or report.attempt != known.attempt:
            return []
        self._pool.inflight.release(key, unserved=report.failed or report.withdrawn, served_at_s=now_s)
        self._pool.ended(key, report)
        if report.withdrawn:
            self._queues.remove(key)
        if known.answer is not None and known.answer.node_id is not None:
            self._settle_account(now_s, known, known.answer.node_id, report)
        self._pool.visitors.left(known.model, known.user, now_s)
        # Nobody waits for the answer to a report: the next ask finds its machine as it stands now.
        self._pool.refresh(known.model, now_s)
        return self._drain(now_s, known.model) if self._queues.waiting else []

    def _worked(self, now_s: float, gateway: NodeId, work: GrantedWork) -> None:
        """What began under this leader's grants is charged when it is told; nobody was charged for it before."""
        believed = self._granted.told(gateway, work.model, work.requests)
        if not believed:
            return
        work = clean_work(work, believed)
        self._granted.finished(now_s, work.model, work.prompt_tokens)
        pool = self._pool
        pool.audience.heard(work.model, work.user, work.priority, now_s)
        self._queues.worked(work.model, work.user, worked_charge(work, self._settings))
        if work.failed and work.node_id in pool.view.members:
            for _ in range(min(work.failed, FAILURES_COUNTED_MAX)):
                pool.failures.failed(work.node_id, work.model, now_s)
        elif not work.failed:
            pool.failures.succeeded(work.node_id, work.model)
        served = work.requests - work.failed
        if served:
            pool.answers.ended(work.model, work.user, work.output_tokens / served, served)

    def _settle_account(self, now_s: float, known: Known, node_id: NodeId, report: AttemptReport) -> None:
        """Correct the charge to what was really done, once; count failures of the machine, not its refusals."""
        true = true_charge(known.charged, report, self._settings)
        if known.told:
            true = Charge(0.0, true.output)
        self._queues.charge(known.model, known.user, true.total - known.charged.total)
        known.charged = true
        if report.refused:
            return
        if report.failed:
            self._pool.failures.failed(node_id, known.model, now_s)
        elif not report.withdrawn:
            self._pool.failures.succeeded(node_id, known.model)
            self._pool.answers.ended(known.model, known.user, min(max(report.output_tokens, 0), 1_000_000))

    # --- late binding -----------------------------------------------------------------------------------------

    def _drain_all(self, now_s: float) -> list[Effect]:
        if not self.leading:
            return []
        effects: list[Effect] = []
        for model in self._queues.models():
            effects += self._drain(now_s, model)
        return effects

    def _drain(self, now_s: float, model: str) -> list[Effect]:
        """Assign in order of turn until no machine is free or enough asks were looked at that could not start. Those
        of the lane whose turn it is are planned together."""
        queue = self._queues.queue(model)
        if queue is None or self._still_collecting(now_s):
            return []
        effects: list[Effect] = []
        passed_lanes: set[tuple[str, int]] = set()
        ahead_s: dict[NodeId, float] = {}
        looked_at = 0
        self._look_at_s.pop(model, None)
        while looked_at < self._settings.drain_scan_max:
            entry = queue.first(now_s, passed_lanes)
            if entry is None:
                break
            room = self._room(now_s, entry.ask)
            # A single ask is ranked at once; a line is not looked at while nobody could take any of it.
            if (len(queue) > 1 or room is not None) and not self._any_free(now_s, model, room, entry.ask):
                if room is None:
                    break
                passed_lanes.add(entry.lane)
                continue
            together = together_max(len(self._pool.view.members), self._settings.drain_scan_lane_max)
            line = queue.of_lane(entry.lane, together)
            asks = [Waiting(each, self._rank(now_s, each.ask, ahead_s, room), now_s) for each in line]
            answered = self._too_late_for(now_s, asks) or self._started_of(now_s, asks, queue.one_lane)
            effects += answered
            if not answered:
                passed_lanes.add(entry.lane)
                looked_at += len(asks)
                wait_as_planned(asks, ahead_s, self._settings)
        return effects

    def _too_late_for(self, now_s: float, asks: Sequence[Waiting]) -> list[Effect]:
        found = [(each, self._late(now_s, each.entry, each.ranking)) for each in asks if each.entry.ask.deadline_s]
        return [self._cannot_keep(now_s, each.entry, each.ranking, late) for each, late in found if late is not None]

    def _started_of(self, now_s: float, asks: Sequence[Waiting], all_at_once: bool) -> list[Effect]:
        """Where others wait too, each start may make it their turn."""
        starts = starting(asks, self._settings)
        if not all_at_once:
            starts = starts[:1]
        together = len(asks) > 1
        return [self._start(now_s, asks[n].entry, asks[n].ranking, index, together) for n, index in starts]

    def _room(self, now_s: float, ask: Ask) -> Room | None:
        return self._pool.room(ask, self._queues.users(ask.model), now_s)

    def _any_free(self, now_s: float, model: str, room: Room | None, ask: Ask) -> bool:
        """If not, and it is known when one will be, the queue is looked at then. `ask`: whose turn it is."""
        at_s = self._pool.free_at_s(model, now_s, room, ask)
        if at_s is not None and at_s > now_s:
            at_s = max(at_s, now_s + LOOK_AGAIN_S_MIN)
            self._look_at_s[model] = min(self._look_at_s.get(model, at_s), at_s)
            return False
        return at_s is not None

    def _late(self, now_s: float, entry: Entry, ranking: Ranking) -> Hopeless | None:
        """An ask whose deadline no machine can keep."""
        if not entry.ask.deadline_s or not ranking.machines:
            return None
        queue = self._queues.queue(entry.ask.model)
        position = queue.ahead_of(entry) if queue is not None else 0
        left_s = entry.expires_at_s - now_s
        return hopeless(ranking, left_s, line_s(ranking, position), entry.ask.deadline_s)

    def _sweep(self, now_s: float, model: str) -> list[Effect]:
        """Answer queued asks that no machine can serve any more, a few at a time."""
        queue = self._queues.queue(model)
        assert queue is not None, "empty queues are dropped"
        effects: list[Effect] = []
        for entry in queue.next_to_check(self._settings.drain_scan_max):
            ranking = self._rank(now_s, entry.ask)
            late = self._late(now_s, entry, ranking)
            if self._hopeless(now_s, entry, ranking):
                effects.append(self._give_up(now_s, entry, ranking))
            elif late is not None:
                effects.append(self._cannot_keep(now_s, entry, ranking, late))
        return effects

    def _expire(self, now_s: float, model: str) -> list[Effect]:
        queue = self._queues.queue(model)
        assert queue is not None, "empty queues are dropped"
        return [self._too_late(now_s, entry) for entry in queue.expired(now_s)]

    def _rank(
        self, now_s: float, ask: Ask, ahead_s: dict[NodeId, float] | None = None, room: Room | None = None
    ) -> Ranking:
        return self._pool.ranking(ask, now_s, self._rotation.count, ahead_s, room)

    def _hopeless(self, now_s: float, entry: Entry, ranking: Ranking) -> bool:
        """No machine serves, and none that may be back in a moment is still worth the wait."""
        if ranking.serving:
            return False
        return not (ranking.may_recover and now_s - entry.since_s < self._settings.recovery_patience_s)

    # --- answers ----------------------------------------------------------------------------------------------

    def _first_word(self, now_s: float, entry: Entry) -> Effect:
        """An ask that could not be assigned at once."""
        ranking = self._rank(now_s, entry.ask, room=self._room(now_s, entry.ask))
        if not self.collecting and self._hopeless(now_s, entry, ranking):
            return self._give_up(now_s, entry, ranking)
        late = None if self.collecting else self._late(now_s, entry, ranking)
        if late is not None:
            return self._cannot_keep(now_s, entry, ranking, late)
        return self._queued(now_s, entry, ranking)

    def _start(self, now_s: float, entry: Entry, ranking: Ranking, best: int, planned: bool) -> Effect:
        """One that waited. `planned`: other asks count on other machines, so that equal ones take no turns."""
        chosen = best if planned else self._rotation.pick(ranking, best)
        self._queues.remove(entry.key)
        known = self._known.get(entry.key)
        if known is None:
            # Forgotten while it waited.
            known = Known(entry.ask.attempt, entry.ask.model, entry.ask.user)
            self._known.remember(entry.key, known)
        return self._assign(entry.key, ranking, chosen, known, max(0.0, now_s - entry.since_s))

    def _assign(
        self,
        key: RequestKey,
        ranking: Ranking,
        chosen: int,
        known: Known,
        waited_s: float,
        grant: Grant | None = None,
        alone: bool = False,
    ) -> Effect:
        """`alone`: it was never queued, and nobody is."""
        ask, ahead = ranking.question.ask, 0
        uncached = self._pool.assign(key, ranking, chosen)
        known.charged = charged = expected_charge(ranking, uncached, self._settings)
        if alone:
            self._queues.passed(ask, charged.prompt + charged.output)
        else:
            ahead = int(self._queues.served(ask.model, ask.user, charged.total))
        node_id = ranking.machines[chosen].candidate.machine.node_id
        decision = self._decision(ask, waited_s, Outcome.ASSIGNED, ranking, node_id)
        known.answer = Answer(ask.request_id, ask.attempt, Outcome.ASSIGNED, node_id, decision, 0, ahead, grant)
        return Reply(key[0], known.answer)

    def _queued(self, now_s: float, entry: Entry, ranking: Ranking) -> Effect:
        why = "listening to the pool before the first assignment" if self.collecting else "a busy machine is faster"
        refused = "" if ranking.best_free() is None else why
        decision = self._decision(entry.ask, now_s - entry.since_s, Outcome.QUEUED, ranking, refused=refused)
        return Reply(entry.gateway, Answer(entry.ask.request_id, entry.ask.attempt, Outcome.QUEUED, None, decision))

    def _give_up(self, now_s: float, entry: Entry, ranking: Ranking) -> Effect:
        self._queues.remove(entry.key)
        return self._refuse(now_s, entry, ranking, "", ranking.retry_after_ms)

    def _no_room(self, now_s: float, entry: Entry) -> Effect:
        why = f"the leader's queue is full ({self._settings.queue_length_max} a model)"
        ranking = self._rank(now_s, entry.ask)
        return self._refuse(now_s, entry, ranking, why, QUEUE_FULL_RETRY_MS, TURNED_AWAY_QUEUE_FULL)

    def _too_late(self, now_s: float, entry: Entry) -> Effect:
        self._queues.remove(entry.key)
        why = f"no machine was free within {now_s - entry.since_s:.1f} s"
        ranking = self._rank(now_s, entry.ask)
        return self._refuse(now_s, entry, ranking, why, EXPIRED_RETRY_MS, TURNED_AWAY_EXPIRED)

    def _cannot_keep(self, now_s: float, entry: Entry, ranking: Ranking, late: Hopeless) -> Effect:
        self._queues.remove(entry.key)
        left_s = entry.expires_at_s - now_s
        why = f"its deadline is in {left_s:.2g} s, the soonest answer at best in {late.soonest_s:.2g} s"
        return self._refuse(now_s, entry, ranking, why, late.retry_after_ms, TURNED_AWAY_DEADLINE)

    def _refuse(
        self, now_s: float, entry: Entry, ranking: Ranking, why: str, retry_ms: int, turned_away: str = ""
    ) -> Effect:
        self._known.forget(entry.key)
        ask, waited_s = entry.ask, now_s - entry.since_s
        decision = self._decision(ask, waited_s, Outcome.NO_CANDIDATE, ranking, None, why, turned_away)
        answer = Answer(ask.request_id, ask.attempt, Outcome.NO_CANDIDATE, None, decision, retry_ms)
        return Reply(entry.gateway, answer)

    def _decision(
        self,
        ask: Ask,
        waited_s: float,
        outcome: Outcome,
        ranking: Ranking,
        chosen: NodeId | None = None,
        refused: str = "",
        turned_away: str = "",
    ) -> Decision:
        # In the order of the fields: by name it would take three times as long.
        return Decision(
            ask.request_id,
            ask.attempt,
            ask.model,
            self._unix_s,
            "leader",
            self._self_id,
            outcome,
            self._policy.name,
            self._ballot or NO_BALLOT,
            self._pool.view.version,
            chosen,
            waited_s if waited_s > 0.0 else 0.0,
            Verdicts(ranking, self._settings.candidates_recorded_max, refused),
            turned_away,
        )

    def _next_wake_s(self, now_s: float, event: Event) -> float | None:
        """Only a Tick puts the next recheck off: a stream of other events must not starve deadlines and the sweep."""
        if self._ballot is None or not self._queues.waiting:
            self._recheck_at_s = None
            self._look_at_s.clear()
            return None
        due_s = self._recheck_at_s
        if due_s is None or (isinstance(event, events.Tick) and (now_s >= due_s or self.collecting)):
            due_s = self._recheck_at_s = now_s + self._settings.recheck_s
        if self._collecting.until_s is not None:
            due_s = min(due_s, self._collecting.until_s)
        return min(due_s, *self._look_at_s.values()) if self._look_at_s else due_s
