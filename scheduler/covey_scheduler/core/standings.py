"""All machines for one model as they stand, kept from ask to ask: only what has changed is worked out again.

Not here: what changes them (inflight.py, the view), and anything that depends on the ask beyond its filters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from covey_mesh.core.asking import Ask
from covey_mesh.core.facts import PoolView
from covey_mesh.core.names import NodeId
from covey_scheduler.core.filters import ESTIMATE_SLACK, Rejection, rejection_of
from covey_scheduler.core.machine import Candidate, Machine, largest_context_tokens
from covey_scheduler.core.machine_cache import Seen
from covey_scheduler.core.settings import SchedulerSettings
from covey_scheduler.core.standing import Standing, standing_of

CandidateOf = Callable[[Machine, int], Candidate]
"""(machine, largest context of the pool) -> the machine as it stands."""


class Standings:
    """What it hands out never changes: lists are copied before the next change."""

    def __init__(self, model: str, settings: SchedulerSettings) -> None:
        self._smallest = Ask(request_id="", attempt=0, model=model, prompt_tokens=0, max_output_tokens=1)
        self._settings = settings
        self.source: Sequence[Machine] = ()
        self.view: PoolView | None = None
        """The one that `source` is of; kept here for who refreshes."""
        self._rows: dict[NodeId, tuple[Machine, Standing | Rejection]] = {}
        self._passing: list[Standing] = []
        self._places: dict[NodeId, int] = {}
        self._rejected: list[Rejection] = []
        self._handed_out = False
        self._prompt_tokens_safe = 0
        self._largest = 0

    def refresh(self, seen: Seen, changed: Iterable[NodeId], candidate_of: CandidateOf) -> None:
        """`seen` holds the same machines as long as no report has changed; `changed`: whose account has."""
        if seen.machines is not self.source and not self._renewed(seen, candidate_of):
            self._take_machines(seen.machines, set(changed), candidate_of)
            return
        self._own_list()
        rows, places = self._rows, self._places
        for node_id in changed:
            place = places.get(node_id)
            if place is not None:
                machine = rows[node_id][0]
                row = self._passing[place] = standing_of(candidate_of(machine, self._largest), self._settings)
                rows[node_id] = (machine, row)

    def passing(self, ask: Ask) -> tuple[Sequence[Standing], Sequence[Rejection]]:
        """Who may serve this ask, and everybody else with the reason."""
        self._handed_out = True
        if (ask.longest_prompt_tokens or ask.prompt_tokens) <= self._prompt_tokens_safe and not ask.excluded:
            return self._passing, self._rejected
        passing: list[Standing] = []
        rejected: list[Rejection] = []
        for _, row in self._rows.values():
            rejection = rejection_of(ask, row.candidate)
            if rejection is not None:
                rejected.append(rejection)
            elif isinstance(row, Standing):
                passing.append(row)
        return passing, rejected

    def places(self, machines: Sequence[Standing]) -> Mapping[NodeId, int]:
        """Where each machine stands in this list of those that pass, which was handed out last."""
        if len(machines) == len(self._places):
            return self._places
        return {row.candidate.machine.node_id: place for place, row in enumerate(machines)}

    def _take_machines(self, machines: Sequence[Machine], changed: set[NodeId], candidate_of: CandidateOf) -> None:
        largest = largest_context_tokens(machines)
        all_new = largest != self._largest
        self._largest, self.source = largest, machines
        rows: dict[NodeId, tuple[Machine, Standing | Rejection]] = {}
        for machine in machines:
            old = self._rows.get(machine.node_id)
            if old is None or old[0] is not machine or all_new or machine.node_id in changed:
                old = (machine, self._row(candidate_of(machine, largest)))
            rows[machine.node_id] = old
        self._rows = rows
        self._passing = [row for _, row in rows.values() if isinstance(row, Standing)]
        self._rejected = [row for _, row in rows.values() if isinstance(row, Rejection)]
        self._places = {row.candidate.machine.node_id: place for place, row in enumerate(self._passing)}
        self._handed_out = False
        self._prompt_tokens_safe = min((_prompt_tokens_safe(machine) for machine in machines), default=0)

    def _renewed(self, seen: Seen, candidate_of: CandidateOf) -> bool:
        """Take in the few machines that have reported; False if more than their own rows would change."""
        if seen.before is None or seen.before is not self.source:
            return False
        rows: dict[NodeId, Standing] = {}
        for node_id, machine in seen.renewed.items():
            before, old = self._rows[node_id]
            row = self._row(candidate_of(machine, self._largest))
            if not isinstance(row, Standing) or not isinstance(old, Standing) or _bounds(machine) != _bounds(before):
                return False
            rows[node_id] = row
        self._own_list()
        for node_id, row in rows.items():
            place = self._places[node_id]
            self._rows[node_id] = (seen.renewed[node_id], row)
            self._passing[place] = row
        self.source = seen.machines
        return True

    def _own_list(self) -> None:
        if self._handed_out:
            self._passing = self._passing.copy()
            self._handed_out = False

    def _row(self, candidate: Candidate) -> Standing | Rejection:
        return rejection_of(self._smallest, candidate) or standing_of(candidate, self._settings)


def _bounds(machine: Machine) -> tuple[int, int, bool]:
    """What the other machines' filters and the bound of safe prompts depend on."""
    load = machine.load
    return (0, 0, False) if load is None else (load.max_context_tokens, load.kv_cache_tokens_total, load.ready)


def _prompt_tokens_safe(machine: Machine) -> int:
    """No filter rejects the machine for the length of a prompt up to this."""
    if machine.load is None:
        return 1 << 62
    context, cache = machine.load.max_context_tokens, machine.load.kv_cache_tokens_total
    return min(context or 1 << 62, int(cache * ESTIMATE_SLACK) if cache else 1 << 62)
