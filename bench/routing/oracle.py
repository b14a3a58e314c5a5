"""The clairvoyant reference: the same scheduler, told the truth.

It sees every machine's state at the moment of the decision instead of its last report, the true contents of every
prefix cache, the prompt tokens that are really left, and the true length of each answer.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from covey_mesh.core.asking import Ask
from covey_mesh.core.facts import Task
from covey_mesh.core.names import NodeId
from covey_scheduler.core.machine import Candidate
from covey_scheduler.core.machine import Machine as KnownMachine
from covey_scheduler.core.prefix import NO_USE, Depths, Use

if TYPE_CHECKING:
    from bench.routing.pool import Pool
    from covey_scheduler.core.scheduler import Scheduler


class TrueCaches:
    """In place of the leader's prefix index."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def matches(self, model: str, hashes: tuple[int, ...]) -> Depths:
        found: Depths = []
        for machine in self._pool.machines:
            coming = {block for each in machine.engine.prompts for block in each.blocks}
            known = 0
            for block in hashes:
                if block not in machine.engine.cache and block not in coming:
                    break
                known += 1
            if known:
                found.append((known, (machine.node_id,)))
        return found

    def held_blocks(self, node_id: NodeId, model: str, generation: tuple[int, int]) -> int:
        return len(self._pool.by_id[node_id].engine.cache)

    def add(self, *assignment: object) -> Use:
        """The caches themselves know."""
        return NO_USE

    def ended(self, *use: object) -> None:
        """The caches themselves know."""

    def keep_only(self, nodes: Collection[NodeId]) -> None:
        """The caches themselves know."""


class TrueLengths:
    """In place of the learned lengths: the simulated gateway puts the truth into max_tokens."""

    def expected(self, ask: Ask, task: Task) -> int:
        return ask.max_output_tokens

    def ended(self, model: str, user: str, output_tokens: int) -> None:
        """Nothing to learn."""


def grant_sight(scheduler: Scheduler, pool: Pool) -> None:
    """Make this leader clairvoyant."""
    account = scheduler._pool
    account._prefixes = TrueCaches(pool)  # type: ignore[assignment]
    account.answers = TrueLengths()  # type: ignore[assignment]
    believed = account._candidate

    def known(model: str, now_s: float, machine: KnownMachine, largest: int) -> Candidate:
        candidate = believed(model, now_s, machine, largest)
        simulated = pool.by_id[machine.node_id]
        left_s = simulated.engine.prompt_tokens_left() / machine.speeds.prefill_tokens_per_s
        places = account.inflight._places.get(machine.node_id, {})
        coming_s = sum(r.prompt_s for place in places.values() for r in place.unreported.values())
        return replace(candidate, prompts_done_at_s=now_s + left_s + coming_s)

    account._candidate = known  # type: ignore[method-assign]
