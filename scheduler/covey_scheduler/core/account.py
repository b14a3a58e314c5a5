"""What the leader knows of the pool at this moment: the view, its own assignments, caches, failures, answer lengths.

Turns all that into a question and the machines as they stand for it; the policy sees nothing else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial

from covey_mesh.core.asking import Ask, AttemptReport
from covey_mesh.core.facts import EngineState, ModelLoad, PoolView, Task
from covey_mesh.core.names import NodeId
from covey_scheduler.core.clean_ask import PRIORITY_LOWEST
from covey_scheduler.core.expectation import AnswerLengths
from covey_scheduler.core.filters import busy, last_step_s
from covey_scheduler.core.holdings import Holdings
from covey_scheduler.core.inflight import Inflight, RecentFailures, RequestKey, Reservation
from covey_scheduler.core.keeping import Keeping
from covey_scheduler.core.loading import READY, Loads
from covey_scheduler.core.machine import Candidate, Machine
from covey_scheduler.core.machine_cache import MODELS_CACHED_MAX, MachineCache
from covey_scheduler.core.policies import Policy
from covey_scheduler.core.policy import Ranking, rank
from covey_scheduler.core.prediction import Question, prompt_s, uncached_tokens
from covey_scheduler.core.prefix import EngineKey, PrefixIndex, Use
from covey_scheduler.core.room import Audience, Kept, Room
from covey_scheduler.core.settings import SchedulerSettings
from covey_scheduler.core.standing import Standing, prompts_left_s
from covey_scheduler.core.standings import Standings
from covey_scheduler.core.visitors import Visitors

MISS_SHARE = 0.5
"""An engine that had less than this part of what was believed has let go of it: the rest is the estimate's error."""


ROUNDING_S = 1e-6
"""Sums of the same times in another order differ by less."""


@dataclass(slots=True)
class _Hope:
    """What was believed of an assignment; `share` of the prompt was to be in the engine's prefix cache."""

    engine: EngineKey
    generation: tuple[int, int]
    use: Use
    share: float


NOBODY: AbstractSet[NodeId] = frozenset()

NOTHING_HELD: Mapping[NodeId, int] = {}


