"""What the pool offers, from one view: contexts by model, and how a model stands that nobody could be found for."""

from __future__ import annotations

from covey_gateway.core.request_events import ModelStanding
from covey_mesh.core.asking import Decision
from covey_mesh.core.facts import EngineState, PoolView
from covey_scheduler.core.filters import UNREACHABLE

COMING = frozenset(
    {EngineState.READY, EngineState.STARTING, EngineState.WEDGED, EngineState.BACKING_OFF, EngineState.STOPPING}
)
"""States that a short wait may turn into service, here or by another machine's report."""


def contexts(view: PoolView) -> dict[str, int]:
    """Ready model -> largest context in tokens on any reachable machine; 0 where one does not tell."""
    found: dict[str, int] = {}
    untold: set[str] = set()
    for member in view.members.values():
        for load in member.load.models if member.reachable else ():
            if load.ready:
                found[load.model] = max(found.get(load.model, 0), load.max_context_tokens)
                if not load.max_context_tokens:
                    untold.add(load.model)
    return {model: 0 if model in untold else limit for model, limit in found.items()}


def standing(view: PoolView, model: str) -> ModelStanding:
    """Unreachable machines count as hope: their link may be about to come back."""
    states = [load.state for member in view.members.values() for load in member.load.models if load.model == model]
    ready = contexts(view)
    return ModelStanding(
        known=bool(states),
        hopeful=any(state in COMING for state in states),
        context_tokens=ready.get(model, 0),
        offered=tuple(sorted(ready)),
    )


def leader_is_blind(view: PoolView, decision: Decision | None) -> bool:
    """True if every machine was rejected, and one that the leader does not reach is ready and reached from here."""
    if decision is None or any(not v.rejected_because or v.first_token_s is not None for v in decision.candidates):
        return False
    unreached = [v.node_id for v in decision.candidates if v.rejected_because == UNREACHABLE]
    found = [view.members[node_id] for node_id in unreached if node_id in view.members]
    return any(m.reachable and (load := m.load.model(decision.model)) is not None and load.ready for m in found)
