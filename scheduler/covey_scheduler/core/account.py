"""What the leader knows of the pool at this moment: the view, its own assignments, caches and failures.

Turns all that into candidates for one ask; the policy sees nothing else.
"""

from __future__ import annotations

from covey_mesh.core.asking import Ask
from covey_mesh.core.facts import PoolView
from covey_mesh.core.names import NodeId
from covey_scheduler.core.expectation import expected_output_tokens, uncached_tokens
from covey_scheduler.core.filters import busy, rejection_of
from covey_scheduler.core.inflight import Inflight, RecentFailures, RequestKey, Reservation
from covey_scheduler.core.machine import Candidate, Machine, largest_context_tokens
from covey_scheduler.core.machine_cache import MachineCache
from covey_scheduler.core.policy import Ranked
from covey_scheduler.core.prefix import PrefixIndex
from covey_scheduler.core.settings import SchedulerSettings


class PoolAccount:
    """Changed by the scheduler's events only."""

    def __init__(self, self_id: NodeId, settings: SchedulerSettings) -> None:
        self.view = PoolView(self_id)
        self.inflight = Inflight(settings)
        self.failures = RecentFailures(settings.failure_memory_s)
        self._settings = settings
        self._machines = MachineCache()
        self._prefixes = PrefixIndex(settings.prefix_blocks_max, settings.prefix_blocks_total_max)

    def view_changed(self, view: PoolView, now_s: float) -> None:
        if view.members.keys() != self.view.members.keys():
            self._prefixes.keep_only(view.members.keys())
        self.view = view
        self.inflight.observe(view, now_s)

    def clear(self) -> None:
        """Another leader has assigned meanwhile: what this machine remembers of assignments is worth nothing."""
        self.inflight.clear()
        self.failures = RecentFailures(self._settings.failure_memory_s)
        self._prefixes.keep_only(())

    def candidates(self, ask: Ask, now_s: float, requests_ahead: int = 0) -> list[Candidate]:
        """Every machine of the view, in its order, as it stands for this ask."""
        machines = self._machines.machines(ask.model, self.view)
        largest = largest_context_tokens(machines)
        return [self._candidate(machine, ask, now_s, largest, requests_ahead) for machine in machines]

    def any_free(self, model: str, now_s: float) -> bool:
        """False if no machine could start even the smallest ask: no queued one need be looked at."""
        smallest = Ask(request_id="", attempt=0, model=model, prompt_tokens=0, max_output_tokens=1)
        for machine in self._machines.machines(model, self.view):
            candidate = self._candidate(machine, smallest, now_s, 0, 0)
            if rejection_of(smallest, candidate) is None and not busy(smallest, candidate, self._settings):
                return True
        return False

    def assign(self, key: RequestKey, ask: Ask, chosen: Ranked, now_s: float) -> int:
        """Remember an assignment; returns the output tokens expected of it."""
        machine, load = chosen.candidate.machine, chosen.candidate.machine.load
        assert load is not None, "a ranked machine offers the model"
        output_tokens = expected_output_tokens(ask, load.task, self._settings)
        tokens = uncached_tokens(ask, chosen.candidate) + output_tokens
        self.inflight.reserve(Reservation(key, ask.attempt, machine.node_id, ask.model, tokens, now_s))
        member = self.view.members[machine.node_id]
        self.inflight.note_report(machine.node_id, (member.load.incarnation, member.load.sequence))
        capacity = max(1, load.kv_cache_tokens_total // self._settings.tokens_per_block)
        self._prefixes.add(
            machine.node_id,
            ask.model,
            machine.generation,
            ask.prefix_hashes,
            capacity if load.kv_cache_tokens_total else 0,
        )
        return output_tokens

    def _candidate(self, machine: Machine, ask: Ask, now_s: float, largest: int, ahead: int) -> Candidate:
        if machine.load is None:
            return Candidate(machine)
        requests, tokens = self.inflight.reserved(machine.node_id, ask.model)
        blocks = self._prefixes.matched_blocks(machine.node_id, ask.model, machine.generation, ask.prefix_hashes)
        return Candidate(
            machine,
            cached_tokens=min(blocks * self._settings.tokens_per_block, max(0, ask.prompt_tokens - 1)),
            reserved_requests=requests,
            reserved_tokens=tokens,
            recent_failures=self.failures.count(machine.node_id, ask.model, now_s),
            largest_context_tokens=largest,
            requests_ahead=ahead,
        )