class PoolAccount:
    """Changed by the scheduler's events only."""

    def __init__(self, self_id: NodeId, settings: SchedulerSettings, policy: Policy) -> None:
        self.view = PoolView(self_id)
        self.holdings = Holdings()
        self.inflight = Inflight(settings, self.holdings.ended)
        self.audience = Audience(settings)
        self.visitors = Visitors(settings)
        self._keeping = Keeping(settings, self._ready_for)
        self.failures = RecentFailures(settings.failure_memory_s)
        self.answers = AnswerLengths(settings)
        self._settings = settings
        self._policy = policy
        self._seen_at_s = 0.0
        self._loads = Loads()
        self._machines = MachineCache()
        self._standings: OrderedDict[str, Standings] = OrderedDict()
        self._failed_before: dict[str, set[NodeId]] = {}
        self._prefixes = PrefixIndex(
            settings.prefix_blocks_max, settings.prefix_blocks_total_max, settings.tokens_per_block
        )
        self._hopes: OrderedDict[RequestKey, _Hope] = OrderedDict()

    def view_changed(self, view: PoolView, now_s: float) -> None:
        if view.members.keys() != self.view.members.keys():
            self._prefixes.keep_only(view.members.keys())
            self._loads.keep_only(view.members.keys())
        self.view = view
        self._seen_at_s = now_s
        self.inflight.observe(view, now_s)

    def clear(self) -> None:
        """Another leader has assigned meanwhile: what this machine remembers of assignments is worth nothing."""
        self.inflight.clear()
        self.audience.clear()
        self.visitors.clear()
        self._keeping.clear()
        self.failures = RecentFailures(self._settings.failure_memory_s)
        self._prefixes.keep_only(())
        self._hopes.clear()
        self._standings.clear()

    def ranking(
        self,
        ask: Ask,
        now_s: float,
        turn: int = 0,
        ahead_s: Mapping[NodeId, float] | None = None,
        room: Room | None = None,
    ) -> Ranking:
        """`ahead_s`: seconds of prompts that asks before this one will bring to a machine."""
        standings = self._refreshed(ask.model, now_s)
        machines, rejected = standings.passing(ask)
        task = machines[0].task if machines else Task.GENERATE
        question = Question(ask, self.answers.expected(ask, task), now_s, turn)
        cached = self._cached(ask, machines, standings) if ask.prefix_hashes else [0] * len(machines)
        if ahead_s:
            machines = [_with_ahead(machine, ahead_s, now_s) for machine in machines]
        return rank(question, machines, cached, rejected, self._policy, self._settings, room)

    def room(self, ask: Ask, waiting: Mapping[str, int], now_s: float) -> Room | None:
        """How much of a machine the ask may take (None: all of it); `waiting`: who has how many asks queued."""
        batch = ask.priority >= PRIORITY_LOWEST and self.audience.pressing(ask.model, now_s)
        held = self.holdings.by_machine(ask.model, ask.user) if ask.user else NOTHING_HELD
        if not held and not batch:
            return None
        users = self.holdings.users_with(ask.model, ask.user, waiting)
        others = self.audience.others(ask.model, ask.user, now_s)
        kept = self._kept(ask, waiting, now_s) if others else None
        return Room(held, users, others, self.holdings.batch(ask.model) if batch else None, self._settings, kept)

    def _kept(self, ask: Ask, waiting: Mapping[str, int], now_s: float) -> Kept | None:
        """What is kept for users who are about to come back."""

        def requests_of(user: str) -> int:
            itself = 1 if user == ask.user else 0
            return self.holdings.of(ask.model, user) + max(itself, waiting.get(user, 0))

        return self._keeping.kept_from(ask, self.visitors.of(ask.model), requests_of, now_s)

    def _ready_for(self, ask: Ask, now_s: float) -> Sequence[Standing]:
        return [each for each in self._refreshed(ask.model, now_s).passing(ask)[0] if each.load.ready]

    def free_at_s(self, model: str, now_s: float, room: Room | None = None, ask: Ask | None = None) -> float | None:
        """`now_s` if some machine could start even the smallest ask; with a `room`, later where one has only prompts to
        compute first; None: nobody knows when. Else no queued ask need be looked at. A kept machine counts if it could
        start `ask`."""
        smallest = Ask(request_id="", attempt=0, model=model, prompt_tokens=0, max_output_tokens=1)
        machines, _ = self._refreshed(model, now_s).passing(smallest)
        if not self._policy.late_binding:
            return now_s if machines else None
        question, settings = Question(smallest, 1, now_s), self._settings
        if room is not None and room.kept is not None and ask is not None:
            machines = self._without_kept(ask, room.kept, machines, now_s)
        if any(not busy(question, machine, settings, room) for machine in machines):
            return now_s
        if room is None:
            return None
        later = []
        for machine in machines:
            here = room.here(machine.candidate.machine.node_id, machine.load.running_limit)
            step_s = last_step_s(machine) if here.by_step else 0.0
            at_s = machine.prompts_done_at_s + step_s - here.ahead_s + ROUNDING_S
            if at_s > now_s and not busy(Question(smallest, 1, at_s), machine, settings, room):
                later.append(at_s)
        return min(later, default=None)

    def _without_kept(self, ask: Ask, kept: Kept, machines: Sequence[Standing], now_s: float) -> Sequence[Standing]:
        """Those that are not kept from this ask."""
        standings = self._refreshed(ask.model, now_s)
        for index, machine in enumerate(machines):
            if machine.candidate.machine.node_id == kept.node_id:
                cached = self._cached(ask, machines, standings)[index]
                if prompt_s(ask, machine, cached) > kept.longest_s:
                    return [*machines[:index], *machines[index + 1 :]]
        return machines

    def assign(self, key: RequestKey, ranking: Ranking, index: int) -> int:
        """Remember an assignment to the machine at `index`; the prompt tokens that it will have to compute."""
        question, chosen, cached = ranking.question, ranking.machines[index], ranking.cached[index]
        ask, machine, settings = question.ask, chosen.candidate.machine, self._settings
        node_id, model, prompt = machine.node_id, ask.model, uncached_tokens(ask, cached)
        report = self.view.members[node_id].load
        # By position: by name it would take twice as long.
        reservation = Reservation(
            key,
            ask.attempt,
            node_id,
            model,
            ask.prompt_tokens + question.output_tokens,
            question.now_s,
            prompt,
            prompt_s(ask, chosen, cached),
            0.0,
            ask.prompt_tokens,
            ask.user,
            ask.priority >= PRIORITY_LOWEST,
            settings.output_token_weight * question.output_tokens,
        )
        self.inflight.reserve(reservation, (report.incarnation, report.sequence))
        together = self.holdings.began(reservation)
        visitor = self.visitors.came(model, ask.user, together, question.now_s)
        visitor.went(chosen, question.now_s, prompt, reservation.prompt_s, question.output_tokens)
        if ask.prefix_hashes:
            use = self._prefixes.add(node_id, model, machine.generation, ask.prefix_hashes, chosen.cache_blocks)
            if use.number:
                share = cached / ask.prompt_tokens if ask.prompt_tokens > 1 else float(cached)
                self._hopes[key] = _Hope((node_id, model), machine.generation, use, share)
                if len(self._hopes) > settings.known_requests_max:
                    self._hopes.popitem(last=False)
        return prompt

    def runs_already(self, key: RequestKey, ask: Ask, node_id: NodeId, now_s: float) -> float | None:
        """Remember what others have assigned; the charge for its expected answer. None: no such machine."""
        member = self.view.members.get(node_id)
        load = None if member is None else member.load.model(ask.model)
        if member is None or load is None:
            return None
        machines, _ = self._refreshed(ask.model, now_s).passing(ask)
        standing = next((each for each in machines if each.candidate.machine.node_id == node_id), None)
        output = self.answers.expected(ask, machines[0].task if machines else Task.GENERATE)
        reservation = Reservation(
            key,
            ask.attempt,
            node_id,
            ask.model,
            ask.prompt_tokens + output,
            now_s,
            max(1, ask.prompt_tokens),
            0.0 if standing is None else prompt_s(ask, standing, 0),
            whole_prompt_tokens=ask.prompt_tokens,
            user=ask.user,
            batch=ask.priority >= PRIORITY_LOWEST,
            answer_charge=self._settings.output_token_weight * output,
        )
        self.inflight.runs_already(reservation, (member.load.incarnation, member.load.sequence), load)
        self.holdings.began(reservation)
        if standing is not None:
            generation = standing.candidate.machine.generation
            self._prefixes.add(node_id, ask.model, generation, ask.prefix_hashes, standing.cache_blocks)
        return reservation.answer_charge

    def ended(self, key: RequestKey, report: AttemptReport) -> None:
        """The engine may have told how much of the prompt it had: the index learns from what it had not."""
        hope = self._hopes.pop(key, None)
        if hope is None:
            return
        told = report.prompt_tokens > 0 and not (report.failed or report.withdrawn)
        hit: bool | None = None
        if told and (report.cached_prompt_tokens > 0 or hope.share > 0):
            hit = report.cached_prompt_tokens / report.prompt_tokens >= MISS_SHARE * hope.share
        self._prefixes.ended(hope.engine, hope.generation, hope.use, hit)

    def refresh(self, model: str, now_s: float) -> None:
        """Work out again what has changed, so that the next ask need not."""
        if model in self._standings:
            self._refreshed(model, now_s)

    def _refreshed(self, model: str, now_s: float) -> Standings:
        standings = self._standings.get(model)
        if standings is None:
            standings = self._standings[model] = Standings(model, self._settings)
            while len(self._standings) > MODELS_CACHED_MAX:
                self._standings.popitem(last=False)
        changed = self.inflight.changed.pop(model, NOBODY)
        if self._failed_before or self.failures.times:
            changed = changed | self._failures_changed(model)
        if self._loads.all:
            changed = changed | self._loads.late(model, now_s)
        if changed or standings.view is not self.view:
            standings.view = self.view
            seen = self._machines.machines(model, self.view)
            if changed or standings.source is not seen.machines:
                standings.refresh(seen, changed, partial(self._candidate, model, now_s))
        return standings

    def _failures_changed(self, model: str) -> set[NodeId]:
        """Machines whose failures count, or did until now: they are forgotten by time."""
        before = self._failed_before.pop(model, set())
        now = self.failures.remembered(model)
        if now:
            self._failed_before[model] = now
        return before | now

    def _candidate(self, model: str, now_s: float, machine: Machine, largest: int) -> Candidate:
        load = machine.load
        if load is None:
            return Candidate(machine)
        if load.prefix_cache_evicted_tokens:
            held = load.prefix_cache_tokens // max(1, self._settings.tokens_per_block)
            self._prefixes.evicted((machine.node_id, model), machine.generation, load.prefix_cache_evicted_tokens, held)
        # Made twice for each ask: what is nothing for nearly all machines is not worked out.
        node_id = machine.node_id
        extra = self.inflight.extra(node_id, model)
        done_at_s = extra.prompts_done_at_s
        if load.queued_prompt_tokens:
            theirs_s = prompts_left_s(machine, load.running_requests + load.waiting_requests - extra.counted)
            if theirs_s > 0:
                done_at_s = max(done_at_s, self._seen_at_s) + theirs_s
        return Candidate(
            machine,
            extra.requests,
            extra.tokens,
            done_at_s,
            self.failures.count(node_id, model, now_s) if self.failures.times else 0,
            largest,
            self._prefixes.held_blocks(node_id, model, machine.generation),
            self._ready_at_s(model, machine, load, now_s),
            extra.last_prompt_s,
        )

    def _ready_at_s(self, model: str, machine: Machine, load: ModelLoad, now_s: float) -> float:
        loading = load.state is EngineState.STARTING or self._loads.all
        return self._loads.ready_at_s(model, machine, now_s) if loading and self._policy.late_binding else READY

    def _cached(self, ask: Ask, machines: Sequence[Standing], standings: Standings) -> list[int]:
        cached = [0] * len(machines)
        depths = self._prefixes.matches(ask.model, ask.prefix_hashes)
        if not depths:
            return cached
        places, most, block = standings.places(machines), max(0, ask.prompt_tokens - 1), self._settings.tokens_per_block
        for blocks, holders in depths:
            tokens = blocks * block if blocks * block < most else most
            for node_id in holders:
                place = places.get(node_id)
                if place is not None:
                    cached[place] = tokens
        return cached


def _with_ahead(machine: Standing, ahead_s: Mapping[NodeId, float], now_s: float) -> Standing:
    seconds = ahead_s.get(machine.candidate.machine.node_id)
    if seconds is None:
        return machine
    return replace(machine, prompts_done_at_s=max(machine.prompts_done_at_s, now_s) + seconds)
