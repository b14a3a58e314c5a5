"""What the pool offers, from one view: contexts by model, and how a model stands that nobody could be found for."""

from __future__ import annotations

from covey_gateway.core.request_events import ModelStanding
from covey_mesh.core.facts import EngineState, PoolView

COMING = frozenset({EngineState.READY, EngineState.STARTING, EngineState.BACKING_OFF, EngineState.STOPPING})
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
